"""Which stage an MLflow call belongs to, and what MLflow has done in it so far."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tracklayer.forking import ProcessLock
from tracklayer.interruption import let_through
from tracklayer.provisional import BY_NAME, PENDING
from tracklayer.singleton import singleton
from tracklayer.workers import starter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer.journal.recorder import Recorder
    from tracklayer.opening import Opening
    from tracklayer.stage import StageRun

log = logging.getLogger("tracklayer")


ATTACHED: Final = "attached"
"""The orchestrator's name in the context of a stage that another process opened: all that is known there is a token."""

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def current_stage() -> StageRun | None:
    """The stage run in which this code runs and which the server knows; None outside of one.

    Nothing is imported to find that out in a process that has neither opened a stage nor been attached to one.
    """
    if "tracklayer.current" not in sys.modules and "TRACKLAYER_ATTACH" not in os.environ and starter() is None:
        return None
    from tracklayer.current import current_run

    stage = current_run()
    return stage if stage is not None and stage.is_open and stage.run_id else None


def same_store(one: str, other: str) -> bool:
    """True if two tracking URIs name the same back end; credentials, drivers and names of this machine aside.

    >>> same_store("http://user:secret@localhost:5000/", "http://127.0.0.1:5000")
    True
    >>> same_store("sqlite:////data/a.db", "sqlite:////data/b.db")
    False
    """
    return one == other or _place(one) == _place(other)


