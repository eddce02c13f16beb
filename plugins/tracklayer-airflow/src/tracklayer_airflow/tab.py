"""The tab "MLflow" on a DAG run's page of Airflow, with links to its run and those of its tasks.

Airflow's pages load a component (``pages/dag_run.js``) from an application that is mounted in its API server. What the
component shows it asks Airflow's own API for, as the user who looks at the page.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "/tracklayer"
"""Where the application is mounted."""

FILE: Final = "dag_run.js"

REACT_APP: Final = {
    "name": "MLflow",
    "bundle_url": f"{PREFIX.lstrip('/')}/{FILE}",  # below Airflow's own address, whatever that is
    "destination": "dag_run",
    "url_route": "mlflow",
}
"""What Airflow wants to know of the component (``AirflowPlugin.react_apps``)."""
