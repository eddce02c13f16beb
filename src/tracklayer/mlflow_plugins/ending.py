"""The end of a stage in which MLflow was used: nothing of it stays active, no run below it stays RUNNING."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from tracklayer.backend import open_backend
from tracklayer.exceptions import StoreError
from tracklayer.journal.operations import End
from tracklayer.mlflow_plugins.active_runs import leave_active
from tracklayer.mlflow_plugins.kept import forget_kept
from tracklayer.mlflow_plugins.known_runs import forget_runs
from tracklayer.mlflow_plugins.stages import forget, guard, log
from tracklayer.workers import at_end

if TYPE_CHECKING:
    from tracklayer.context import Status
    from tracklayer.mlflow_plugins.stages import StageState


def end_left_open(run_id: str, status: Status) -> None:
    """End what user code left open below the stage with this run id, as the stage itself ended.

    That is what it created there, and what it resumed by ``mlflow.start_run(run_id=…)``. It is written to the journal;
    whoever ends the stage sees to its delivery.
    """
    with guard("letting go of artifacts that were delivered"):
        forget_kept()
    state = forget(run_id)
    if state is None:
        return
    left: dict[str, None] = {}
    with guard("leaving the active runs of a stage"):
        left = dict.fromkeys(leave_active(state))
    left = {**left, **dict.fromkeys(reversed(state.children))}
    left.pop(run_id, None)
    forget_runs(state)
    ended_at = time.time_ns() // 1_000_000
    for child in left:
        if state.recorder is not None:
            state.recorder.append(End(child, status, ended_at))
        else:
            _end_now(state, child, status, ended_at)


def _end_now(state: StageState, run_id: str, status: Status, ended_at: int) -> None:
    """End a run where nothing is journaled; by tracklayer's own store: MLflow's repeats for minutes."""
    backend = open_backend(state.stage.settings)
    if backend is None:
        return
    try:
        backend.store.update_run(run_id, status=status, end_time=ended_at)
    except StoreError as error:
        log.warning("run %s, left open below the stage run %s, was not ended: %s", run_id, state.run_id, error)


def end_with_process(state: StageState) -> None:
    """End what a forked process leaves open below its stage when it exits; the stage itself lives elsewhere.

    Its recorder is closed after that, and delivers what it can.
    """
    if state.ends_with_process:
        return
    state.ends_with_process = True
    at_end(partial(_end_in_fork, state.run_id), first=True)


def _end_in_fork(run_id: str) -> None:
    end_left_open(run_id, "FINISHED" if sys.exc_info()[0] is None else "FAILED")
