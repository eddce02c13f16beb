"""The life of a stage run: opened around user code, made current, ended as the code ended.

This is what orchestrator plugins and users call. Whatever fails in here is logged and never raised (setting
``on_error = "raise"`` for those who want it): a tracked pipeline ends as it would have ended untracked.
"""

from __future__ import annotations

import atexit
import os
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from tracklayer import dispatch, registry
from tracklayer import settings as settings_module
from tracklayer.announcing import announce
from tracklayer.arguments import check
from tracklayer.backend import Backend, open_backend
from tracklayer.context import SCRIPT, RunContext, RunRef, State, Status, TaskRun, WorkflowRun
from tracklayer.current import enclosing_run, entered, nearest_tracked, open_stages
from tracklayer.ending import LEFT_OPEN, RealEnd
from tracklayer.exceptions import SettingsError, StoreUnavailable
from tracklayer.fence import OnError, fence, log
from tracklayer.identity import run_key, workflow_run_key
from tracklayer.interruption import let_through
from tracklayer.journal.operations import Close, Lost
from tracklayer.journal.recorders import recorder_of
from tracklayer.linking import ref_of
from tracklayer.opening import milliseconds
from tracklayer.outcome import Outcome, of_exception
from tracklayer.preparation import prepare
from tracklayer.provisional import is_provisional
from tracklayer.redaction import Redaction
from tracklayer.scripts import has_failed, script_context, stage_left
from tracklayer.settings import Settings
from tracklayer.singleton import singleton
from tracklayer.stage import ERROR_LENGTH, StageRun
from tracklayer.untracked import current_run  # here, so that nothing of it is to be imported inside a stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    import pluggy

__all__ = [
    "Outcome",
    "close_workflow_run",
    "current_run",
    "find_run",
    "open_stage",
    "open_workflow_run",
    "track",
]


@contextmanager
def track(
    stage: str | None = None,
    *,
    context: RunContext | None = None,
    run_name: str | None = None,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    experiment: str | None = None,
    tracking_uri: str | None = None,
    on_error: OnError | None = None,
    outcome: Callable[[BaseException], Outcome] | None = None,
    settings: Settings | None = None,
) -> Iterator[StageRun]:
    """Track the block as one stage run.

    Inside an orchestrator's task the run goes under the parent of the workflow run; elsewhere the script or notebook
    is a workflow of its own. Within another stage's block it is nested below that stage's run. ``mlflow.*`` calls and
    autologging in the block land in the run.

    Args:
        stage: what the block is for (``data-prep``, ``training``, ``evaluation``, or a name of your own); None lets
            plugins and the task's name decide.
        context: where the code runs; None asks the orchestrator plugins. Meant for plugins.
        run_name: the run's name; None lets plugins and the template decide.
        params: params to log from the start; they can be embedded in the run's name.
        tags: tags to set from the start.
        experiment: a name or template in place of the setting ``experiment``; with a task's `context` the name of the
            stage run's own experiment, taken literally.
        tracking_uri: in place of the setting ``tracking_uri``.
        on_error: in place of the setting ``on_error``.
        outcome: how the run ended by the exception that left the block; None: any `Exception` or exit code is a
            failure, an interruption is a kill.
        settings: all settings at once; None loads them.

    Yields:
        The stage run. It is there, and can be called, also when tracking is off or the server cannot be reached.

    Raises:
        TracklayerError: only with ``on_error = "raise"``. The block's own exceptions pass unchanged.

    Example:
        ::

            with tracklayer.track(stage="training", params={"lr": 0.1}) as run:
                run.log_metrics({"auc": 0.91})
    """
    overrides = {"experiment": experiment, "tracking_uri": tracking_uri, "on_error": on_error}
    own: str | None = None
    if getattr(context, "task_run", None) is not None:
        # Where a plugin says where the code runs, the workflow run has a parent of its own, for others too: it stays at home.
        own = overrides.pop("experiment")
    resolved = _settings(settings, {name: value for name, value in overrides.items() if value is not None})
    run = open_stage(
        stage,
        context=context,
        run_name=run_name,
        params=params,
        tags=tags,
        experiment=own,
        outcome=outcome,
        settings=resolved,
    )
    try:
        with entered(run):
            try:
                yield run
            except BaseException as error:
                _end_with(error, run, outcome)
                raise
            run.end("FINISHED")
    except BaseException as error:
        if run.is_open:  # a signal handler's, on the way in
            _end_with(error, run, outcome)
        if run.outer is None:
            stage_left(error)
        raise
    if run.outer is None:
        stage_left(None)


