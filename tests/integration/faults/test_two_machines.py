"""Two machines run tasks of one workflow run, and one of them, or both, are cut off from the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.namespaces import Machines
from harness.scene import Scene, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.warm import Warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def machines(victim: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with Machines(("east", "west"), victim, tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture(scope="module")
def warmed(machines: Machines) -> Iterator[dict[str, Warm]]:
    with machines.warm("east") as east, machines.warm("west") as west:
        yield {"east": east, "west": west}


@pytest.fixture
def places(machines: Machines, warmed: dict[str, Warm], tmp_path: Path) -> Iterator[dict[str, Scene]]:
    """A scene on each machine, of one and the same workflow, each with a journal of its own."""
    scenes = {name: Scene(warm, tmp_path / name, machines.uri) for name, warm in warmed.items()}
    scenes["west"].workflow = scenes["east"].workflow
    yield scenes
    for name in scenes:
        machines.plug(name)


def outcome(places: dict[str, Scene], server: MlflowServer) -> list[str]:
    """Deliver what is left on both at once, end the workflow run, and compare."""
    running = [scene.warm.command(["flush"], scene.folder, scene.environ) for scene in places.values()]
    for child in running:
        child.wait()
    for scene in places.values():
        scene.deliver()
    east = places["east"]
    east.tasks += places["west"].tasks
    told = east.differences(server, closed=False)
    closing = east.start("closing", stages=0)
    east.ends_as_untracked(closing)
    return told + east.differences(server)


@pytest.mark.parametrize("way", ["pull", "swallow"])
def test_one_is_cut_off_from_the_start(
    machines: Machines, places: dict[str, Scene], victim: MlflowServer, way: str
) -> None:
    cut: Callable[[str], None] = getattr(machines, way)
    cut("west")
    east = places["east"].start("east", close=False)
    west = places["west"].start("west", close=False)
    places["east"].ends_as_untracked(east)
    places["west"].ends_as_untracked(west)
    machines.plug("west")
    assert outcome(places, victim) == []


def test_one_is_cut_off_in_the_middle(machines: Machines, places: dict[str, Scene], victim: MlflowServer) -> None:
    west = places["west"].start("west", close=False, pauses=("train-0",))
    west.at("train-0")
    machines.swallow("west")
    west.go("train-0")
    east = places["east"].start("east", close=False)
    places["east"].ends_as_untracked(east)
    places["west"].ends_as_untracked(west)
    machines.plug("west")
    assert outcome(places, victim) == []


def test_both_are_cut_off_and_come_back_at_once(
    machines: Machines, places: dict[str, Scene], victim: MlflowServer
) -> None:
    tasks: list[tuple[Scene, Task]] = []
    for name, scene in places.items():
        machines.swallow(name)
        tasks += [(scene, scene.start(f"{name}{number}", close=False, stages=1)) for number in range(3)]
    for scene, task in tasks:
        scene.ends_as_untracked(task)
    for name in places:
        machines.plug(name)
    assert outcome(places, victim) == []
