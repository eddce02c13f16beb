"""What is held in memory where no file can be written goes to the disk as soon as that takes it, artifacts first."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest

from harness.journal import MIB, NOON, everything, header, point, points_on, steps
from harness.patience import patient
from harness.process import wait_for
from tracklayer.backend import open_backend
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, GivenOut, Log, Point
from tracklayer.journal.recorder import Recorder
from tracklayer.provisional import provisional_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer


@contextlib.contextmanager
def full(small_disk: Path, *, but: int = 0) -> Iterator[None]:
    """While this is entered the disk has room for so many bytes, about, and no more."""
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(ballast.stat().st_size - but, 0))
    try:
        yield
    finally:
        ballast.unlink()


def as_killed(journal: LiveJournal, elsewhere: Path) -> LeftJournal:
    """What a process would leave that is killed now."""
    assert journal.path is not None
    left = LeftJournal.take(shutil.copytree(journal.path, elsewhere / journal.path.name))
    assert left is not None
    return left


def test_what_is_in_memory_goes_to_the_disk_though_the_server_is_there_and_nothing_more_is_logged(
    mlflow_server: MlflowServer, small_disk: Path
) -> None:
    """What waits is for a run that somebody else has still to deliver; nobody appends, and no attempt fails."""
    settings = patient(mlflow_server.uri, journal=str(small_disk))
    backend = open_backend(settings)
    assert backend is not None
    recorder = Recorder(backend, settings)
    of_another = provisional_id()
    with full(small_disk, but=50_000):
        for step in range(1_500):
            recorder.append(Log(of_another, (Point("loss", 1.0, NOON, step),)))
        name = recorder.keep(bytes(60_000))
        recorder.append(Artifact(of_another, "model.bin", name))
        assert recorder.flush(60)  # settled: what is held is waited for by nobody
        assert of_another in recorder.held
        assert points_on(small_disk) < 1_500
    wait_for(lambda: points_on(small_disk) == 1_501, 15, "what was in memory, on the disk")
    assert not recorder.away
    [copy] = small_disk.glob("*/files/*")
    assert copy.read_bytes() == bytes(60_000)
    assert not recorder.close()


def test_copies_in_memory_go_to_the_disk_and_can_be_read_meanwhile(small_disk: Path, tmp_path: Path) -> None:
    journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
    content = random.Random(1).randbytes(100_000)
    with full(small_disk):
        name = journal.keep(content)
        for step in range(200):
            journal.append(point(step))
        journal.append(Artifact("a", "model.bin", name))
        assert (journal._files.held, journal._files.size) == (100_000, 0)
        journal.save()
        assert journal.look()
    assert journal.path is not None
    copy = journal.path / "files" / name
    with journal.file(name).open("rb") as reading:
        begun = reading.read(50_000)
        journal.save()
        assert begun + reading.read() == content
    assert not journal.at_risk
    assert (journal._files.held, journal._files.size) == (100_000, 100_000)
    assert copy.read_bytes() == journal.file(name).read_bytes() == content
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    left = as_killed(journal, tmp_path)
    assert everything(left)[-1] == Artifact("a", "model.bin", name)
    assert left.file(name).read_bytes() == content
    left.close(remove=True)
    in_memory = journal.file(name)
    journal.progress.advance(journal.end)
    assert not copy.exists()
    assert not in_memory.exists()
    assert (journal._files.held, journal._files.size) == (0, 0)
    journal.close(remove=True)


@pytest.mark.parametrize("durable", [True, False])
def test_a_copy_is_on_the_disk_before_the_record_that_names_it(
    small_disk: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB, durable=durable)
    with full(small_disk):
        journal.append(Log("a", params={"p": "x" * 5_000}))
        name = journal.keep(bytes(10_000))
        journal.append(Artifact("a", "model.bin", name))
    assert journal.path is not None
    there: list[bool] = []

    def opened(path: Path, *more: Any, **named: Any) -> int:
        if str(path).endswith(".seg"):
            there.append((journal.path / "files" / name).read_bytes() == bytes(10_000))  # type: ignore[operator]
        return really(path, *more, **named)

    really = os.open
    monkeypatch.setattr("os.open", opened)
    journal.save()
    assert there == [True]
    assert not journal.at_risk
    journal.close(remove=True)


def test_what_a_signal_handler_logs_while_memory_is_written_is_not_lost(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
    with full(small_disk):
        for step in range(200):
            journal.append(point(step))

    def opened(path: Path, *more: Any, **named: Any) -> int:
        if str(path).endswith(".seg"):
            signal.raise_signal(signal.SIGALRM)
        return really(path, *more, **named)

    really = os.open
    monkeypatch.setattr("os.open", opened)
    before = signal.signal(signal.SIGALRM, lambda *_: journal.append(point(200)))
    try:
        journal.save()
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGALRM, before)
    assert not journal.at_risk
    journal.append(point(201))
    assert steps(everything(journal)) == list(range(202))
    left = as_killed(journal, tmp_path)
    assert steps(everything(left)) == list(range(202))
    left.close(remove=True)
    journal.close(remove=True)


def test_a_copy_for_which_there_is_no_room_keeps_nothing_else_from_the_disk(small_disk: Path, tmp_path: Path) -> None:
    journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
    with full(small_disk):
        big, small = journal.keep(bytes(150_000)), journal.keep(b"small")
        journal.append(Artifact("a", "big", big))
        journal.append(Artifact("a", "small", small))
        for step in range(200):
            journal.append(point(step))
    with full(small_disk, but=100_000):
        wait_for(lambda: journal.look() and points_on(small_disk) == 202, 10, "all but the copy, on the disk")
        left = as_killed(journal, tmp_path)
        assert steps(everything(left)) == list(range(200))
        assert left.file(small).read_bytes() == b"small"
        assert not left.file(big).exists()
        left.close(remove=True)
        assert journal.file(big).read_bytes() == bytes(150_000)
    wait_for(lambda: not journal.look(), 10, "the copy, on the disk")
    left = as_killed(journal, tmp_path)
    assert left.file(big).read_bytes() == bytes(150_000)
    left.close(remove=True)
    journal.close(remove=True)


def test_copies_in_memory_go_to_a_folder_that_could_not_be_made_before(small_disk: Path) -> None:
    folder = JournalFolder(small_disk / "journals")
    (small_disk / "journals").touch()  # something is in its way
    journal = LiveJournal(folder, header(), limit=MIB)
    name = journal.keep(b"model")
    journal.append(Artifact("a", "model.bin", name))
    assert not folder.paths()
    assert journal.look()
    (small_disk / "journals").unlink()
    with full(small_disk):  # a folder is made, and taken back
        journal.save()
        assert journal.look()
        assert (journal._files.held, journal._files.size) == (5, 0)
        assert journal.file(name).read_bytes() == b"model"
    journal.close(remove=False)
    [path] = folder.left()
    left = LeftJournal.take(path)
    assert left is not None
    assert everything(left) == [Artifact("a", "model.bin", name)]
    assert left.file(name).read_bytes() == b"model"
    left.close(remove=True)


def test_a_copy_stays_readable_when_somebody_removes_the_folder_that_has_it(small_disk: Path) -> None:
    journal = LiveJournal(JournalFolder(small_disk), header(), limit=MIB)
    with full(small_disk):
        name = journal.keep(bytes(50_000))
        journal.append(Artifact("a", "model.bin", name))
    journal.save()
    assert not journal.at_risk
    assert journal.path is not None
    first = journal.path
    shutil.rmtree(first)
    wait_for(lambda: not journal.look() and journal.path not in {None, first}, 10, "a new folder")
    assert journal.file(name).read_bytes() == bytes(50_000)
    assert (journal.path / "files" / name).read_bytes() == bytes(50_000)
    assert (journal._files.held, journal._files.size) == (50_000, 50_000)
    journal.close(remove=True)


def test_looking_costs_nothing_to_speak_of(small_disk: Path) -> None:
    journal = LiveJournal(JournalFolder(small_disk), header(), limit=MIB)
    journal.append(GivenOut("a"))
    begun = time.perf_counter()
    assert not any(journal.look() for _ in range(10_000))
    assert time.perf_counter() - begun < 1.0  # 100 us each, once for each wait of a thread
    journal.close(remove=True)
