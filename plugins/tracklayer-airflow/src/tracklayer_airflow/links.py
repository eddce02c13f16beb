"""The buttons on a task's page that open its run in MLflow, and the DAG run's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseOperatorLink

from tracklayer_airflow.supervisor import tell
from tracklayer_airflow.workflow import PARENT_URL_XCOM

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
        return _kept(operator, self.xcom_key)


class MLflowParentLink(BaseOperatorLink):
    """Link from a task to its DAG run's run in MLflow, the parent of all stage runs; live when the task has ended.

    On the DAG run's own page, where operators have no links, it is in a tab (`tracklayer_airflow.tab`).
    """

    name = "MLflow DAG run"
    xcom_key = PARENT_URL_XCOM

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  # Airflow's signature
        """Address of the parent's page; called as that of `MLflowRunLink` is."""
        return _kept(operator, self.xcom_key)


def keep_url(operator: Any, url: str | None, key: str = URL_XCOM) -> None:
    """Keep the address of a run's page on this instance, for the link with that key, past what its class has for itself."""
    vars(operator)[f"_{key}"] = url


def _kept(operator: Any, key: str) -> str:
    return getattr(operator, "__dict__", {}).get(f"_{key}") or ""


def without_links(operator: Any, *kinds: type) -> None:
    """Take links of these kinds, or all of ours, from this instance: no empty link is to be stored for it."""
    kinds = kinds or (MLflowRunLink, MLflowParentLink)
    operator.operator_extra_links = tuple(one for one in operator.operator_extra_links if not isinstance(one, kinds))


def push_url(ti: Any, url: str, key: str = URL_XCOM) -> None:
    """Store the address of a run's page where the web server looks for it, for the task instance `ti` that runs here.

    At the end of the task where Airflow cannot be told now.

    Args:
        ti: the task instance.
        url: the address.
        key: `URL_XCOM` for the task's own run, `PARENT_URL_XCOM` for that of its DAG run.
    """
    from airflow.sdk.bases.xcom import BaseXCom

    # As Airflow does at the end of the task: past a custom XCom backend, since the web server reads it raw.
    store = getattr(BaseXCom, "_set_xcom_in_db", BaseXCom.set)
    of = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    tell(ti, partial(store, key=key, value=url, **of))


def take_url(ti: Any, key: str = URL_XCOM) -> None:
    """Take away what Airflow has stored for a link of a task that has no run, where there was no time to take the link."""
    from airflow.sdk.bases.xcom import BaseXCom

    BaseXCom.delete(key=key, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index)
