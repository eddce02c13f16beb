"""What has become of flow runs and task runs; asked by ``tracklayer reconcile``.

Prefect's server is asked first. It believes that a run goes on until somebody says otherwise, so of what it calls
running two more are asked: the process, where that was on this very machine, and the heartbeats, which Prefect sends
while a flow runs.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from tracklayer.context import State
from tracklayer.ending import DIED
from tracklayer.machine import PROCESS_TAG, process_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.objects import TaskRun as PrefectTaskRun

    from tracklayer.context import TaskRun, Truth, WorkflowRun

T = TypeVar("T")

PAUSE: Final = 30.0
"""Seconds for which a Prefect server that could not be reached is not asked again."""

HEARTBEAT: Final = timedelta(seconds=180)
"""How often Prefect sends a heartbeat unless it is set up otherwise; it may be less often, and shows in what was sent."""

MISSED: Final = 3
"""So many heartbeats in a row are missed by a flow run that is taken for dead."""

BEAT: Final = "prefect.flow-run.heartbeat"

SLACK: Final = timedelta(seconds=5)
"""How far the clocks of Prefect's server and of the flow's machine may be apart."""


class PrefectUnavailable(Exception):
    """Prefect's server cannot be asked."""


@dataclass
class _Breaker:
    """Keeps a server that is away from being waited for again and again."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    until: float = 0.0


@lru_cache(maxsize=1)
def _breaker() -> _Breaker:
    return _Breaker()


def of_workflow_run(workflow_run: WorkflowRun) -> State | None:
    """What has become of a flow run, or of a task run that was called outside of any flow.

    Returns:
        ``GONE`` if Prefect's server knows the flow and not the run; None if it is another server's.

    Raises:
        PrefectUnavailable: Prefect's server cannot be asked.
    """
    run_id = _uuid(workflow_run.run_id)
    return None if run_id is None else _asked(lambda client: _of_run(client, run_id, workflow_run))


def of_task_run(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What has become of one try of a task run; None if Prefect's server does not know it.

    Raises:
        PrefectUnavailable: Prefect's server cannot be asked.
    """
    task_run_id = _uuid(task_run.tags.get("prefect.task_run_id"))
    if task_run_id is None:  # a stage in a flow's body, of which Prefect knows nothing
        return None
    del workflow_run
    return _asked(lambda client: _of_try(client, task_run_id, task_run))


def _of_run(client: SyncPrefectClient, run_id: UUID, workflow_run: WorkflowRun) -> State | None:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_flow_run(run_id)
    except ObjectNotFound:
        found = None
    if found is not None:
        return _of_record(found, workflow_run.tags, lambda: _last_sign(client, run_id))
    try:
        return _of_record(client.read_task_run(run_id), workflow_run.tags)
    except ObjectNotFound:
        pass
    known = client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=[workflow_run.workflow])), limit=1)
    return State(status="GONE") if known else None


def _of_try(client: SyncPrefectClient, task_run_id: UUID, task_run: TaskRun) -> State | None:
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_task_run(task_run_id)
    except ObjectNotFound:
        return None
    if task_run.try_number < found.run_count:
        return State(status="FAILED", said="was retried")
    return _of_record(found, task_run.tags)


def _of_record(
    found: FlowRun | PrefectTaskRun, tags: Mapping[str, str], last_sign: Callable[[], datetime | None] | None = None
) -> State | None:
    """What Prefect's record says; of one that runs, what its process and its heartbeats say.

    Args:
        found: the flow run or task run.
        tags: those of its run in MLflow, with the process that it was in.
        last_sign: when its heart beat last, if it has stopped since; None for a task run, which has no heart.
    """
    from prefect.client.schemas.objects import StateType

    state = found.state
    if state is None:
        return State(status="RUNNING")
    ends: dict[StateType, Truth] = {
        StateType.COMPLETED: "FINISHED",
        StateType.FAILED: "FAILED",
        StateType.CRASHED: "KILLED",
        StateType.CANCELLED: "KILLED",
    }
    if state.type in ends:
        return State(status=ends[state.type], ended_at=found.end_time or state.timestamp, said=state.name)
    if state.type in {StateType.RUNNING, StateType.CANCELLING}:
        process = process_of(tags.get(PROCESS_TAG))
        # A later session of the same run (retried, resumed) may be in another process.
        same = process is not None and state.timestamp <= datetime.fromtimestamp(process.at / 1_000, UTC) + SLACK
        if process is not None and same and process.lives is False:
            return State(status="KILLED", said=f"{state.name}, but {process} is gone", note=DIED)
        last = last_sign() if last_sign is not None and not (same and process and process.lives) else None
        if last is not None and last >= state.timestamp - SLACK:
            said = f"{state.name}, but without a heartbeat since {last.isoformat(timespec='seconds')}"
            return State(status="KILLED", ended_at=last, said=said, note=DIED)
    return State(status="RUNNING", said=state.name)


def _last_sign(client: SyncPrefectClient, run_id: UUID) -> datetime | None:
    """When a flow run's heart beat last; None while it beats, and if it was never heard."""
    told = {
        "filter": {"event": {"name": [BEAT]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}, "order": "DESC"},
        "limit": 2,
    }
    events: list[dict[str, Any]] = client.request("POST", "/events/filter", json=told).json().get("events", [])
    beats = sorted((datetime.fromisoformat(event["occurred"]) for event in events), reverse=True)
    if not beats:
        return None
    pace = max([HEARTBEAT, *(later - earlier for later, earlier in pairwise(beats))])
    return beats[0] if datetime.now(UTC) - beats[0] > MISSED * pace else None


def _asked(question: Callable[[SyncPrefectClient], T]) -> T:
    from prefect.client.orchestration import get_client

    breaker = _breaker()
    with breaker.lock:
        if time.monotonic() < breaker.until:
            raise PrefectUnavailable("Prefect's server could not be reached a moment ago")
    try:
        with get_client(sync_client=True) as client:
            return question(client)
    except Exception as error:  # its HTTP library's, its own, or a RuntimeError of a server that does not start
        with breaker.lock:
            breaker.until = time.monotonic() + PAUSE
        raise PrefectUnavailable(f"Prefect's server cannot be asked: {type(error).__name__}: {error}") from None


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
