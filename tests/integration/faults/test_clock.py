"""The clock is stepped by an hour, forwards and backwards, in the middle of a stage.

The machine's own clock is everybody's: it is turned for the process under test alone, either below Python, by a
library that is loaded before the C library, or by replacing `time.time` and `time.time_ns`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
    # The runs' times are what the clock said: they are not compared.
    assert stage.differences(victim, times=False) == []


def _step(task: Task, clock: Path) -> None:
    clock.write_text(f"+{HOUR}")
    task.go("train-0")
    task.at("train-1")
    clock.write_text(f"-{HOUR}")
    task.go("train-1")
