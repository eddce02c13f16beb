"""The end of a workflow run where nobody but its tasks can see that end (a pipeline run on Kubernetes).

After its own end each task looks whether it was the last one: its orchestrator's definition says whether any are to come
after it, the tracking server says what has become of the others. Tasks that are still to start cannot be told from
those for which cached results were used, so the guess may be early: the next task to start then opens the parent again.
A failed task marks the parent FAILED at once, because nothing that depends on it will be started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.closing import close, members_of
from tracklayer.identity import workflow_run_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracklayer.backend import Backend
    from tracklayer.context import RunContext, RunRef, Status
    from tracklayer.settings import Settings
    from tracklayer.store import Run


def close_if_last(
    context: RunContext,
    status: Status,
    settings: Settings,
    backend: Backend,
    *,
    parent: RunRef,
    ends: bool,
    ended_at: int,
) -> Status | None:
    """End the parent of a workflow run, if none of its stage runs is running and none is to come; safe to repeat.

    Late, and in whatever order the ends of several tasks are delivered, the last one finds them all.

    Args:
        context: the task that has ended.
        status: how; only whether it is ``FINISHED`` counts.
        settings: the settings.
        backend: the tracking back end.
        parent: the parent.
        ends: True if no task that certainly runs comes after this one.
        ended_at: when the task ended, in milliseconds since the epoch.

    Returns:
        The status that the parent got; None if it was left as it is.

    Raises:
        StoreError: the tracking server could not be asked.
    """
    key = workflow_run_key(context.workflow_run)
    if not members_of(backend, key, running=True, limit=1):
        runs = members_of(backend, key)
        found = _status(runs, ends=ends)
        if found is None:
            return None
        last = max([ended_at, *(run.end_time or 0 for run in runs)])
        if close(context, found, settings, backend, parent=parent, ended_at=last, patient=True):
            return found
    # Some are running, or one has begun just now: those will look in their turn.
    if status == "FINISHED":
        return None
    backend.store.update_run(parent.run_id, status="FAILED", end_time=ended_at)
    return "FAILED"


def _status(members: Iterable[Run], *, ends: bool) -> Status | None:
    """How the workflow run ended, if none of its stage runs is running; None if more are to come."""
    newest: dict[str, Run] = {}
    for run in sorted(members, key=lambda run: run.start_time or 0):
        newest[_task_key(run)] = run
    if any(run.status != "FINISHED" for run in newest.values()):
        return "FAILED"
    return "FINISHED" if ends else None


def _task_key(run: Run) -> str:
    """The key without its try: what the tries of one task have in common."""
    return run.tags.get("tracklayer.key", run.run_id).rpartition("#")[0] or run.run_id
