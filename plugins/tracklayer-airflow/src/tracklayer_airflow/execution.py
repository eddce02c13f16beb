"""One try of a tracked task, from the operator's side."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tracklayer import settings as settings_module
from tracklayer.backend import page_url, tracking_uri
from tracklayer.fence import fence
from tracklayer.interruption import let_through
from tracklayer.outcome import OUTCOME_TAG
from tracklayer.provisional import is_provisional
from tracklayer.singleton import singleton
from tracklayer.tracking import track
from tracklayer_airflow import awaited, carriers, handover, place, server
from tracklayer_airflow.links import MLflowParentLink, keep_url, push_url, without_links
from tracklayer_airflow.outcome import SKIPPED, of_task
from tracklayer_airflow.own_arguments import for_stage, kept
from tracklayer_airflow.untracked import run_untracked
from tracklayer_airflow.workflow import PARENT_URL_XCOM
from tracklayer_airflow.working import place as place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracklayer.context import RunContext
    from tracklayer.outcome import Outcome
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun
    from tracklayer_airflow.operators import Tracked


def run_tracked(operator: Tracked, task: Mapping[str, Any], work: Callable[[], Any], *, begun: bool = True) -> Any:
    """Do `work` inside the stage run of the try that runs in Airflow's task context `task`; return what it returns.

    Args:
        operator: the operator.
        task: Airflow's task context.
        work: what it does.
        begun: False if Airflow has not come so far as to execute the operator, which may not be rendered then.

    Raises:
        BaseException: whatever `work` raises, unchanged. Tracking raises nothing, unless ``on_error = "raise"``.
    """
    settings: Settings | None = None
    try:
        settings = settings_module.load()
    except Exception as error:  # `track` says what is wrong
        let_through(error)
    if settings is None or not settings.enabled:
        return _untracked(operator, work, settings)
    with ExitStack() as stack:
        usable: Settings | None = None
        named = False
        with fence("finding the MLflow server", settings.on_error):
            conn_id = server.connection_id(settings)
            if conn_id is not None:
                stack.enter_context(server.of_task(conn_id))
            found = settings if conn_id is None else settings_module.load()
            named = tracking_uri(found) is not None
            usable = found
        if usable is None:  # and not tracked anywhere else; the log has said why
            return run_untracked(operator, work, on=False)
        if not named:
            return _untracked(operator, work, usable)
        return _in_stage(operator, task, work, usable, begun=begun)


def _in_stage(
    operator: Tracked, task: Mapping[str, Any], work: Callable[[], Any], settings: Settings, *, begun: bool
) -> Any:
    context: RunContext | None = None
    with fence("finding out where this task runs", settings.on_error):
        context = place.run_context(task, settings)
    if context is None:  # the log has said why
        return run_untracked(operator, work, on=False)
    told = for_stage(operator, context, settings, begun=begun)
    if not begun:
        context = place.without_templates(context)
    with track(**told, context=context, outcome=_outcome, settings=settings) as run:
        environment: Mapping[str, str] = {}
        _last().value, _last().note = (place_of(task["ti"]), run), None
        _link(operator if begun else None, task, run, settings)
        with fence("telling what the task starts of its run", settings.on_error):
            environment = run.environment()
        with carriers.loaded(operator, environment):
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
    if value is not None and value[0] == place_of(ti):
        value[1].fail(error)


def skip_last(ti: Any) -> None:
    """The try `ti` is skipped; arguments as of `fail_last`.

    Not by an exception of its own: it was to trigger a DAG run that is there already (``skip_when_already_exists``).
    """
    last = _last()
    if last.value is not None and last.value[0] == place_of(ti) and last.note != SKIPPED:
        last.value[1].set_tags({OUTCOME_TAG: SKIPPED})


def end_before(ti: Any, error: BaseException | str | None) -> None:
    """The try `ti` was over before its operator's work began: it gets a run that ends as it did.

    Args:
        ti: the task instance. Its templates may not be rendered, and a mapped task not be expanded.
        error: what it failed with; None: it was skipped.
    """
    try:
        from airflow.sdk.exceptions import AirflowSkipException
    except ImportError:  # Airflow 3.1
        from airflow.exceptions import AirflowSkipException  # type: ignore[no-redef]

    ended = AirflowSkipException() if error is None else error
    if not isinstance(ended, BaseException):
        ended = RuntimeError(ended)
    trace = ended.__traceback__

    def end() -> None:
        raise ended

    try:
        run_tracked(ti.task, ti.get_template_context(), end, begun=False)
    except BaseException as raised:
        if raised is not ended:
            raise
    finally:
        ended.__traceback__ = trace  # Airflow may still mail it


class _Last:
    """The last try that was tracked in this process, and its run."""

    def __init__(self) -> None:
        self.value: tuple[tuple[object, ...], StageRun] | None = None
        self.note: str | None = None
        """What is noted of its end, if an exception ended it."""


@singleton
def _last() -> _Last:
    return _Last()


def _outcome(error: BaseException) -> Outcome:
    found = of_task(error)
    _last().note = found.note
    return found


def _untracked(operator: Tracked, work: Callable[[], Any], settings: Settings | None) -> Any:
    """Do `work` untracked; there is a current run all the same, for user code that asks for it, and it does nothing."""
    with fence("taking the links from the task's page", "log"):
        without_links(operator)
    with track(kept(operator, "stage"), settings=settings):
        return work()


def _link(operator: Tracked | None, task: Mapping[str, Any], run: StageRun, settings: Settings) -> None:
    """Make the link on the task's page live at once; Airflow itself stores it only when the task has ended.

    Args:
        operator: whom Airflow will ask for it then; None if it has asked already.
        task: Airflow's task context.
        run: the task's run.
        settings: the settings.
    """
    with fence("linking the run on the task's page", settings.on_error):
        parent, url = run.parent, None
        if parent is not None and not is_provisional(parent.run_id):
            url = page_url(settings, run.tracking_uri or "", parent)
        if operator is not None:
            keep_url(operator, run.url)
            keep_url(operator, url, PARENT_URL_XCOM)
            if run.url is None:
                without_links(operator)
            elif url is None:
                without_links(operator, MLflowParentLink)
        if run.url is None:
            return
        push_url(task["ti"], run.url)
        if url and run.context.parent is None:  # one of the first tasks: for the DAG run's page
            push_url(task["ti"], url, PARENT_URL_XCOM)
