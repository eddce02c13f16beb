"""What has become of DAG runs and of tries of tasks, by Airflow's word; asked by ``tracklayer reconcile``."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tracklayer.context import State
from tracklayer.store.endpoint import without_credentials
from tracklayer_airflow.api import URL_VARIABLE, AirflowUnavailable, can_be_asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.context import TaskRun, Truth, WorkflowRun
    from tracklayer_airflow.api import Api

log = logging.getLogger("tracklayer")

URL_TAG: Final = "airflow.dag_run_url"
"""Name of the tag with the address of the DAG run's page, as the Airflow that ran it calls itself."""

DAG_RUN: Final[Mapping[str, Truth]] = {
    "queued": "RUNNING",
    "running": "RUNNING",
    "success": "FINISHED",
    "failed": "FAILED",
}

TASK: Final[Mapping[str, Truth]] = {
    "success": "FINISHED",
    "skipped": "FINISHED",
    "failed": "FAILED",
    "upstream_failed": "FAILED",
    "up_for_retry": "FAILED",  # this try has failed; the next one is a run of its own
    "restarting": "KILLED",
    "removed": "KILLED",
    "running": "RUNNING",
    "queued": "RUNNING",
    "scheduled": "RUNNING",
    "deferred": "RUNNING",
    "up_for_reschedule": "RUNNING",
}


def of_dag_run(workflow_run: WorkflowRun) -> State | None:
    """What has become of a DAG run.

    Returns:
        ``GONE`` if Airflow knows the DAG and not the run, or if the DAG itself was deleted and the run's own tag says
        that it was this Airflow's; None if it is or may be another installation's, or if its API has no path for such an id.

    Raises:
        tracklayer_airflow.api.AirflowUnavailable: Airflow cannot be asked, or nobody says where it is.
    """
    airflow = _airflow(workflow_run)
    if airflow is None or not can_be_asked(workflow_run.workflow, workflow_run.run_id):
        return None
    found = airflow.dag_run(workflow_run.workflow, workflow_run.run_id)
    if found is None:
        known = airflow.has_dag(workflow_run.workflow) or _was_of(airflow, workflow_run)
        return State(status="GONE") if known else None
    return _state(found, DAG_RUN)


def of_try(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What has become of one try of a task; None if Airflow does not know it.

    Raises:
        tracklayer_airflow.api.AirflowUnavailable: Airflow cannot be asked, or nobody says where it is.
    """
    index = -1 if task_run.index is None else int(task_run.index) if task_run.index.isdecimal() else None
    askable = index is not None and can_be_asked(workflow_run.workflow, workflow_run.run_id, task_run.task)
    airflow = _airflow(workflow_run) if askable else None
    if airflow is None or index is None:
        return None
    found = airflow.task_try(workflow_run.workflow, workflow_run.run_id, task_run.task, index, task_run.try_number)
    return None if found is None else _state(found, TASK)


def _airflow(workflow_run: WorkflowRun) -> Api | None:
    from tracklayer import settings as settings_module
    from tracklayer_airflow.api import api
    from tracklayer_airflow.settings import airflow_settings

    settings = settings_module.load()
    if workflow_run.instance != settings.instance:
        return None
    airflow = api(airflow_settings(settings))
    if airflow is None:  # which is no answer: whoever reconciles is not to believe that nothing is left to do
        raise AirflowUnavailable(
            "nothing says where Airflow is: set api_url in [airflow], or TRACKLAYER_AIRFLOW_API_URL, to the address of its "
            "API server"
        )
    return airflow


def _was_of(airflow: Api, workflow_run: WorkflowRun) -> bool:
    """Whether a DAG run of a DAG that this Airflow does not know was once its own, as its run in MLflow says.

    Any other Airflow that is tracked at the same MLflow server, and was given no `instance` of its own, has DAGs that this
    one does not know, and they run.
    """
    page = workflow_run.tags.get(URL_TAG, "")
    if any(_is_below(page, address) for address in airflow.addresses):
        return True
    made_at = without_credentials(page).partition("/dags/")[0]
    _say_that_a_dag_is_unknown(workflow_run.workflow, airflow.url, made_at)
    return False


def _is_below(page: str, address: str) -> bool:
    """Whether a page is one of the Airflow at this address. Loopback is the same on every machine, and proves nothing.

    >>> _is_below("https://airflow.example.com/dags/flights/runs/r1", "https://Airflow.example.com/")
    True
    >>> _is_below("http://localhost:8080/dags/flights/runs/r1", "http://localhost:8080")
    False
    """
    try:
        here, there = urlsplit(page), urlsplit(address)
        host = there.hostname or ""
    except ValueError:
        return False
    if not host or host == "localhost" or _is_loopback(host):
        return False
    return here.netloc.lower() == there.netloc.lower() and here.path.startswith(f"{there.path.rstrip('/')}/dags/")


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:  # a name
        return False
    return address.is_loopback or address.is_unspecified


@lru_cache(maxsize=256)
def _say_that_a_dag_is_unknown(dag_id: str, url: str, made_at: str) -> None:
    log.warning(
        "Airflow at %s knows no DAG %r, whose open runs were made by the Airflow at %s. If that is the same one and has "
        "deleted the DAG, say so here by its variable %s; an address of loopback proves nothing",
        url,
        dag_id,
        made_at or "an address that they do not tell",
        URL_VARIABLE,
    )


def _state(found: Mapping[str, Any], states: Mapping[str, Truth]) -> State:
    word = found.get("state")
    status = states.get(str(word), "RUNNING")  # a task without a state has not been scheduled yet
    ended_at = found.get("end_date") if status != "RUNNING" else None
    return State(
        status=status,
        ended_at=_moment(ended_at),
        said=str(word) if word else None,
        note="skipped" if word == "skipped" else None,
    )


def _moment(text: object) -> datetime | None:
    """A moment that Airflow tells, in UTC if it does not say where; None if it cannot be read: the state still holds."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
