"""What a process remembers of the runs that MLflow is asked about: enough to answer, and never much."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tracklayer.journal.operations import Point
from tracklayer.mlflow_plugins.known_runs import POINTS_KEPT, KnownRun, forget_runs, remember

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1_000_000


@pytest.fixture
def state() -> Iterator[Any]:
    """Stands for the stage in which runs are made; nothing of it is asked for here."""
    stage = SimpleNamespace(run_id="stage")
    yield stage
    forget_runs(cast("Any", stage))


def run_of(state: Any, name: str) -> KnownRun:
    return remember(KnownRun(state, name, own=True, complete=True, experiment_id="1", name=name, start_time=1, tags={}))


def log(run: KnownRun, count: int) -> None:
    for step in range(count):
        run.saw_point(Point("loss", step / 7, 1_700_000_000_000 + step, step))


def test_a_study_of_many_trials_takes_no_more_memory_than_one(state: Any) -> None:
    trial = run_of(state, "first")
    tracemalloc.start()
    try:
        for number in range(100):
            trial = run_of(state, f"trial-{number}")
            log(trial, 1_000)
            trial.end_time = 1
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 10 * MB  # all of the points would be more than 20
    assert trial.points is not None
    assert len(trial.points["loss"]) == 1_000


def test_a_run_that_goes_on_keeps_its_points_longer_than_those_that_have_ended(state: Any) -> None:
    stage = run_of(state, "a-stage")
    log(stage, 1_000)
    trials = [run_of(state, f"a-trial-{number}") for number in range(30)]
    for trial in trials:
        log(trial, 1_000)
        trial.end_time = 1
    assert stage.points is not None
    assert trials[0].points is None
    assert trials[0].latest["loss"].step == 999


def test_one_run_with_too_many_points_gives_them_up(state: Any) -> None:
    run, other = run_of(state, "large"), run_of(state, "small")
    log(other, 10)
    log(run, POINTS_KEPT + 1)
    assert run.points is None
    assert other.points is not None
