"""A stage run that another process opened and will end: user code in a child process logs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracklayer.context import RunContext, TaskRun, WorkflowRun
from tracklayer.exceptions import TracklayerError
from tracklayer.fence import log
from tracklayer.identity import parse_token
from tracklayer.opening import Opened

if TYPE_CHECKING:
    from tracklayer.stage import StageRun

UNTRACKED: Final = "untracked"
"""In place of a token: the stage is there, but it has no run, as the tracking server could not be reached."""


def attach(token: str, *, process_id: int | None = None) -> StageRun:
    """The stage run that `token` names, to log to; ending it is left to the process that opened it.

    What was logged is delivered at the latest when this process exits in order; where it is killed, whoever takes its
    journal over does that. The run is an untracked one if the token is `UNTRACKED`, if it or the settings cannot be
    read (with a warning), or if tracking is off here: code that logs to its stage run without asking whether there is
    one must not fail because of that.

    Args:
        token: as it was told; the run id in it may be one that was given out before the run existed.
        process_id: id of the process of the stage, where this one is one of its workers; None where this process is
            the one that runs the stage's code.
    """
    from tracklayer import settings as settings_module
    from tracklayer.backend import open_backend
    from tracklayer.stage import StageRun

    if token == UNTRACKED:
        return _untracked()
    try:
        parsed = parse_token(token)
        settings = settings_module.load()
        backend = open_backend(settings)
    except TracklayerError as error:
        log.warning("this process cannot log to the stage run that it belongs to: %s", error)
        return _untracked()
    if backend is None:
        return _untracked()
    workflow_run = WorkflowRun(orchestrator="attached", workflow="attached", run_id=parsed.run.run_id)
    context = RunContext(
        workflow_run=workflow_run,
        task_run=TaskRun(task=parsed.run.stage or "attached"),
        stage=parsed.run.stage,
        parent=parsed.parent,
    )
    opened = Opened(ref=parsed.run, parent=parsed.parent, root=parsed.root or parsed.run.run_id)
    run = StageRun(context, settings, backend=backend, opened=opened)
    if process_id is not None:
        run.process_id = process_id
    return run


def _untracked() -> StageRun:
    """A stage run that keeps nothing; it knows where it is, if a plugin does."""
    from tracklayer import dispatch, registry
    from tracklayer import settings as settings_module
    from tracklayer.stage import StageRun

    try:
        found = dispatch.run_context(registry.load(settings_module.load()))
    except TracklayerError:
        found = None
    nowhere = WorkflowRun(orchestrator="attached", workflow=UNTRACKED, run_id=UNTRACKED)
    context = found or RunContext(workflow_run=nowhere, task_run=TaskRun(task=UNTRACKED))
    return StageRun(context, settings_module.Settings(enabled=False))