def open_stage(
    stage: str | None = None,
    *,
    context: RunContext | None = None,
    run_name: str | None = None,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    experiment: str | None = None,
    outcome: Callable[[BaseException], Outcome] | None = None,
    settings: Settings | None = None,
) -> StageRun:
    """Open a stage run without making it current: the first of the parts of which `track` is made.

    For plugins that open a run in one thread and run user code in another (async tasks, generators). The others are
    `tracklayer.current.entered` around the user's code, and `StageRun.end`.

    Args:
        stage: see `track`, as for the others. With a context that has no task, the run is the workflow run's parent
            itself: what is logged on it lands there, and its end is that of the workflow run.
        context: None asks the orchestrator plugins.
        run_name: the run's name.
        params: params to log from the start.
        tags: tags to set from the start.
        experiment: the experiment's name, taken literally and no template; None: hooks and the setting decide.
        outcome: see `track`; asked only if opening is interrupted (a time-out by signal, Ctrl-C), which ends the run.
        settings: None loads them.

    Returns:
        The stage run, opened; without a run id where tracking is off.
    """
    resolved = _settings(settings, {})
    run = _stage_run(
        resolved,
        stage,
        context,
        run_name=run_name,
        params=params,
        tags=tags,
        experiment=experiment,
        outcome=outcome,
    )
    try:
        run.open()
    except BaseException as error:
        _end_with(error, run, outcome)
        raise
    return run


def find_run(tag: str, *, settings: Settings | None = None) -> RunRef | None:
    """The newest live run, in whatever experiment, that carries the tag `tag`; by name, so in one indexed look-up.

    For plugins that have to find a run again by something of their orchestrator's (a cache key, a job id): they tag
    the run with a name that ends with its hash.

    Args:
        tag: the tag's whole name.
        settings: None loads them.

    Returns:
        None if there is no such run, tracking is off, or the server cannot be reached.
    """
    resolved = _settings(settings, {})
    with fence("looking for a run", resolved.on_error):
        backend = open_backend(resolved)
        if backend is not None:
            order = ["attributes.start_time DESC"]
            runs = backend.store.search_runs([], f"tags.`{tag}` != ''", order_by=order, limit=1)
            return ref_of(runs[0]) if runs else None
    return None


def open_workflow_run(context: RunContext, *, settings: Settings | None = None) -> RunRef | None:
    """Find or make the parent of a workflow run, for orchestrators that have one place to do it.

    Args:
        context: the workflow run; ``owns_workflow_run`` says that no other process can be doing the same.
        settings: None loads them.

    Returns:
        The parent, perhaps under a provisional id; None when tracking is off.
    """
    resolved = _settings(settings, {})
    with fence("opening the workflow run", resolved.on_error):
        backend = open_backend(resolved)
        if backend is not None:
            plugins = registry.load(resolved)
            preparation = prepare(context.of_workflow_run(), resolved, plugins)
            recorder = recorder_of(backend, resolved)
            opened = recorder.begin(preparation.opening, wait=resolved.patience, strict=resolved.on_error == "raise")
            announce(preparation, opened, plugins)
            return opened.ref
    return None


def close_workflow_run(
    context: RunContext,
    status: Status,
    *,
    parent: RunRef | None = None,
    error: str | None = None,
    ended_at: datetime | None = None,
    observed: bool = False,
    perhaps: bool = False,
    told: Iterable[tuple[TaskRun, State]] = (),
    settings: Settings | None = None,
) -> None:
    """End the parent of a workflow run with `status`; stage runs that are still RUNNING are ended as told, or KILLED.

    Safe to repeat, and to call for a workflow run of which nothing was tracked, or that goes on meanwhile: stage runs
    that have started after `ended_at` are left alone.

    Args:
        context: the workflow run.
        status: how the orchestrator says that it ended.
        parent: the parent if it is known, else it is found by key.
        error: what it failed with; becomes a tag of the parent.
        ended_at: when it ended, aware; None is now.
        observed: True if runs of observed tasks may be among those of the workflow run, see `tracklayer.observation`:
            they end a moment after their tasks.
        perhaps: True if `parent` is only what it would be called, since nobody knows whether anything was tracked.
        told: how tries ended of which no process was there then, as the orchestrator says (a trigger ended them).
        settings: None loads them.
    """
    resolved = _settings(settings, {})
    with fence("ending the workflow run", resolved.on_error):
        backend = open_backend(resolved)
        if backend is not None:
            recorder = recorder_of(backend, resolved)
            message = None if error is None else str(Redaction(resolved.redact).mask("error", error))[:ERROR_LENGTH]
            recorder.append(
                Close(
                    context=context.of_workflow_run().bare(),
                    status=status,
                    ended_at=milliseconds(ended_at),
                    parent=parent,
                    error=message,
                    observed=observed,
                    perhaps=perhaps,
                    told=_told(context, told),
                )
            )
            if not recorder.drain() and resolved.on_error == "raise":
                raise StoreUnavailable(f"the end of the workflow run could not be sent to {backend.store.uri} yet")


