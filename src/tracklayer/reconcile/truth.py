"""What has become of what a run stands for: by its orchestrator's word, or by its process where there is none."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tracklayer import dispatch
from tracklayer.context import SCRIPT, State, TaskRun, WorkflowRun
from tracklayer.ending import DIED, LEFT_OPEN
from tracklayer.identity import PARENT_TAG, key_tag, parse_key, task_key, workflow_run_key
from tracklayer.machine import PROCESS_TAG, process_of
from tracklayer.reconcile.scope import GONE_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    import pluggy

    from tracklayer.context import Status
    from tracklayer.reconcile.reading import Reader
    from tracklayer.store import Run


DEEPEST: Final = 20
"""So many runs, one below the other, are followed upwards."""

REMEMBERED: Final = 10_000
"""So many answers of orchestrators are remembered during one examination."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a run stands for, as its tags say.

    Attributes:
        workflow_run: the workflow run.
        task_run: the try; None for the parent of a workflow run.
    """

    workflow_run: WorkflowRun
    task_run: TaskRun | None

    @property
    def key(self) -> str:
        """The key of the workflow run."""
        return workflow_run_key(self.workflow_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is known of a run's end.

    Attributes:
        status: what it ended with; None if it has not ended, or if nobody can say.
        because: who says so, or what is not known, in words; empty for a run that rightly is open.
        ended_at: when, in milliseconds since the epoch; None if nobody knows.
        note: one word for people, see `tracklayer.context.State`.
    """

    status: Status | None
    because: str
    ended_at: int | None = None
    note: str | None = None


RUNS: Final = Verdict(status=None, because="")


class _NotAskedError(Exception):
    """An orchestrator could not be asked, which says nothing about what it would have answered."""


def is_ours(run: Run) -> bool:
    """Whether tracklayer made the run, for a place of its own: it has a key, and is found by it."""
    key = run.tags.get("tracklayer.key")
    return bool(key) and key_tag(str(key)) in run.tags


def place_of(run: Run) -> Place | None:
    """The place of a run that tracklayer made; None if its key cannot be read."""
    try:
        workflow_run, task_run = parse_key(run.tags.get("tracklayer.key", ""))
    except ValueError:
        return None
    if task_run is not None:
        return Place(workflow_run=workflow_run, task_run=replace(task_run, tags=dict(run.tags)))
    return Place(workflow_run=replace(workflow_run, tags=dict(run.tags)), task_run=None)


