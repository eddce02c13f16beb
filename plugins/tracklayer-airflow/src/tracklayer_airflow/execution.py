"""One try of a tracked task, from the operator's side."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from tracklayer import settings as settings_module
from tracklayer.backend import page_url, tracking_uri
from tracklayer.exceptions import SettingsError
from tracklayer.fence import fence
from tracklayer.provisional import is_provisional
from tracklayer.singleton import singleton
from tracklayer.tracking import track
from tracklayer_airflow import awaited, carriers, handover, place, server
from tracklayer_airflow.links import MLflowParentLink, push_url, without_links
from tracklayer_airflow.outcome import of_task
from tracklayer_airflow.workflow import PARENT_URL_XCOM

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
    if not settings.enabled:
        return _untracked(operator, work, settings)
    with ExitStack() as stack:
        usable: Settings | None = None
        with fence("finding the MLflow server", settings.on_error):
            conn_id = server.connection_id(settings)
            if conn_id is not None:
                stack.enter_context(server.of_task(conn_id))
            usable = settings if conn_id is None else settings_module.load()
        if usable is None:  # and not tracked anywhere else
            return _untracked(operator, work, msgspec.structs.replace(settings, enabled=False))
        if tracking_uri(usable) is None:
            return _untracked(operator, work, usable)
        return _in_stage(operator, task, work, usable)


def _in_stage(operator: Tracked, task: Mapping[str, Any], work: Callable[[], Any], settings: Settings) -> Any:
    context: RunContext | None = None
    with fence("finding out where this task runs", settings.on_error):
        context = place.run_context(task, settings)
    if context is None:
        return _untracked(operator, work, msgspec.structs.replace(settings, enabled=False))
    with track(
        operator.tracking_argument("stage"),
        context=context,
        run_name=operator.tracking_argument("run_name"),
        tags=operator.tracking_argument("run_tags"),
        experiment=operator.tracking_argument("experiment"),
        outcome=of_task,
        settings=settings,
    ) as run:
        _last().value = _place(task["ti"]), run
        _link(operator, task, run, settings)
        with carriers.loaded(operator, run.environment()):
            result = work()
        if run.token is not None:
            with fence("linking what the task has waited for", settings.on_error):
                for upstream in awaited.upstream(operator, task):
                    run.link(upstream)
            with fence("handing over by assets", settings.on_error):
                handover.fill_outlets(task, run.token)
        return result


def fail_last(ti: Any, error: BaseException | str) -> None:
    """The try `ti` has failed: if its run was the last one of this process and ended ``FINISHED``, it failed after that.

    Args:
        ti: the task instance.
        error: what it failed with.
    """
    value, _last().value = _last().value, None
    if value is not None and value[0] == _place(ti):
        value[1].fail(error)


def _place(ti: Any) -> tuple[object, ...]:
    return (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)


class _Last:
    """The last try that was tracked in this process, and its run."""

    def __init__(self) -> None:
        self.value: tuple[tuple[object, ...], StageRun] | None = None


@singleton
def _last() -> _Last:
    return _Last()


def _untracked(operator: Tracked, work: Callable[[], Any], settings: Settings | None) -> Any:
    """Do `work` untracked; there is a current run all the same, for user code that asks for it, and it does nothing."""
    with fence("taking the links from the task's page", "log"):
        without_links(operator)
    with track(operator.tracking_argument("stage"), settings=settings):
        return work()


def _link(operator: Tracked, task: Mapping[str, Any], run: StageRun, settings: Settings) -> None:
    """Make the link on the task's page live at once; Airflow itself stores it only when the task has ended."""
    operator.mlflow_run_url = run.url
    with fence("linking the run on the task's page", settings.on_error):
        parent = run.parent
        if run.url is None:
            without_links(operator)
            return
        if parent is not None and not is_provisional(parent.run_id):
            operator.mlflow_parent_url = page_url(settings, run.tracking_uri or "", parent)
        else:
            without_links(operator, MLflowParentLink)
        push_url(task["ti"], run.url)
        if operator.mlflow_parent_url and run.context.parent is None:  # one of the first tasks: for the DAG run's page
            push_url(task["ti"], operator.mlflow_parent_url, PARENT_URL_XCOM)