def _told(context: RunContext, told: Iterable[tuple[TaskRun, State]]) -> dict[str, RealEnd]:
    """What an orchestrator has told of tries that have ended, by key."""
    return {
        run_key(replace(context, task_run=task_run)): RealEnd(
            cast("Status", state.status), milliseconds(state.ended_at), state.note
        )
        for task_run, state in told
        if state.status not in {"RUNNING", "GONE"}
    }


def give_up_task_run(context: RunContext, *, settings: Settings | None = None) -> None:
    """The orchestrator has given a try up whose process it has lost: its runs, if nobody ends them soon, end KILLED.

    In the background, after `tracklayer.journal.endings.LOST` milliseconds: until then the process may end them by
    itself, or somebody may find its journal. Safe to repeat, and to call for a try of which nothing was tracked.

    Args:
        context: the try.
        settings: None loads them.
    """
    resolved = _settings(settings, {})
    with fence("ending a lost try", resolved.on_error):
        backend = open_backend(resolved)
        if backend is not None:
            recorder_of(backend, resolved).append(Lost(context.bare(), milliseconds(None)))


def deliver_left_behind(*, settings: Settings | None = None) -> None:
    """Have delivered what other processes of this machine left behind; the runs of those that died are ended KILLED.

    In the background, and only if the last look is half a minute ago. Processes that track something do it by
    themselves; this is for one that lives long and seldom does.

    Args:
        settings: None loads them.
    """
    resolved = _settings(settings, {})
    with fence("delivering what was left behind", resolved.on_error):
        backend = open_backend(resolved)
        if backend is not None:
            recorder_of(backend, resolved).look_around()


def _settings(settings: Settings | None, overrides: Mapping[str, Any]) -> Settings:
    """The settings; where they are wrong, tracking is off and says why, unless the caller wants it raised."""
    try:
        return settings_module.load(overrides) if settings is None else settings_module.replaced(settings, overrides)
    except Exception as error:
        let_through(error)
        asked = (
            overrides.get("on_error") or getattr(settings, "on_error", None) or os.environ.get("TRACKLAYER_ON_ERROR")
        )
        if asked == "raise":
            raise
        known = isinstance(error, SettingsError)
        log.error("tracking is off, because of the settings: %s", error, exc_info=None if known else error)
        return Settings(enabled=False)


def _stage_run(
    settings: Settings,
    stage: str | None,
    context: RunContext | None,
    *,
    run_name: str | None,
    params: Mapping[str, object] | None,
    tags: Mapping[str, str] | None,
    experiment: str | None,
    outcome: Callable[[BaseException], Outcome] | None,
) -> StageRun:
    """The stage run, not opened yet; an untracked one where anything stands against it."""
    nowhere = WorkflowRun(orchestrator=SCRIPT, workflow="untracked", run_id="untracked")
    untracked = RunContext(workflow_run=nowhere, task_run=TaskRun(task="main"))
    outer = None
    with fence("preparing a stage", settings.on_error):
        outer = enclosing_run() if context is None else None
        check(
            stage=stage,
            context=context,
            run_name=run_name,
            params=params,
            tags=tags,
            experiment=experiment,
            outcome=outcome,
        )
        untracked = context or replace(untracked, task_run=TaskRun(task=stage or "main"), stage=stage)
        backend = open_backend(settings)
        if backend is None:
            _say_that_tracking_is_off(settings.enabled)
            return StageRun(untracked, settings, outer=outer)
        plugins = registry.load(settings)
        above = nearest_tracked(outer)
        found = _nested(above, stage) if above is not None else (context or _located(settings, plugins, stage))
        if stage is not None:
            found = replace(found, stage=stage)
        preparation = prepare(
            found,
            settings,
            plugins,
            run_name=run_name,
            params=params,
            tags=tags,
            experiment=experiment,
            outer=above.ref if above is not None and above.context.task_run is not None else None,
            with_parent=not _is_there(found.parent or backend.parent(workflow_run_key(found.workflow_run))),
        )
        if found.workflow_run.orchestrator == SCRIPT and found.owns_workflow_run:
            _close_at_exit(found, settings, backend)
        return StageRun(found, settings, preparation=preparation, backend=backend, outer=outer)
    return StageRun(untracked, settings, outer=outer)


