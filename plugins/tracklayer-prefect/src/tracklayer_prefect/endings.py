"""How flow and task runs end, by Prefect's word: the hooks on terminal states.

What left the user's function is known first, and written at once. Prefect may know better: a flow that returned may
have failed by the state of what it returned, or may have been cancelled; of a process that was killed only the runner
can tell. So the hook of a flow's terminal state has the last word. It runs in the flow's own process or in the
runner's, where the record of the flow run is an old one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from tracklayer.context import Token
from tracklayer.identity import format_token, parse_token
from tracklayer_prefect.carrier import PARENT_LABEL, STATUS_LABEL, parent_of

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State, TaskRun
    from prefect.context import FlowRunContext
    from prefect.flows import Flow
    from prefect.tasks import Task

    from tracklayer.context import Status
    from tracklayer.outcome import Outcome

log = logging.getLogger("tracklayer")

Hook = TypeVar("Hook", bound=Callable[..., Any])


def with_hook(hooks: Iterable[Any], hook: Hook) -> list[Any]:
    """A new list of hooks that begins with `hook`: Prefect shares the old one among copies."""
    return [hook, *(other for other in hooks if other is not hook)]


def watch(flow: Flow[..., Any]) -> None:
    """Have the flow's terminal states recorded, before its own hooks run."""
    flow.on_completion_hooks = with_hook(flow.on_completion_hooks, tracklayer_record_end)
    flow.on_failure_hooks = with_hook(flow.on_failure_hooks, tracklayer_record_end)
    flow.on_crashed_hooks = with_hook(flow.on_crashed_hooks, tracklayer_record_end)
    flow.on_cancellation_hooks = with_hook(flow.on_cancellation_hooks, tracklayer_record_end)


def adopt(context: FlowRunContext, run_id: str, token: str) -> None:
    """Label a flow run that is not tracked itself with the parent that one of its tasks got, and watch its end.

    Does nothing if it is labelled already, as every tracked flow's run is.

    Args:
        context: the flow run's context, in whatever process.
        run_id: the id of the flow run that is meant.
        token: the token of a stage run in it.
    """
    flow_run = context.flow_run
    if flow_run is None or str(flow_run.id) != run_id or PARENT_LABEL in flow_run.labels:
        return
    stage = parse_token(token)
    if stage.parent is not None:
        flow_run.labels[PARENT_LABEL] = format_token(Token(run=stage.parent, root=stage.root))
    if context.flow is not None and not context.detached:
        watch(context.flow)


def tracklayer_record_end(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook: end the run of a flow run as Prefect says that it ended.

    Called by Prefect with exactly these names. Asks nobody where the flow's own process has already written the same.
    """
    try:
        _record_end(flow, flow_run, state)
    except Exception:
        log.warning("tracking: the end of flow run %r was not recorded", flow_run.name, exc_info=True)


def _record_end(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    from tracklayer.tracking import close_workflow_run
    from tracklayer_prefect.contexts import of_flow
    from tracklayer_prefect.wrapping import mark_of

    status = status_of(state)
    if status is None or _stands(flow_run.labels.get(STATUS_LABEL), status, crashed=state.is_crashed()):
        return
    if PARENT_LABEL not in flow_run.labels:
        flow_run = _as_of_now(flow_run)
    parent = parent_of(flow_run)
    if parent is None and mark_of(flow.fn) is None:
        return
    error = state.message if status != "FINISHED" else None
    # A tracked flow that Prefect could not label has a parent all the same; core finds it by its key.
    found = parent.run if parent else None
    close_workflow_run(of_flow(flow, flow_run, None), status, parent=found, error=error)
    flow_run.labels[STATUS_LABEL] = status


def _stands(written: object, status: Status, *, crashed: bool) -> bool:
    """True if what was written needs no correction; of a crash the process itself knows more than Prefect."""
    return written == status or (crashed and written in {"FAILED", "KILLED"})


def status_of(state: State[Any]) -> Status | None:
    """The status in MLflow for a state in Prefect; None for one that ends nothing.

    A crash is Prefect's word for a run whose process was ended from outside.
    """
    from prefect.client.schemas.objects import StateType

    ends: dict[StateType, Status] = {
        StateType.COMPLETED: "FINISHED",
        StateType.FAILED: "FAILED",
        StateType.CRASHED: "KILLED",
        StateType.CANCELLED: "KILLED",
        StateType.CANCELLING: "KILLED",
    }
    return ends.get(state.type)


def _as_of_now(flow_run: FlowRun) -> FlowRun:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run.id)


def outcome_of(error: BaseException, *, since: datetime, limit: float | None) -> Outcome:
    """How a flow or task ended by the exception that left its function.

    Args:
        error: the exception.
        since: when Prefect began to run it; its time limit counts from just after that.
        limit: the time limit in seconds, None for none.
    """
    from asyncio import CancelledError

    from prefect.exceptions import Pause, TerminationSignal

    from tracklayer.outcome import Outcome, of_exception

    if isinstance(error, Pause):
        return Outcome("RUNNING")
    if isinstance(error, CancelledError):  # Prefect interrupts at a time limit by this, too
        late = limit is not None and (datetime.now(UTC) - since).total_seconds() >= limit
        return Outcome("FAILED", "timed out") if late else Outcome("KILLED", "cancelled")
    if isinstance(error, TerminationSignal):
        return Outcome("KILLED", "terminated")
    if isinstance(error, SystemExit):  # whatever the code: to Prefect it is a crash
        return Outcome("FAILED")
    return of_exception(error)


def tracklayer_record_reuse(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Hook: record that a task run was not run because its result was cached.

    Called by Prefect when a task completes; does nothing unless the result came from the cache.
    """
    if state.name != "Cached":
        return
    try:
        from tracklayer_prefect.reuse import record

        record(task, task_run, state)
    except Exception:
        log.warning("tracking: the cached result of task run %r was not recorded", task_run.name, exc_info=True)
