"""What this process knows of the runs that MLflow is asked about inside a stage, without asking the server.

That is what answers at once whether a param was logged before, and what is told of a run while the server is away.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tracklayer.mlflow_plugins.stages import home_name
from tracklayer.provisional import BY_NAME, PENDING, is_provisional
from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tracklayer.journal.operations import Point
    from tracklayer.journal.recorder import Recorder
    from tracklayer.mlflow_plugins.stages import StageState

POINTS_KEPT: Final = 20_000
"""So many points of metrics are kept in memory, of all runs of a process; with more of them, the history of runs that
have ended, and of those with the most points, is the server's to tell."""


class KnownRun:
    """A run as this process knows it.

    Attributes:
        state: of the stage within which it is written.
        run_id: its local id, by which it is called in the journal.
        own: True if it was created here, or is the stage run: then all of it can be told without the server. False for
            a run that was there before.
        complete: True if all of its tags and params are known here.
        name: its name.
        user_id: MLflow's user.
        start_time: milliseconds since the epoch.
        end_time: milliseconds since the epoch; None while it is open.
        status: MLflow's status.
        deleted: True once it was deleted here.
        artifact_uri: where its artifacts are; empty while that is not known.
        params: its params.
        tags: its tags.
        latest: the last point of each metric: the one that MLflow shows.
        kept: how many points it has.
        points: all points by metric; None once there were too many to keep.
        inputs: MLflow's dataset inputs that were logged here.
        input_models: ids of the models that it read, as they were logged here.
        output_models: MLflow's model outputs that were logged here.
    """

    def __init__(
        self,
        state: StageState,
        run_id: str,
        *,
        own: bool,
        complete: bool,
        experiment_id: str,
        name: str,
        start_time: int,
        tags: Mapping[str, str],
        user_id: str = "",
        artifact_uri: str = "",
    ) -> None:
        self.state = state
        self.run_id = run_id
        self.own = own
        self.complete = complete
        self._experiment_id = experiment_id
        self.name = name
        self.user_id = user_id
        self.start_time = start_time
        self.end_time: int | None = None
        self.status = "RUNNING"
        self.deleted = False
        self.artifact_uri = artifact_uri
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = dict(tags)
        self.latest: dict[str, Point] = {}
        self.points: dict[str, list[Point]] | None = {}
        self.kept = 0
        self.inputs: list[Any] = []
        self.input_models: list[str] = []
        self.output_models: list[Any] = []

    @property
    def experiment_id(self) -> str:
        """Id of its experiment; one that is made of its name while nobody could be asked for it."""
        told = self._experiment_id
        if told == PENDING or told.startswith(BY_NAME):
            named = self.recorder.named(self.run_id)
            if named is not None and named.experiment_id:
                self._experiment_id = named.experiment_id
            elif told == PENDING:
                home = home_name(self.state.stage)
                return told if home is None else f"{BY_NAME}{home}"
        return self._experiment_id

    @property
    def recorder(self) -> Recorder:
        """What writes for it."""
        recorder = self.state.recorder
        if recorder is None:
            raise RuntimeError(f"the stage of run {self.run_id} has no journal")
        return recorder

    @property
    def server_id(self) -> str:
        """The server's id of it; the local one while there is none."""
        return (self.recorder.resolve(self.run_id) or self.run_id) if is_provisional(self.run_id) else self.run_id

    @property
    def is_stage_run(self) -> bool:
        """True for the run of the stage itself."""
        return self.run_id == self.state.run_id

    def saw_point(self, point: Point) -> None:
        """Remember a point. As in MLflow the last one of a metric is that of the largest step, time and value."""
        last = self.latest.get(point.key)
        if last is None or (point.step, point.timestamp, point.value) >= (last.step, last.timestamp, last.value):
            self.latest[point.key] = point
        points = self.points
        if points is not None:
            points.setdefault(point.key, []).append(point)
            self.kept += 1
            _room().take()

    @contextmanager
    def claiming(self, params: Mapping[str, str]) -> Iterator[bool]:
        """Have params for the block, in which they are written down; where that fails their names are free again.

        There is no lock for it that a signal handler which logs could find held: of two who want one name at once, the
        first that asks has it.

        Yields:
            True if somebody else has one of the names, with another value.
        """
        free = [name for name in params if name not in self.params]
        lost: set[str] = set()
        try:
            lost.update(name for name, value in params.items() if self.params.setdefault(name, value) != value)
            yield bool(lost)
        except BaseException:
            for name in free:
                if name not in lost:
                    self.params.pop(name, None)
            raise

    def saw_tags(self, tags: Mapping[str, str]) -> None:
        """Remember tags; the one with the run's name renames it."""
        self.tags.update(tags)
        self.name = tags.get("mlflow.runName", self.name)


class Room:
    """How many more points can be kept in memory, by all runs together. A count that two threads blur is put right."""

    def __init__(self) -> None:
        self._left = POINTS_KEPT

    def take(self) -> None:
        """One more is kept. Where there is no room for it, runs give theirs up until half of it is free."""
        self._left -= 1
        if self._left < 0:
            keeping = {id(run): run for run in list(_known().values()) if run.points is not None}.values()
            kept = sum(run.kept for run in keeping)
            for run in sorted(keeping, key=lambda run: (run.end_time is None, -run.kept)):
                if kept <= POINTS_KEPT // 2:
                    break
                run.points = None
                kept -= run.kept
            self._left = POINTS_KEPT - kept


@singleton
def _room() -> Room:
    """That of this process."""
    return Room()


@singleton
def _known() -> dict[str, KnownRun]:
    """The runs by local id, and by the server's id once that was met."""
    return {}


def known_run(run_id: str) -> KnownRun | None:
    """The run with this id, if it is one that is written through the journal of a stage that is open here."""
    run = _known().get(run_id)
    if run is None:
        return None
    state = run.state
    if state.pid != os.getpid():
        state.here()
    return run if state.recorder is not None and state.stage.is_open else None


def known_under_another_id(run_id: str) -> KnownRun | None:
    """The run that is called by a provisional id here, and `run_id` by the server."""
    for run in list(_known().values()):
        if is_provisional(run.run_id) and run.state.stage.is_open and run.server_id == run_id:
            _known()[run_id] = run
            return known_run(run_id)
    return None


def remember(run: KnownRun, *other_ids: str) -> KnownRun:
    """Keep a run; also under other ids that it has. Where two threads met it at once, the first one's is kept."""
    kept = _known().setdefault(run.run_id, run)
    for run_id in other_ids:
        _known().setdefault(run_id, kept)
    return kept


def remember_as(run: KnownRun, run_id: str) -> KnownRun:
    """Keep a run that is known already under another id, too."""
    return _known().setdefault(run_id, run)


def runs_of(state: StageState) -> Iterable[KnownRun]:
    """The runs that are known within a stage."""
    return [run for run in list(_known().values()) if run.state is state]


def forget_runs(state: StageState) -> None:
    """Let go of the runs of a stage that has ended."""
    for run_id, run in list(_known().items()):
        if run.state is state:
            _known().pop(run_id, None)