@lru_cache(maxsize=64)
def _place(uri: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(uri)
    host = (parts.hostname or "").lower()
    scheme = parts.scheme.partition("+")[0].lower()
    port = parts.port or {"http": 80, "https": 443}.get(scheme)
    return scheme, "localhost" if host in LOOPBACK else host, port, parts.path.rstrip("/")


def tracked_in(stage: StageRun, uri: str) -> bool:
    """True if `stage` is tracked in the back end with this tracking URI. A difference is reported, once for each."""
    own = stage.tracking_uri
    if own is None or same_store(own, uri):
        return own is not None
    _report_other_store(own, uri)
    return False


@lru_cache(maxsize=64)
def _report_other_store(own: str, other: str) -> None:
    from tracklayer.store.endpoint import without_credentials

    log.warning(
        "stages are tracked in %s, but MLflow calls in the pipeline's code go to %s: "
        "they stay runs of their own there, without their stage",
        without_credentials(own),
        without_credentials(other),
    )


def child_tags(stage: StageRun) -> dict[str, str]:
    """Tags of the runs that user code starts below `stage`: few for people, and what finds them when it all ends."""
    from tracklayer.identity import PARENT_TAG, member_tag

    tags = {PARENT_TAG: stage.run_id or ""}
    if stage.stage:
        tags["tracklayer.stage"] = stage.stage
    workflow_run = stage.context.workflow_run
    if workflow_run.orchestrator != ATTACHED:
        tags["tracklayer.workflow"] = workflow_run.workflow
        tags["tracklayer.workflow_run"] = workflow_run.run_id
    if stage.parent is not None and stage.parent.key:
        tags[member_tag(stage.parent.key)] = "1"
    return tags


def opening_of(stage: StageRun) -> Opening | None:
    """What was known about the stage's run before it existed; None where another process opened it."""
    preparation = stage._preparation  # noqa: SLF001 - of no use to users
    return preparation.opening if preparation is not None else None


def other_ids(stage: StageRun) -> tuple[str, ...]:
    """The server's id of a stage's run, where the stage calls it by one that was given out before."""
    return (stage.ref.run_id,) if stage.ref is not None and stage.ref.run_id != stage.run_id else ()


def is_home(stage: StageRun, experiment_id: str | None) -> bool:
    """True if this is the stage's own experiment, by whatever id it is called while the server is away."""
    return experiment_id in {PENDING, stage.experiment_id, f"{BY_NAME}{home_name(stage)}"}


def home_name(stage: StageRun) -> str | None:
    """Name of the stage's own experiment; None where it is not known."""
    from tracklayer.current import nearest_tracked

    opening = opening_of(stage)
    if opening is None:
        return None
    outer = nearest_tracked(stage.outer)
    return home_name(outer) if opening.experiment is None and outer is not None else opening.experiment


class StageState:
    """What MLflow has done inside one stage, as seen from this process.

    Attributes:
        stage: the stage.
        run_id: its run id.
        attached: True if another process opened the stage, and this one runs its user code.
        forked: True in a process that was forked while the stage was open.
        adopted: True once a run that MLflow was asked to start became the stage run.
        unanswered_at: when the server last did not answer a read, on the monotonic clock.
        since: when this process first had to do with it, in milliseconds since the epoch.
        recorder: what writes for it; None where nothing does, and calls are made as they come.
        experiment_id: id of the experiment that the user chose inside the stage by ``mlflow.set_experiment``.
        children: ids of runs that this process created below the stage and has not ended yet, in order.
        asked_status: how the user's code ended the stage run (``FINISHED``, ``FAILED``, ``KILLED``); the stage itself
            goes on, and in the end the orchestrator's word counts. None if it did not.
        ends_with_process: True once the end of the children is arranged for, in a forked process.
        stacks: the stacks of active runs of all threads, by their identity.
        observed: True if the stage was opened in the middle of the code, by the first run that this created.
    """

    def __init__(self, stage: StageRun, run_id: str) -> None:
        self.stage = stage
        self.run_id = run_id
        self.attached = stage.context.workflow_run.orchestrator == ATTACHED
        self.adopted = False
        self.observed = False
        self.unanswered_at = -math.inf
        self.since = time.time_ns() // 1_000_000
        self.experiment_id: str | None = None
        self.asked_status: str | None = None
        self._lock = ProcessLock()
        self._begin(stage.recorder)

    def _begin(self, recorder: Recorder | None) -> None:
        pid = os.getpid()
        self.forked = self.stage.process_id != pid
        self.recorder = recorder
        self.children: dict[str, None] = {}
        self.ends_with_process = False
        self.stacks: dict[int, list[Any]] = {}
        self._of_thread = threading.local()
        self._first = [None]
        self.pid = pid  # the last: another thread then finds all of the above

    def here(self) -> StageState:
        """This state, as it is in this process: a fork has neither the threads nor the children of its parent."""
        if self.pid != os.getpid():
            recorder = self.stage.recorder
            with self._lock:
                if self.pid != os.getpid():
                    self._begin(recorder)
        return self

    def active_runs(self) -> list[Any] | None:
        """This thread's stack of active runs within the stage; None if it has none yet."""
        self.here()
        return getattr(self._of_thread, "stack", None)

    def set_active_runs(self, stack: list[Any]) -> None:
        """Give this thread a stack of active runs within the stage."""
        before = self.active_runs()
        self.stacks[id(stack)] = stack
        self._of_thread.stack = stack
        if before is not None and before is not stack:
            self.stacks.pop(id(before), None)

    def is_first(self) -> bool:
        """True for the first who asks in this process, of however many threads."""
        try:
            self._first.pop()
        except IndexError:
            return False
        return True

    def owns(self, run_id: str) -> bool:
        """True if the run is the stage run, or one that was created below it and is not ended."""
        return run_id == self.run_id or run_id in self.children


@singleton
def _states() -> dict[str, StageState]:
    """The states of the stages in which MLflow was used, by run id."""
    return {}


def state_of(stage: StageRun) -> StageState:
    """What MLflow has done inside `stage`, in this process."""
    states, run_id = _states(), stage.run_id or ""
    state = states.get(run_id)
    if state is not None and not state.stage.is_open and stage.is_open:
        # A part of the same try ran in this very process before, and left the run open.
        del states[run_id]
        state = None
    return (state or states.setdefault(run_id, StageState(stage, run_id))).here()


def state_of_run(run_id: str) -> StageState | None:
    """The state of the open stage whose run has this id, be it the current one or not; None if there is none."""
    state = _states().get(run_id)
    return state.here() if state is not None and state.stage.is_open else None


def states() -> list[StageState]:
    """The states of all stages that are open in this process."""
    return [state.here() for state in list(_states().values()) if state.stage.is_open]


def forget(run_id: str) -> StageState | None:
    """Take out the state of the stage with this run id; None if MLflow was not used in it."""
    state = _states().pop(run_id, None)
    return state.here() if state is not None else None


@contextmanager
def guard(what: str) -> Iterator[None]:
    """Keep what goes wrong in tracklayer's part of an MLflow call from the user's code.

    Each kind of failure is logged once: an MLflow call may be made a million times. What a signal handler has raised
    meanwhile passes.
    """
    try:
        yield
    except Exception as error:
        report_failure(what, error)


def report_failure(what: str, error: Exception) -> None:
    """Say, once for each kind of failure, that tracklayer's part of an MLflow call went wrong; called where it is caught."""
    let_through(error)
    _report_failure(what, type(error).__name__, str(error))


@lru_cache(maxsize=256)
def _report_failure(what: str, kind: str, message: str) -> None:
    log.warning("tracking: %s failed, MLflow goes on without: %s: %s", what, kind, message)
