"""What has become of DAG runs and of tries of tasks, by Airflow's word; asked by ``tracklayer reconcile``."""

from __future__ import annotations

import logging
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.context import TaskRun, Truth, WorkflowRun
    from tracklayer_airflow.api import Api

log = logging.getLogger("tracklayer")

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
        ``GONE`` if Airflow knows the DAG and not the run; None if it is another installation's, or if nobody says
        where Airflow is.

    Raises:
        tracklayer_airflow.api.AirflowUnavailable: Airflow cannot be asked.
    """
    airflow = _airflow(workflow_run)
    if airflow is None:
        return None
    found = airflow.dag_run(workflow_run.workflow, workflow_run.run_id)
    if found is None:
        return State(status="GONE") if airflow.has_dag(workflow_run.workflow) else None
    return _state(found, DAG_RUN)


def of_try(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What has become of one try of a task; None if Airflow does not know it.

    Raises:
        tracklayer_airflow.api.AirflowUnavailable: Airflow cannot be asked.
    """
    index = -1 if task_run.index is None else int(task_run.index) if task_run.index.isdecimal() else None
    airflow = _airflow(workflow_run) if index is not None else None
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
    if airflow is None:
        _say_that_nobody_is_asked()
    return airflow


@lru_cache(maxsize=1)
def _say_that_nobody_is_asked() -> None:
    log.warning(
        "Airflow is not asked about its DAG runs, because nothing says where it is: set api_url in [airflow], or "
        "TRACKLAYER_AIRFLOW_API_URL, to the address of its API server"
    )


def _state(found: Mapping[str, Any], states: Mapping[str, Truth]) -> State:
    word = found.get("state")
    status = states.get(str(word), "RUNNING")  # a task without a state has not been scheduled yet
    ended_at = found.get("end_date") if status != "RUNNING" else None
    return State(
        status=status,
        ended_at=datetime.fromisoformat(ended_at) if isinstance(ended_at, str) else None,
        said=str(word) if word else None,
        note="skipped" if word == "skipped" else None,
    )
