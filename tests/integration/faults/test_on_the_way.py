"""What happens between a task and a sound server: refused, swallowed, reset, cut, wrong answers, lost answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from harness.faults import INJURIES, Unreliable, hole_at
from harness.scene import Scene, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from harness.warm import Warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 2026
KINDS = {
    **{name: [name] for name in INJURIES},
    "silence": ["silence"],
    "late": ["late"],
    "all of them": [*INJURIES, "silence", "late"],
}


@dataclass
class Injured:
    """A task behind a proxy that injures about half of all requests."""

    proxy: Unreliable
    scene: Scene
    task: Task


@pytest.fixture(scope="module")
def injured(victim: MlflowServer, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Injured]]:
    folder = tmp_path_factory.mktemp("injured")
    there: dict[str, Injured] = {}
    for number, (kind, injuries) in enumerate(KINDS.items()):
        proxy = Unreliable(victim.uri, injuries, chance=0.5, seed=SEED + number)
        # Without a pace a task is over before its sender has met many faults.
        stage = Scene(warm, folder / str(number), proxy.uri, environ={"TRACKLAYER_TIMEOUT": "1"})
        there[kind] = Injured(proxy, stage, stage.start("a", pace=0.02))
    yield there
    for one in there.values():
        one.proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_all_requests_are_injured(victim: MlflowServer, injured: dict[str, Injured], kind: str) -> None:
    one = injured[kind]
    one.scene.ends_as_untracked(one.task)
    assert one.proxy.injured > 0
    one.proxy.sound()
    one.scene.deliver()
    assert one.scene.differences(victim) == []


@pytest.mark.parametrize("swallowed", [False, True], ids=["refused", "black-holed"])
def test_the_way_is_gone_for_a_while(
    victim: MlflowServer,
    scene: Callable[..., Scene],
    proxy_before: Callable[[str], RecordingProxy],
    swallowed: bool,
) -> None:
    proxy = proxy_before(victim.uri)
    mid, absent = scene(proxy.uri), scene(proxy.uri)
    first = mid.start("mid", pauses=("train-0", "evaluate-0"))
    first.at("train-0")
    with proxy.refused():
        if swallowed:
            with hole_at(proxy.port):
                second = _within(mid, first, absent)
        else:
            second = _within(mid, first, absent)
    first.go("evaluate-0")
    mid.ends_as_untracked(first)
    for stage in (mid, absent):
        stage.deliver()
        assert stage.differences(victim) == []
    assert second.ledger().acknowledged() > 0


def _within(mid: Scene, first: Task, absent: Scene) -> Task:
    """What happens while the way is gone: one task goes on, another one begins and ends."""
    first.go("train-0")
    second = absent.start("absent")
    absent.ends_as_untracked(second)
    first.at("evaluate-0")
    return second


def test_what_was_left_behind_is_delivered_on_an_injured_way(victim: MlflowServer, warm: Warm, tmp_path: Path) -> None:
    """Thousands of points, many by each call, are gathered, cut and sent again in other pieces than before."""
    proxy = Unreliable(victim.uri, KINDS["all of them"], chance=0.6, seed=SEED)
    stage = Scene(warm, tmp_path / "scene", proxy.uri, environ={"TRACKLAYER_TIMEOUT": "1"})
    try:
        with proxy.refused():
            stage.ends_as_untracked(stage.start("left", rounds=1, stages=1, files=False, many=40))
        for _ in range(3):
            warm.command(["flush"], stage.folder, stage.environ).wait(180.0)
            if not stage.left():
                break
        assert proxy.injured > 3
        proxy.sound()
        stage.deliver()
        assert stage.differences(victim) == []
    finally:
        proxy.close()
