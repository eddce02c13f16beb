"""The clock is stepped by an hour, forwards and backwards, in the middle of a stage.

The machine's own clock is everybody's: it is turned for the process under test alone, either below Python, by a
library that is loaded before the C library, or by replacing `time.time` and `time.time_ns`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from harness import found
from harness.faults import TURNED_CLOCK, clock_library

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from harness.scene import Scene, Task

pytestmark = pytest.mark.timeout(300)

HOUR = 3600


def _patched(stage: Scene, clock: Path) -> Task:
    return stage.start("a", pauses=("train-0", "train-1"), rounds=3, hold=TURNED_CLOCK.format(path=str(clock)))


def _turned(stage: Scene, clock: Path) -> Task:
    turned = {"LD_PRELOAD": str(clock_library(stage.folder)), "TURNED_CLOCK": str(clock)}
    return stage.start("a", pauses=("train-0", "train-1"), rounds=3, new=True, environ=turned)


@pytest.mark.parametrize("away", [False, True], ids=["server there", "server away"])
@pytest.mark.parametrize("start", [_patched, _turned], ids=["replaced in Python", "turned below Python"])
def test_an_hour_forwards_and_two_back(
    victim: MlflowServer,
    scene: Callable[..., Scene],
    proxy_before: Callable[[str], RecordingProxy],
    start: Callable[[Scene, Path], Task],
    away: bool,
) -> None:
    proxy = proxy_before(victim.uri)
    stage = scene(proxy.uri)
    clock = stage.folder / "clock"
    task = start(stage, clock)
    task.at("train-0")
    if away:
        with proxy.refused():
            _step(task, clock)
            stage.ends_as_untracked(task)
    else:
        _step(task, clock)
        stage.ends_as_untracked(task)
    stage.deliver()
    # The ledger's times are what the clock said to user code, and so must those of runs and points be.
    assert stage.differences(victim) == []
    by_label = {run.label: run for run in found.runs_of(victim, stage.workflow) if run.label}
    train = by_label.pop(f"{stage.workflow}/a.train")
    # Time goes on within what lies between two steps of the clock, and is stepped with it where it lies around one.
    assert all(0 <= lasted(run) < HOUR / 2 for run in by_label.values())
    assert -1.5 * HOUR < lasted(train) < -0.5 * HOUR
    for key in ("own.loss", "ml.auc"):
        moments = [
            moment for _, moment in sorted((step, at) for (name, step), at in train.moments.items() if name == key)
        ]
        turns = [round((later - earlier) / 1000 / HOUR) for earlier, later in pairwise(moments)]
        assert [turn for turn in turns if turn] == [1, -2]  # between the rounds, and nowhere else
        assert all(
            later >= earlier for turn, (earlier, later) in zip(turns, pairwise(moments), strict=True) if not turn
        )


def lasted(run: found.Found) -> float:
    """How long a run seems to have taken, in seconds."""
    assert run.end_time is not None
    return (run.end_time - run.start_time) / 1000


def _step(task: Task, clock: Path) -> None:
    clock.write_text(f"+{HOUR}")
    task.go("train-0")
    task.at("train-1")
    clock.write_text(f"-{HOUR}")
    task.go("train-1")
