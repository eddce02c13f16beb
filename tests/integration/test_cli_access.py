"""The command line where a file may not be read, a folder not be entered, is no folder, or is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.command import Ended, ended_here
from harness.unprivileged import unprivileged
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, Header, Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    def run(*arguments: str) -> Ended:
        return ended_here(arguments, capsys, monkeypatch, 400)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JournalFolder:
    monkeypatch.setenv("TRACKLAYER_JOURNAL", str(tmp_path / "journals"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return JournalFolder(tmp_path / "journals")


@pytest.fixture
def journal(folder: JournalFolder) -> Path:
    """A journal of a process that died: a param, and a copy of an artifact."""
    live = LiveJournal(folder, Header(1, "https://mlflow.example.com", "pod-7", 1, 1_795_262_400_000), limit=1_048_576)
    live.append(Log("run1", params={"lr": "0.1"}))
    live.append(Artifact("run1", "roc.png", live.keep(b"png")))
    path = live.path
    assert path is not None
    live.close(remove=False)
    return path


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be entered."""
    path = tmp_path / "closed"
    path.mkdir()
    path.chmod(0)
    yield path
    path.chmod(0o700)


class TestAJournalThatMayNotBeRead:
    @pytest.mark.parametrize("what", [".", "*.seg", "files"])
    def test_nobody_is_told_to_remove_it(self, cli: Callable[..., Ended], journal: Path, what: str) -> None:
        [path] = journal.glob(what) if what != "." else [journal]
        cli("journal", "verify")
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            with unprivileged():
                ended, told = cli("journal", "verify"), cli("journal", "verify", str(journal), "--format", "json")
        finally:
            path.chmod(mode)
        assert ended.code == told.code == 1
        assert f"{journal.name}: CANNOT BE READ" in ended.out
        assert "cannot be read: Permission denied" in ended.out
        assert "let this user read it" in ended.out
        assert "remove" not in ended.out
        [damage] = json.loads(told.out)["journals"][0]["damages"]
        assert damage["errno"]
        assert cli("journal", "verify").code == 0

    def test_one_whose_beginning_was_read_and_is_no_header_may_go(
        self, cli: Callable[..., Ended], journal: Path
    ) -> None:
        [segment] = journal.glob("*.seg")
        segment.write_bytes(b"\xff" * 200)
        ended = cli("journal", "verify")
        assert "remove it, if you do not want it" in ended.out


class TestAFolderThatMayNotBeEntered:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("journal", "ls", "--folder", "{}/sub"),
            ("journal", "ls", "--folder", "{}"),
            ("journal", "verify", "--folder", "{}/sub"),
            ("journal", "show", "{}/x"),
            ("flush", "--from", "{}/sub"),
            ("flush", "--from", "file://{}/sub"),
            ("lineage", "0123456789ab", "--tracking-uri", "sqlite:///{}/x.db"),
            ("reconcile", "--tracking-uri", "sqlite:///{}/x.db"),
        ],
    )
    def test_it_is_named_with_what_to_do(
        self,
        cli: Callable[..., Ended],
        closed: Path,
        folder: JournalFolder,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        with unprivileged():
            ended = cli(*(argument.format(closed) for argument in arguments))
        assert ended.code == 1
        assert f"{closed}" in ended.err
        assert "cannot be read: Permission denied; let this user" in ended.err
        assert "should not have happened" not in ended.err
        assert "No journals" not in ended.out

    def test_the_doctor_finds_it(self, cli: Callable[..., Ended], closed: Path, folder: JournalFolder) -> None:
        with unprivileged():
            ended = cli("doctor", "--tracking-uri", f"sqlite:///{closed}/x.db", "--format", "json")
        assert ended.code == 1
        [problem] = [finding for finding in ended.json["findings"] if finding["level"] == "problem"]
        assert (problem["section"], problem["name"]) == ("Server", "answer")
        assert f"the database {closed}/x.db cannot be read: Permission denied" in problem["text"]


class TestAWorkingDirectoryThatWasRemoved:
    @pytest.fixture
    def gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "gone"
        path.mkdir()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        monkeypatch.chdir(path)
        path.rmdir()

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("journal", "ls"), "there is no folder journals: the working directory was removed"),
            (("journal", "verify"), "there is no folder journals: the working directory was removed"),
            (("flush",), "there is no folder journals: the working directory was removed"),
            (("journal", "ls", "--folder", "rel"), "there is no folder rel: the working directory was removed"),
            (("flush", "--from", "rel"), "there is no folder rel: the working directory was removed"),
            (("lineage", "0123456789ab", "--tracking-uri", "sqlite:///x.db"), "there is no database x.db"),
        ],
    )
    def test_what_is_relative_is_named(
        self,
        cli: Callable[..., Ended],
        gone: None,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        told: str,
    ) -> None:
        monkeypatch.setenv("TRACKLAYER_JOURNAL", "journals")
        ended = cli(*arguments)
        assert ended.code == 1
        assert told in ended.err
        assert "FileNotFoundError" not in ended.err

    def test_the_doctor_finds_it(self, cli: Callable[..., Ended], gone: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRACKLAYER_JOURNAL", "journals")
        ended = cli("doctor", "--tracking-uri", "sqlite:///x.db", "--format", "json")
        assert ended.code == 1
        problems = [finding["text"] for finding in ended.json["findings"] if finding["level"] == "problem"]
        assert any("there is no database x.db" in text and "was removed" in text for text in problems)
        assert any("there is no folder journals: the working directory was removed" in text for text in problems)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [("journal", "ls"), ("doctor", "--format", "json"), ("--help",)])
def test_a_full_disk_behind_standard_output_is_told_as_such(arguments: tuple[str, ...]) -> None:
    program = [sys.executable, "-c", "from tracklayer.cli import main; main()", *arguments]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert ended.returncode == 1
    assert "the output cannot be written: [Errno 28] No space left on device" in ended.stderr
    assert "should not have happened" not in ended.stderr


class TestAFileInPlaceOfTheJournalFolder:
    @pytest.mark.parametrize("below", ["", "/journal"])
    @pytest.mark.parametrize("arguments", [("journal", "ls"), ("journal", "verify"), ("flush",)])
    def test_it_is_trouble(
        self,
        cli: Callable[..., Ended],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        below: str,
    ) -> None:
        file = tmp_path / "file"
        file.touch()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setenv("TRACKLAYER_JOURNAL", f"{file}{below}")
        ended = cli(*arguments)
        assert ended.code == 1
        assert f"{file} is no folder" in ended.err
        assert "nothing was logged to it yet" not in ended.err


class TestExitCodesOfAJournalFolder:
    @pytest.mark.parametrize("command", ["ls", "verify"])
    def test_one_that_may_not_be_read_is_a_problem_and_no_mistake_of_the_command_line(
        self, cli: Callable[..., Ended], closed: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        monkeypatch.setattr("os.access", lambda *_, **__: False)  # it asks for the real user, who is root here
        with unprivileged():
            ended = cli("journal", command, "--folder", str(closed))
        assert ended.code == 1
        assert f"{closed} cannot be read: Permission denied" in ended.err

    def test_that_of_the_setting_need_not_be_there_yet(self, cli: Callable[..., Ended], folder: JournalFolder) -> None:
        ended = cli("journal", "ls")
        assert ended.code == 0
        assert f"There is no folder {folder.path}, where journals are by the setting journal" in ended.err
        assert cli("journal", "ls", "--folder", str(folder.path)).code == 1