class Truth:
    """Asks orchestrators, each question once in an examination.

    Attributes:
        unasked: ids of the runs of which nobody knows anything because their orchestrator could not be asked.
    """

    def __init__(self, reader: Reader, plugins: pluggy.PluginManager, older_than: timedelta | None) -> None:
        self._reader = reader
        self._plugins = plugins
        self._older_than = older_than
        self._states: OrderedDict[str, State | _NotAskedError | None] = OrderedDict()
        self.unasked: set[str] = set()

    def of(self, run: Run) -> Verdict:
        """What has become of the parent or stage run `run` (see `is_ours`), whatever its status is."""
        place = place_of(run)
        if place is None:
            return Verdict(status=None, because="its key cannot be read")
        if place.workflow_run.orchestrator == SCRIPT:
            return self._of_process(run)
        try:
            return self._of_workflow(run, place) if place.task_run is None else self._of_task(run, place)
        except _NotAskedError:
            self.unasked.add(run.run_id)
            because = f"{place.workflow_run.orchestrator} could not be asked what has become of it: a warning says why"
            return Verdict(status=None, because=because)

    def told(self, run: Run) -> Verdict | None:
        """How the very try ended that a stage run is of, by its orchestrator's word about it; None if it says no more.

        A task without a moment of its end was ended with its workflow run, whatever its state is called.
        """
        place = place_of(run)
        if place is None or place.task_run is None or place.workflow_run.orchestrator == SCRIPT:
            return None
        try:
            state = self._task(place.workflow_run, place.task_run)
        except _NotAskedError:
            self.unasked.add(run.run_id)
            return None
        if state is None or state.ended_at is None or not state.ended or state.status == "GONE":
            return None
        return _verdict(state, f"{place.workflow_run.orchestrator} says that its task {_said(state)}")

    def owner(self, run: Run) -> Run | None:
        """The run of tracklayer's own, a stage run or a parent, below which a run of user code is; None if none."""
        for _ in range(DEEPEST):
            above = self._reader.run(run.tags.get(PARENT_TAG, ""))
            if above is None or is_ours(above):
                return above
            run = above
        return None

    # ------------------------------------------------------------------------------------------ by process

    def _of_process(self, run: Run) -> Verdict:
        process = process_of(run.tags.get(PROCESS_TAG))
        lives = process.lives if process else None
        if lives:
            return RUNS
        if lives is False:
            return Verdict(status="KILLED", because=f"{process} is gone", note=DIED)
        where = f"{process} cannot be seen from here" if process else "it does not say in which process it runs"
        if self._older_than is not None and _is_older(run, self._older_than):
            return Verdict(status="KILLED", because=f"{where}, and it is older than asked for", note=LEFT_OPEN)
        return Verdict(status=None, because=f"{where}: use --older-than once it is certain to have ended")

    # -------------------------------------------------------------------------------------- by orchestrator

    def _of_task(self, run: Run, place: Place) -> Verdict:
        stage, parent = self._outermost(run)
        outer = place_of(stage) or place
        workflow_run = place.workflow_run
        if parent is not None:
            workflow_run = replace(workflow_run, tags=dict(parent.tags))
        task_run = outer.task_run or place.task_run
        assert task_run is not None
        of_task = self._task(workflow_run, task_run)
        if of_task is not None and of_task.ended and of_task.status != "GONE":
            return _verdict(of_task, f"{workflow_run.orchestrator} says that its task {_said(of_task)}")
        of_workflow = self._workflow(workflow_run)
        if of_workflow is None:
            if of_task is not None and not of_task.ended:
                return RUNS
            return _unknown(workflow_run)
        if not of_workflow.ended:
            return RUNS
        return self._ended(run, of_workflow, workflow_run, of_task=True)

    def _of_workflow(self, run: Run, place: Place) -> Verdict:
        state = self._workflow(place.workflow_run)
        if state is None:
            return _unknown(place.workflow_run)
        return self._ended(run, state, place.workflow_run, of_task=False) if state.ended else RUNS

    def _ended(self, run: Run, state: State, workflow_run: WorkflowRun, *, of_task: bool) -> Verdict:
        """By the word about the whole workflow run: of its tasks nobody knows more than that they have ended too."""
        if state.status == "GONE":
            if not _is_older(run, GONE_AFTER if self._older_than is None else self._older_than):
                return Verdict(
                    status=None,
                    because=f"{workflow_run.orchestrator} has deleted its workflow run, not long ago: --older-than",
                )
            because = f"{workflow_run.orchestrator} has deleted its workflow run"
            return Verdict(status="KILLED", because=because, note="gone")
        because = f"{workflow_run.orchestrator} says that its workflow run {_said(state)}"
        if of_task:
            ended_at = _milliseconds(state)
            return Verdict(status="KILLED", because=because, ended_at=ended_at, note=LEFT_OPEN)
        return _verdict(state, because)

    def _outermost(self, run: Run) -> tuple[Run, Run | None]:
        """The stage run around all others that `run` is within, which is a task's, and the parent above it."""
        stage = run
        for _ in range(DEEPEST):
            above = self._reader.run(stage.tags.get(PARENT_TAG, ""))
            if above is None or not above.tags.get("tracklayer.key"):
                return stage, None
            place = place_of(above)
            if place is None or place.task_run is None:
                return stage, above
            stage = above
        return stage, None

    def _workflow(self, workflow_run: WorkflowRun) -> State | None:
        return self._asked(
            workflow_run_key(workflow_run),
            lambda failed: dispatch.workflow_state(self._plugins, workflow_run, failed=failed),
        )

    def _task(self, workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
        return self._asked(
            f"{task_key(workflow_run, task_run)}#{task_run.try_number}",
            lambda failed: dispatch.task_state(self._plugins, workflow_run, task_run, failed=failed),
        )

    def _asked(self, key: str, ask: Callable[[list[str]], State | None]) -> State | None:
        """The answer about a key, the one of before if there was one.

        Raises:
            _NotAskedError: a plugin failed, and no other one knows. It is not taken for an answer: a task of which
                nobody could ask may well have succeeded, though its workflow run has failed.
        """
        if key not in self._states:
            failed: list[str] = []
            state = ask(failed)
            self._states[key] = _NotAskedError(key) if state is None and failed else state
            while len(self._states) > REMEMBERED:
                self._states.popitem(last=False)
        known = self._states[key]
        if isinstance(known, _NotAskedError):
            raise known
        return known


def _verdict(state: State, because: str) -> Verdict:
    status = "KILLED" if state.status in {"GONE", "RUNNING"} else state.status
    return Verdict(status=status, because=because, ended_at=_milliseconds(state), note=state.note)  # type: ignore[arg-type]  # narrowed above


def _said(state: State) -> str:
    """The state as the end of a sentence."""
    told = {"FINISHED": "has finished", "FAILED": "has failed", "KILLED": "was ended", "GONE": "is gone"}
    word = told.get(state.status, "runs")
    return f"{word} ({state.said})" if state.said else word


def _unknown(workflow_run: WorkflowRun) -> Verdict:
    return Verdict(
        status=None,
        because=f"nobody here can say what has become of it: is the plugin for {workflow_run.orchestrator!r} installed,"
        " and can it reach its server?",
    )


def _milliseconds(state: State) -> int | None:
    return None if state.ended_at is None else int(state.ended_at.timestamp() * 1_000)


def _is_older(run: Run, age: timedelta) -> bool:
    return (run.start_time or 0) <= time.time_ns() // 1_000_000 - age.total_seconds() * 1_000
