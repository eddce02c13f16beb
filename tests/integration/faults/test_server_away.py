"""The server is absent from the start, is killed in the middle of a stage, and comes back afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from harness.process import wait_for
from harness.scene import PATIENT, Scene, Task

if TYPE_CHECKING:
    from harness.mlflow import MlflowServer
    from harness.warm import Warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Outage:
    """What was tried while the server was away; it is back, and what was left is delivered."""

    server: MlflowServer
    scenes: dict[str, Scene]
    tasks: dict[str, Task]


@pytest.fixture(scope="module")
def outage(victim: MlflowServer, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Outage:
    folder = tmp_path_factory.mktemp("outage")
    names = ("mid", "across", "raise", "exit", "absent", "script", "shared")
    scenes = {name: Scene(warm, folder / name, victim.uri) for name in names}
    tasks = {
        "mid": scenes["mid"].start("mid", pauses=("train-0",)),
        "across": scenes["across"].start("across", pauses=("train-0", "evaluate-0")),
    }
    for name in ("mid", "across"):
        tasks[name].at("train-0")
    victim.kill()
    tasks["mid"].go("train-0")
    tasks["across"].go("train-0")
    for ending in ("raise", "exit"):
        tasks[ending] = scenes[ending].start(ending, ending=ending)
    tasks["absent"] = scenes["absent"].start("absent")
    tasks["script"] = scenes["script"].start("script", new=True, script=True)
    for number in range(4):  # tasks of one workflow run, each in a process of its own
        name = f"shared{number}"
        tasks[name] = scenes["shared"].start(name, close=False, stages=1)
    for name, task in tasks.items():
        if name != "across":
            task.child.wait()
    tasks["across"].at("evaluate-0")
    victim.start()
    tasks["across"].go("evaluate-0")
    tasks["across"].child.wait()
    return Outage(victim, scenes, tasks)


@pytest.mark.parametrize("name", ["mid", "across", "raise", "exit", "absent", "script"])
def test_a_task_ends_as_untracked_and_nothing_is_lost(outage: Outage, name: str) -> None:
    stage, task = outage.scenes[name], outage.tasks[name]
    stage.ends_as_untracked(task)
    stage.deliver()
    assert stage.differences(outage.server) == []


def test_tasks_of_one_workflow_run_find_one_parent(outage: Outage) -> None:
    stage = outage.scenes["shared"]
    for task in list(stage.tasks):
        stage.ends_as_untracked(task)
    stage.deliver()
    assert stage.differences(outage.server, closed=False) == []
    closing = stage.start("closing", stages=0, environ=PATIENT)
    stage.ends_as_untracked(closing)
    assert stage.differences(outage.server) == []


def test_no_call_waited_for_the_server(outage: Outage) -> None:
    # MLflow's own calls would wait four minutes each; the untracked code takes none of these seconds.
    for name in ("absent", "raise", "exit"):
        entries = outage.tasks[name].ledger().entries
        slow = [
            (entry.kind, entry.done_at - entry.at)
            for entry in entries
            if entry.done_at and entry.done_at - entry.at > 15_000
        ]
        assert slow == []


def test_the_next_process_delivers_what_the_last_one_left(outage: Outage, warm: Warm) -> None:
    """Nothing but user code runs here, twice: no command, and no service."""
    folder = outage.scenes["absent"].folder.parent / "next"
    stage = Scene(warm, folder, outage.server.uri)
    outage.server.freeze()
    try:
        # What the server refuses is kept for good: without that the folder is empty in the end.
        first = stage.start("first", close=False, once=False)
        stage.ends_as_untracked(first)
    finally:
        outage.server.thaw()
    left = set(stage.left())
    assert left != set()
    second = stage.start("second", pauses=("train-0",), once=False, environ=PATIENT)
    second.at("train-0")
    wait_for(lambda: not left & set(stage.left()), 60, "delivery of what the first process left, by the second one")
    second.go("train-0")
    stage.ends_as_untracked(second)
    assert list(stage.journal.iterdir()) == []
    assert stage.differences(outage.server) == []
