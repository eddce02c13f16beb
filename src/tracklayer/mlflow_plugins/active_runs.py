# mypy: disable-error-code="no-untyped-call"
"""MLflow's stack of active runs, one for each thread and stage.

MLflow keeps its active runs by thread. That is too coarse where stages share a thread (async tasks, a task called
within a flow, the threads of a pool one after the other): what one stage left active would catch what the next one
logs. So inside a stage the stack is the stage's own; outside of one it is MLflow's, untouched.

The stack is private to MLflow (``mlflow.tracking.fluent._active_run_stack``). Where it is not found as it is known,
nothing is done, and stages that share a thread share its active run as in plain MLflow.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

from tracklayer.mlflow_plugins import callers
from tracklayer.mlflow_plugins.stages import StageState, current_stage, guard, is_home, state_of, states, tracked_in

STACK: Final = "_active_run_stack"


def install() -> None:
    """Put the stages' stacks in the place of MLflow's, once. Nothing is imported for that."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    stock = getattr(fluent, STACK, None)
    if stock is None or isinstance(stock, ActiveRuns):
        return
    if all(callable(getattr(stock, name, None)) for name in ("get", "set", "reset", "get_all_thread_values")):
        setattr(fluent, STACK, ActiveRuns(stock))


def leave_active(state: StageState) -> list[str]:
    """Take the runs that are still active in a stage off the stacks of all its threads; their ids, innermost first.

    What measures the system for them is stopped.
    """
    left = []
    fluent = sys.modules.get("mlflow.tracking.fluent")
    stacks = getattr(fluent, STACK, None)
    if state.observed and isinstance(stacks, ActiveRuns):
        stacks.take_over(state)
    for stack in list(state.stacks.values()):
        while stack:
            left.append(str(stack.pop().info.run_id))
    monitors = getattr(fluent, "run_id_to_system_metrics_monitor", {})
    for run_id in left:
        if run_id in monitors:
            monitors.pop(run_id).finish()
    return left


class ActiveRuns:
    """Answers as MLflow's `ThreadLocalVariable` does, by thread and stage."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._thread = threading.local()

    def get(self) -> list[Any]:
        """The stack of this thread in the current stage."""
        state = self._state()
        if state is None:
            return self._of_no_stage()
        stack = state.active_runs()
        if stack is None:
            stack = self._taken_over(state)
            state.set_active_runs(stack)
        if not stack and callers.logs_model():
            with guard("finding the run of a model"):
                return self._for_model(state)
        return stack

    def set(self, value: list[Any]) -> None:
        """Put another stack in its place."""
        state = self._state()
        if state is None:
            self._stock.set(value)
        else:
            state.set_active_runs(value)

    def get_all_thread_values(self) -> dict[int, list[Any]]:
        """The stacks of all threads of the current stage, by a number. MLflow asks for them to find any active run.

        With no run active in the stage, that is the stage run itself: traces and prompts are its own, too.
        """
        state = self._state()
        if state is None:
            stacks = list(self._stock.get_all_thread_values().values())
            stacks += [stack for other in states() for stack in list(other.stacks.values())]
        else:
            stacks = list(state.stacks.values())
            if not any(stacks):
                with guard("finding the run of a trace"):
                    stacks = [self._stage_run(state)]
        return dict(enumerate(stacks))

    def take_over(self, state: StageState) -> None:
        """Move what a stage has left on MLflow's own stacks to its own: nothing was asked of MLflow after it started."""
        for stack in self._stock.get_all_thread_values().values():
            mine = [run for run in stack if state.owns(run.info.run_id)]
            if mine:
                stack[:] = [run for run in stack if run not in mine]
                state.stacks[id(mine)] = mine

    def reset(self) -> None:
        """Forget the active runs, as MLflow's own tests want it."""
        self._stock.reset()
        for state in states():
            for stack in list(state.stacks.values()):
                stack.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def _state(self) -> StageState | None:
        stage = current_stage()
        state = state_of(stage) if stage is not None else None
        if state is not None:
            self._thread.served = state
        return state

    def _of_no_stage(self) -> list[Any]:
        """Outside of a stage the stack is MLflow's own, with one exception.

        In a plain thread the current stage is the only one that is open, and unknown as soon as there are two: what
        the thread has active in its stage stays active then.
        """
        served: StageState | None = getattr(self._thread, "served", None)
        if served is not None and served.stage.is_open and not served.forked:
            stack = served.active_runs()
            if stack:
                return stack
        own: list[Any] = self._stock.get()
        return own

    def _taken_over(self, state: StageState) -> list[Any]:
        """What this thread started in the stage before `install` found MLflow's stack.

        In an observed task that is all that is active: its code may have resumed a run before it created one.
        """
        stock = self._stock.get()
        mine = [run for run in stock if state.observed or state.owns(run.info.run_id)]
        if mine:
            stock[:] = [run for run in stock if run not in mine]
        return mine

    def _for_model(self, state: StageState) -> list[Any]:
        """The stage run, for a model that is logged while no run is active; not where the user chose its experiment."""
        elsewhere = state.experiment_id is not None and not is_home(state.stage, state.experiment_id)
        return [] if elsewhere else self._stage_run(state)

    def _stage_run(self, state: StageState) -> list[Any]:
        """A stack that holds the stage run for one look; nothing is active because of it."""
        from mlflow import get_tracking_uri
        from mlflow.tracking._tracking_service.utils import _get_store
        from mlflow.tracking.fluent import ActiveRun

        if not tracked_in(state.stage, get_tracking_uri()):
            return []
        return [ActiveRun(_get_store().run_of_stage(state))]
