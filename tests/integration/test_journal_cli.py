"""``tracklayer journal`` as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from harness.command import Ended, ended_here
from harness.journal import appended
from tracklayer.context import RunContext, RunRef, TaskRun, Upstream, WorkflowRun
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inspection import followed
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, Begin, Close, End, GivenOut, Header, Log, Point
from tracklayer.journal.progress import Progress
from tracklayer.journal.record import Record
from tracklayer.opening import Opening

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1024 * 1024
NOON = 1_795_262_400_000
SERVER = "https://mlflow.example.com"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    def run(*arguments: str) -> Ended:
        return ended_here(("journal", *arguments), capsys, monkeypatch, 200)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JournalFolder:
    monkeypatch.setenv("TRACKLAYER_JOURNAL", str(tmp_path / "journals"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return JournalFolder(tmp_path / "journals")


def begin(folder: JournalFolder, number: int = 0) -> LiveJournal:
    return LiveJournal(folder, Header(1, SERVER, "pod-7", 4711 + number, NOON + number * 1000), limit=MIB)


def left(folder: JournalFolder, number: int = 0) -> Path:
    """A journal of a process that died: two operations are delivered, two and a copy are not."""
    journal = begin(folder, number)
    journal.append(Log("run1", (Point("loss", 0.5, NOON, 3),), {"lr": "0.1"}, {"team": "risk"}))
    position = appended(journal, GivenOut("run1"))
    journal.append(Artifact("run1", "plots/roc.png", journal.keep(b"png")))
    journal.append(Log("run2", params={"name": "\x1b[31mred\n[bold]two[/bold] lines"}))
    journal.progress.advance(position)
    path = journal.path
    assert path is not None
    journal.close(remove=False)
    return path


class TestList:
    def test_nothing_at_all(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        ended = cli("ls")
        assert ended.code == 0
        assert "everything that was logged here is delivered" in ended.out
        assert cli("ls", "--format", "json").json == {"schema": "tracklayer.journals/1", "folders": [], "journals": []}

    def test_state_server_and_what_is_left_of_each(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        dead = left(folder)
        live = begin(folder, 1)
        live.append(GivenOut("run3"))
        refused = begin(folder, 2)
        refused.append(GivenOut("run4"))
        refused.progress.advance(refused.end)
        refused.progress.refuse("metric", "run4", "k", "v", "no")
        refused.close(remove=True)
        ended = cli("ls")
        assert ended.code == 0
        _, first, second, third, *_ = [" ".join(line.split()) for line in ended.out.splitlines()]
        assert first.startswith(f"{dead.name} left {SERVER} 2 operations, 1 file 0 ")
        assert " live " in second
        assert " 1 operation 0 " in second
        assert f" delivered {SERVER} nothing 1 " in third
        told = cli("ls", "--format", "json").json
        assert told["folders"] == [str(folder.path)]
        assert [(item["state"], item["left"], item["files"], item["refused"]) for item in told["journals"]] == [
            ("left", 2, 1, 0),
            ("live", 1, 0, 0),
            ("delivered", 0, 0, 1),
        ]
        assert {item["tracking_uri"] for item in told["journals"]} == {SERVER}
        live.close(remove=True)

    def test_another_folder(self, cli: Callable[..., Ended], tmp_path: Path) -> None:
        path = left(JournalFolder(tmp_path / "volume"))
        [told] = cli("ls", "--folder", str(tmp_path / "volume"), "--format", "json").json["journals"]
        assert told["name"] == path.name
        ended = cli("ls", "--folder", str(tmp_path / "nowhere"))
        assert ended.code == 1
        assert "there is no folder" in ended.err
        ended = cli("ls", "--folder", str(path))
        assert ended.code == 1
        assert f"is a journal, not a folder of journals: that is {tmp_path / 'volume'}" in ended.err
        assert cli("ls", "--folder", str(tmp_path)).out == "No journals in that folder.\n", "nobody says what it was"

    def test_journals_of_other_users_are_passed_over_and_one_says_so(
        self, cli: Callable[..., Ended], folder: JournalFolder
    ) -> None:
        path = left(folder)
        try:
            os.chown(path, 65534, 65534)
        except PermissionError:
            pytest.skip("only root can give a folder away")
        ended = cli("ls")
        assert path.name not in ended.out
        assert "1 journal of another user is passed over" in ended.err


class TestShow:
    def test_each_operation_is_a_line_without_anything_that_steers_the_terminal(
        self, cli: Callable[..., Ended], folder: JournalFolder
    ) -> None:
        path = left(folder)
        ended = cli("show", path.name[:10])
        assert ended.code == 0
        lines = ended.out.splitlines()
        assert len(lines) == 5
        assert f"tracking_uri: {SERVER}" in lines[0]
        assert "log run1 points: loss=0.5 @3 | params: lr=0.1 | tags: team=risk" in lines[1]
        assert "artifact run1 path: plots/roc.png" in lines[3]
        assert "params: name=?[31mred [bold]two[/bold] lines" in lines[4]
        assert "\x1b" not in ended.out

    def test_what_is_to_be_created_is_told_in_a_few_words(
        self, cli: Callable[..., Ended], folder: JournalFolder
    ) -> None:
        place = WorkflowRun(orchestrator="airflow", workflow="flights", run_id="r1")
        context = RunContext(workflow_run=place, task_run=TaskRun(task="train"))
        parent = Opening(context=context, key="the parent", experiment=None, home="h", name="r1", start_time=NOON)
        upstream = Upstream(run=RunRef(run_id="f" * 32, experiment_id="1"))
        opening = replace(parent, key="the key", name="train", parent=parent, tags={"a": "b"}, upstream=(upstream,))
        journal = begin(folder)
        journal.append(Begin("run1", opening))
        journal.append(Close(context.of_workflow_run(), "FAILED", NOON, error="ValueError"))
        assert journal.path is not None
        _, first, second = cli("show", journal.path.name).out.splitlines()
        assert first.endswith(
            f"begin run1 name: train | key: the key | tags: a=b | parent: the parent | upstream: {'f' * 32}"
        )
        assert (
            f"close context: airflow / flights / r1 | status: FAILED | ended_at: {NOON} | error: ValueError" in second
        )
        *_, told = cli("show", journal.path.name, "--format", "json", "--run", "run1").out.splitlines()
        assert json.loads(told)["opening"]["parent"]["key"] == "the parent"
        journal.close(remove=True)

    def test_json_is_an_object_a_line_with_every_field(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        path = left(folder)
        told = [json.loads(line) for line in cli("show", str(path), "--format", "json").out.splitlines()]
        assert [item["operation"] for item in told] == ["header", "log", "given", "artifact", "log"]
        assert [item["delivered"] for item in told] == [True, True, True, False, False]
        assert told[1]["points"][0] == {
            "key": "loss",
            "value": 0.5,
            "timestamp": NOON,
            "step": 3,
            "model_id": None,
            "dataset_name": None,
            "dataset_digest": None,
        }
        assert told[4]["params"] == {"name": "\x1b[31mred\n[bold]two[/bold] lines"}
        assert all(first["next"] == second["position"] for first, second in pairwise(told))

    def test_only_what_is_left_or_about_one_run(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        path = left(folder)

        def shown(*arguments: str) -> list[str]:
            lines = cli("show", path.name, "--format", "json", *arguments).out.splitlines()
            return [json.loads(line)["operation"] for line in lines]

        assert shown("--left") == ["header", "artifact", "log"]
        assert shown("--run", "run1") == ["header", "log", "given", "artifact"]
        assert shown("--left", "--run", "run2") == ["header", "log"]

    def test_what_is_delivered_behind_something_that_waits_is_not_left(
        self, cli: Callable[..., Ended], folder: JournalFolder
    ) -> None:
        path = left(folder)
        [artifact] = [item for item in followed(path) if isinstance(item, Record) and type(item.operation) is Artifact]
        assert isinstance(artifact.operation, Artifact)
        [info] = folder.journals()
        progress = Progress(path)
        progress.settle(info.end, {"files:run1": artifact.position}, resting=True)
        progress.close()
        told = [json.loads(line) for line in cli("show", path.name, "--format", "json").out.splitlines()]
        assert [item["delivered"] for item in told] == [True, True, True, False, True]
        lines = cli("show", path.name, "--format", "json", "--left").out.splitlines()
        assert [json.loads(line)["operation"] for line in lines] == ["header", "artifact"]
        assert [(item.left, item.delivered) for item in folder.journals()] == [(1, artifact.position)]
        (path / "files" / artifact.operation.file).unlink()
        assert "plots/roc.png" in cli("verify", path.name).out

    def test_numbers_that_json_does_not_know_are_text(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        journal = begin(folder)
        journal.append(Log("a", (Point("x", float("nan"), NOON), Point("y", float("-inf"), NOON))))
        assert journal.path is not None
        *_, line = cli("show", journal.path.name, "--format", "json").out.splitlines()
        assert [point["value"] for point in json.loads(line)["points"]] == ["nan", "-inf"]
        journal.close(remove=True)

    def test_a_name_must_mean_one_journal(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        left(folder), left(folder, 1)
        ended = cli("show", "2026")
        assert ended.code == 1
        assert "2 journals begin with '2026'" in ended.err
        ended = cli("show", "1999")
        assert ended.code == 1
        assert f"there is no journal '1999' in {folder.path}" in ended.err
        ended = cli("show", "./nowhere")
        assert ended.code == 1
        assert "there is no journal in ./nowhere" in ended.err


class TestVerify:
    def test_what_is_whole(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        assert cli("verify").code == 0
        path = left(folder)
        ended = cli("verify")
        assert ended.code == 0
        assert f"{path.name}: whole, 4 operations" in ended.out
        assert cli("verify", path.name, "--format", "json").json["ok"] is True

    def test_a_torn_tail_is_told_and_is_no_damage(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        path = left(folder)
        [segment] = path.glob("*.seg")
        size = segment.stat().st_size
        os.truncate(segment, size - 3)
        ended = cli("verify")
        assert ended.code == 0
        assert "torn tail from position" in ended.out
        told = cli("verify", "--format", "json").json
        assert told["ok"] is True
        [damage] = told["journals"][0]["damages"]
        assert damage["torn"] is True
        assert damage["next"] == size - 3

    def test_damage_is_told_with_its_place_and_reason_and_an_exit_code(
        self, cli: Callable[..., Ended], folder: JournalFolder
    ) -> None:
        path = left(folder)
        left(folder, 1)
        [segment] = path.glob("*.seg")
        position = json.loads(cli("show", path.name, "--format", "json").out.splitlines()[2])["position"]
        with segment.open("r+b") as file:
            file.seek(position + 20)
            file.write(b"\xff\xff")
        ended = cli("verify")
        assert ended.code == 1
        assert f"{path.name}: DAMAGED, 3 operations" in ended.out
        assert f"cannot be read from position {position} on" in ended.out
        assert "the checksum is wrong" in ended.out
        told = cli("verify", "--format", "json").json
        assert (told["ok"], [item["ok"] for item in told["journals"]]) == (False, [False, True])
        shown = [json.loads(line) for line in cli("show", path.name, "--format", "json").out.splitlines()]
        assert [item["operation"] for item in shown] == ["header", "log", None, "artifact", "log"]
        assert shown[2]["position"] == position
        assert cli("ls", "--format", "json").json["journals"][0]["state"] == "damaged"

    def test_a_copy_that_is_missing_is_told_if_it_is_still_to_be_delivered(
        self, cli: Callable[..., Ended], folder: JournalFolder
    ) -> None:
        path = left(folder)
        [copy] = (path / "files").iterdir()
        copy.unlink()
        ended = cli("verify")
        assert ended.code == 1
        assert "the copy of the artifact plots/roc.png is missing" in ended.out


def test_a_file_that_cannot_be_read_at_all_is_damage(cli: Callable[..., Ended], folder: JournalFolder) -> None:
    path = left(folder)
    [segment] = path.glob("*.seg")
    segment.rename(path / "elsewhere")
    segment.symlink_to(path / "elsewhere")
    ended = cli("verify")
    assert ended.code == 1
    assert f"{path.name}: DAMAGED" in ended.out
    assert "the file cannot be read: Too many levels of symbolic links" in ended.out
    assert " damaged " in cli("ls").out
    assert "cannot be read" in cli("show", path.name).out


def test_what_is_delivered_while_it_is_shown_is_no_failure(cli: Callable[..., Ended], folder: JournalFolder) -> None:
    journal = begin(folder)
    for number in range(5_000):
        journal.append(GivenOut(f"run{number}"))
    assert journal.path is not None
    first, second, third, *_ = sorted(journal.path.glob("*.seg"))
    seen = followed(journal.path)
    next(seen)
    first.unlink()
    second.unlink()
    items = list(seen)
    assert all(isinstance(item, Record) for item in items)
    positions = [item.position for item in items]
    assert positions == sorted(set(positions))
    assert int(third.stem) in positions
    assert not [position for position in positions if int(second.stem) <= position < int(third.stem)]
    journal.close(remove=True)


def test_it_looks_at_the_journal_of_a_process_that_lives_without_disturbing_it(
    cli: Callable[..., Ended], folder: JournalFolder
) -> None:
    journal = begin(folder)
    for number in range(50):
        journal.append(GivenOut(f"run{number}"))
        if number % 10 == 0:
            for command in (("ls",), ("verify",)):
                assert cli(*command).code == 0
    journal.append(End("run1", "FINISHED", NOON))
    assert len(journal.read(0)) == 52
    journal.close(remove=True)


def test_a_pipe_that_is_closed_early_is_no_failure(folder: JournalFolder) -> None:
    journal = begin(folder)
    for number in range(5000):
        journal.append(GivenOut(f"run{number}"))
    assert journal.path is not None
    program = "from tracklayer.cli import main; main()"
    command = [sys.executable, "-c", program, "journal", "show", journal.path.name, "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        shown.stdout.readline()
        shown.stdout.close()
        assert b"Error" not in shown.stderr.read()
    journal.close(remove=True)