def _is_there(parent: RunRef | None) -> bool:
    """True for a parent that is known to exist: nobody need be asked how to make it."""
    return parent is not None and not is_provisional(parent.run_id)


def _located(settings: Settings, plugins: pluggy.PluginManager, stage: str | None) -> RunContext:
    found = dispatch.run_context(plugins, strict=settings.on_error == "raise")
    return found if found is not None else script_context(stage)


def _nested(outer: StageRun, stage: str | None) -> RunContext:
    """The context of a stage that is opened within another one's block: a task below that task.

    Within a workflow run's own block (a flow's body) it is a task like any other.
    """
    task_run = outer.context.task_run
    # Processes that were forked inside the stage, or spawned for it, all begin to count where it was.
    where = "" if outer.process_id == os.getpid() else f"{os.getpid()}-"
    if task_run is None:
        name = stage or "main"
        count = outer.count_nested(name)
        task = TaskRun(task=name, index=f"{where}{count}" if count > 1 or where else None)
        return replace(outer.context, task_run=task, stage=stage, parent=outer.ref, owns_workflow_run=False)
    name = f"{task_run.task}.{stage or 'nested'}"
    nested = TaskRun(task=name, index=f"{where}{outer.count_nested(name)}", try_number=task_run.try_number)
    # The workflow run does not end with a fork, however that ends.
    owns = outer.context.owns_workflow_run and not where
    return replace(outer.context, task_run=nested, stage=stage, tokens=(), owns_workflow_run=owns)


def _end_with(error: BaseException, run: StageRun, outcome: Callable[[BaseException], Outcome] | None) -> None:
    """End a run, if it is there, as what was raised says."""
    ended = _outcome(error, outcome)
    failed = ended.status in {"FAILED", "KILLED"}
    run.end(ended.status, note=ended.note, error=error if failed else None)


def _outcome(error: BaseException, outcome: Callable[[BaseException], Outcome] | None) -> Outcome:
    with fence("asking how the task ended", "log"):
        return (outcome or of_exception)(error)
    return of_exception(error)


@lru_cache(maxsize=2)
def _say_that_tracking_is_off(enabled: bool) -> None:
    if enabled:
        log.warning(
            "tracking is off: there is no tracking URI. Set MLFLOW_TRACKING_URI, TRACKLAYER_TRACKING_URI, or "
            "tracking_uri in tracklayer.toml; or say enabled = false to turn it off on purpose."
        )
    else:
        log.info("tracking is off: enabled = false")


def _close_at_exit(context: RunContext, settings: Settings, backend: Backend) -> None:
    """End a script's parent when the process exits in order; a fork leaves that to the process that it came from."""
    recorder_of(backend, settings)  # first, so that what it arranges for the exit of the process comes after this
    key, pid = workflow_run_key(context.workflow_run), os.getpid()
    place = (pid, backend.store.uri, key)
    if place in _ended_at_exit():
        return
    _ended_at_exit().add(place)

    def end() -> None:
        if os.getpid() == pid:
            for run in reversed(open_stages()):  # a generator that nobody goes on with, a daemon thread's, a notebook's
                if workflow_run_key(run.context.workflow_run) == key:
                    run.end("KILLED", note=LEFT_OPEN)
            close_workflow_run(context, "FAILED" if has_failed() else "FINISHED", settings=settings)

    atexit.register(end)


@singleton
def _ended_at_exit() -> set[tuple[int, str, str]]:
    """Workflow runs whose end is already arranged for: process id, tracking URI, key."""
    return set()
