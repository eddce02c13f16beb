"""The journal's disk is full or read-only, its folder cannot be made or vanishes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from harness import found
from harness.faults import disk, fill
from harness.process import wait_for
from harness.scene import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from harness.scene import Scene

pytestmark = pytest.mark.timeout(300)

NO_FILE_GROWS = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
"""Code for a process whose disk is full as far as it can tell: no file of it grows over so many bytes."""


@pytest.mark.parametrize("left", [0, 24_576], ids=["from the start", "in the middle"])
def test_a_full_disk_while_the_server_is_there(
    victim: MlflowServer, scene: Callable[..., Scene], tmp_path: Path, left: int
) -> None:
    stage = scene(victim.uri, environ=PATIENT)
    with disk(tmp_path / "disk", 1_048_576) as small:
        stage.journal = small / "journal"
        stage.environ |= {"TRACKLAYER_JOURNAL": str(stage.journal), "TMPDIR": str(small)}
        fill(small, left)
        task = stage.start("a", rounds=8, temporary=False)
        ended = stage.ends_as_untracked(task)
        stage.deliver()
        assert stage.differences(victim) == []
    assert "journal" in ended.errors


def test_a_disk_that_fills_while_the_server_is_away(
    victim: MlflowServer,
    scene: Callable[..., Scene],
    tmp_path: Path,
    proxy_before: Callable[[str], RecordingProxy],
) -> None:
    proxy = proxy_before(victim.uri)
    stage = scene(proxy.uri, environ=PATIENT)
    with disk(tmp_path / "disk", 1_048_576) as small:
        stage.journal = small / "journal"
        stage.environ |= {"TRACKLAYER_JOURNAL": str(stage.journal), "TMPDIR": str(small)}
        task = stage.start("a", rounds=4, pauses=("train-0", "evaluate-3"), temporary=False)
        task.at("train-0")
        with proxy.refused():
            fill(small, 8_192)
            task.go("train-0")
            task.at("evaluate-3")
        # The parent, and of each stage its own, one for each round, and one in another experiment.
        runs = 1 + 2 * (1 + 4 + 1)
        # It came back before the end: else what no disk took is lost with the process, as the page of promises says.
        wait_for(lambda: found.count_runs(victim, stage.workflow) == runs, 60, "delivery from memory")
        task.go("evaluate-3")
        stage.ends_as_untracked(task)
        stage.deliver()
        assert stage.differences(victim) == []


def test_no_file_may_grow(victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    stage = scene(victim.uri)
    # The ledger is a file of the process, too: it has grown to less than this when the code ends.
    task = stage.start("a", hold=NO_FILE_GROWS.format(size=20_000), stages=1, rounds=2, close=False)
    stage.ends_as_untracked(task)
    stage.deliver()
    assert stage.differences(victim, closed=False) == []


@pytest.mark.parametrize("away", [False, True], ids=["server there", "server away"])
@pytest.mark.parametrize("trouble", ["read-only", "below a file"])
def test_no_journal_can_be_made_where_it_should_be(
    victim: MlflowServer,
    scene: Callable[..., Scene],
    tmp_path: Path,
    proxy_before: Callable[[str], RecordingProxy],
    trouble: str,
    away: bool,
) -> None:
    proxy = proxy_before(victim.uri)
    stage = scene(proxy.uri)

    def work() -> None:
        if away:
            with proxy.refused():
                stage.ends_as_untracked(stage.start("a"))
        else:
            stage.ends_as_untracked(stage.start("a"))
        stage.deliver(misplaced=trouble == "below a file")
        assert stage.differences(victim) == []

    if trouble == "read-only":
        with disk(tmp_path / "disk", 1_048_576, read_only=True) as small:
            stage.environ |= {"TRACKLAYER_JOURNAL": str(small / "journal")}
            work()
    else:
        (tmp_path / "file").touch()
        stage.environ |= {"TRACKLAYER_JOURNAL": str(tmp_path / "file" / "journal")}
        work()


def test_the_journal_vanishes_in_the_middle(victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    stage = scene(victim.uri)
    task = stage.start("a", rounds=3, pauses=("train-0",))
    task.at("train-0")
    # Copies of artifacts that are in the folder go with it.
    wait_for(lambda: not list(stage.journal.glob("*/files/*")), 60, "delivery of the artifacts")
    shutil.rmtree(stage.journal)
    task.go("train-0")
    stage.ends_as_untracked(task)
    stage.deliver()  # a busy machine looks like a server that is away
    assert stage.differences(victim) == []


@pytest.mark.parametrize("back", ["before the end", "after the end"])
def test_the_journal_vanishes_while_the_server_is_away(
    victim: MlflowServer, scene: Callable[..., Scene], proxy_before: Callable[[str], RecordingProxy], back: str
) -> None:
    proxy = proxy_before(victim.uri)
    stage = scene(proxy.uri)
    with proxy.refused():
        # Copies of artifacts in the folder go with it: there are none.
        task = stage.start("a", rounds=3, pauses=("train-1", "evaluate-1"), files=False)
        task.at("train-1")
        shutil.rmtree(stage.journal)
        task.go("train-1")
        task.at("evaluate-1")
        if back == "after the end":
            task.go("evaluate-1")
            stage.ends_as_untracked(task)
    if back == "before the end":
        task.go("evaluate-1")
        stage.ends_as_untracked(task)
    stage.deliver()
    assert stage.differences(victim) == []


def test_copies_of_artifacts_that_vanish_are_told(
    victim: MlflowServer, scene: Callable[..., Scene], proxy_before: Callable[[str], RecordingProxy]
) -> None:
    proxy = proxy_before(victim.uri)
    stage = scene(proxy.uri)
    with proxy.refused():
        task = stage.start("a", rounds=1, stages=1, once=False, nested=False, pauses=("train-0",))
        task.at("train-0")
        shutil.rmtree(stage.journal)
        task.go("train-0")
        stage.ends_as_untracked(task)
    stage.deliver()
    (label,) = {entry.run for entry in task.ledger().entries if entry.kind == "artifact"}
    wrong = [text.removeprefix(f"{label}: ") for text in stage.differences(victim)]
    assert [text.partition(": ")[0] for text in wrong] == ["3 values were refused, not 0", "3 artifacts of 3 lost"]
    assert {item["key"] for item in stage.refusals()} == {"own/0.txt", "ml/0.txt", "ml/a-file-0.txt"}
