"""One try of a tracked task, from the operator's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tracklayer import settings as settings_module
from tracklayer.backend import tracking_uri
from tracklayer.exceptions import SettingsError
from tracklayer.fence import fence
from tracklayer.tracking import track
from tracklayer_airflow import handover, place
from tracklayer_airflow.links import URL_XCOM
from tracklayer_airflow.outcome import of_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracklayer.context import RunContext
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun
    from tracklayer_airflow.operators import Tracked


def run_tracked(operator: Tracked, task: Mapping[str, Any], work: Callable[[], Any]) -> Any:
    """Do `work` inside the stage run of the try that runs in Airflow's task context `task`; return what it returns.

    Raises:
        BaseException: whatever `work` raises, unchanged. Tracking raises nothing, unless ``on_error = "raise"``.
    """
    try:
        settings = settings_module.load()
    except SettingsError:
        return _untracked(operator, work, None)  # `track` says what is wrong
    if not settings.enabled or tracking_uri(settings) is None:
        return _untracked(operator, work, settings)
    context: RunContext | None = None
    with fence("finding out where this task runs", settings.on_error):
        context = place.run_context(task, settings)
    if context is None:
        return _untracked(operator, work, msgspec.structs.replace(settings, enabled=False))
    with track(
        operator.stage,
        context=context,
        run_name=operator.run_name,
        tags=operator.run_tags,
        experiment=operator.experiment,
        outcome=of_task,
        settings=settings,
    ) as run:
        _link(operator, task, run, settings)
        result = work()
        if run.token is not None:
            with fence("handing over by assets", settings.on_error):
                handover.fill_outlets(task, run.token)
        return result


def _untracked(operator: Tracked, work: Callable[[], Any], settings: Settings | None) -> Any:
    """Do `work` untracked; there is a current run all the same, for user code that asks for it, and it does nothing."""
    operator.operator_extra_links = ()  # of this instance: no empty link is to be stored for it
    with track(operator.stage, settings=settings):
        return work()


def _link(operator: Tracked, task: Mapping[str, Any], run: StageRun, settings: Settings) -> None:
    """Make the link on the task's page live at once; Airflow itself stores it only when the task has ended."""
    operator.mlflow_run_url = run.url
    if run.url is None:
        operator.operator_extra_links = ()
        return
    with fence("linking the run on the task's page", settings.on_error):
        from airflow.sdk.bases.xcom import BaseXCom

        ti = task["ti"]
        # As Airflow does at the end of the task: past a custom XCom backend, since the web server reads it raw.
        store = getattr(BaseXCom, "_set_xcom_in_db", BaseXCom.set)
        store(
            key=URL_XCOM, value=run.url, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
        )
