"""The button on a task's page that opens its run in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

URL_XCOM: Final = "tracklayer_url"
"""Key of the XCom that holds the address of the run's page; pushed when the run is opened, so that the link is live
while the task runs, and once more by Airflow itself when the task has ended."""


class MLflowRunLink(BaseOperatorLink):
    """Link from a task (mapped ones too) to its run in MLflow."""

    name = "MLflow run"
    xcom_key = URL_XCOM

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  # Airflow's signature
        """Address of the run's page.

        Airflow calls this in the task's process when the task has ended, with the very operator that ran, and
        stores the answer as XCom; the web server only reads that XCom.
        """
        url = getattr(operator, "mlflow_run_url", None)
        return url if isinstance(url, str) else ""
