"""The tab "MLflow" on a DAG run's page of Airflow, with links to its run and those of its tasks.

Airflow's pages load a component (``pages/dag_run.js``) from an application that is mounted in its API server. That
application gives out this one file and nothing else, to whoever asks; what the component shows it asks Airflow's own
API for, as the user who looks at the page.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fastapi import FastAPI

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


def application() -> FastAPI:
    """The application that gives out the component's file."""
    from fastapi import FastAPI
    from fastapi.responses import Response

    content = files("tracklayer_airflow").joinpath("pages", FILE).read_bytes()
    app = FastAPI(title="tracklayer", openapi_url=None)

    @app.get(f"/{FILE}")
    def component() -> Any:
        headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type="text/javascript", headers=headers)

    return app
