"""What a journal does with the disk: one write for each append, synced where the settings say so, for its owner only."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from harness.journal import MIB, header, point
from tracklayer import settings as settings_module
from tracklayer.journal.folder import JournalFolder, is_settled
from tracklayer.journal.live import LiveJournal, open_journal
from tracklayer.journal.operations import Artifact, GivenOut, Log
from tracklayer.journal.progress import Progress
from tracklayer.journal.thinning import LEAST
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracklayer.journal.operations import Operation

Place = tuple[int, int]


class Disk:
    """What was written to files, and how much of each is on the disk by now. Files are known by device and inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes: list[tuple[Place, int]] = []
        self.synced: dict[Place, int] = {}
        self.syncs = 0
        self._write = os.write
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._syncing(getattr(os, name)))
        for name in ("write", "pwrite", "writev"):
            monkeypatch.setattr(os, name, self._writing(getattr(os, name)))

    @staticmethod
    def place(found: os.stat_result) -> Place:
        return found.st_dev, found.st_ino

    def _syncing(self, really: Any) -> Any:
        def sync(descriptor: int) -> None:
            found = os.fstat(descriptor)
            really(descriptor)
            self.syncs += 1
            self.synced[self.place(found)] = found.st_size

        return sync

    def _writing(self, really: Any) -> Any:
        def write(descriptor: int, *told: Any) -> int:
            done = int(really(descriptor, *told))
            self.writes.append((self.place(os.fstat(descriptor)), done))
            return done

        return write

    def has(self, path: Path) -> bool:
        """Whether all of a file is on the disk."""
        found = path.stat()
        return self.synced.get(self.place(found)) == found.st_size


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return JournalFolder(tmp_path / "journals")


@pytest.fixture
def open_to_all() -> Iterator[None]:
    """A user who lets everybody read and write what his programs make."""
    before = os.umask(0)
    yield
    os.umask(before)


def last(journal: LiveJournal) -> Path:
    """The segment that is written."""
    assert journal.path is not None
    return max(journal.path.glob("*.seg"))


def modes(folder: Path) -> dict[str, int]:
    """By their paths, the modes of all that is in a folder."""
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    "operation",
    [
        point(7),
        Log("a", params={"p": "x" * 6_000}, tags={"t": "y" * 8_000}),
        Log("a", tuple(point(step).points[0] for step in range(1_000))),
        GivenOut("a"),
    ],
    ids=["a point", "long values", "a thousand points", "a few bytes"],
)
def test_an_append_is_one_write_and_then_it_is_in_the_file(
    folder: JournalFolder, disk: Disk, operation: Operation
) -> None:
    journal = LiveJournal(folder, header(), limit=64 * MIB)
    path = last(journal)
    for _ in range(20):
        before = path.stat().st_size
        disk.writes.clear()
        journal.append(operation)
        found = path.stat()
        assert disk.writes == [(disk.place(found), found.st_size - before)]
    journal.close(remove=True)


@pytest.mark.parametrize("rotated", [False, True])
def test_with_the_setting_disk_all_is_on_the_disk_before_a_call_returns(
    folder: JournalFolder, disk: Disk, rotated: bool
) -> None:
    told = {"durability": "disk", "journal": str(folder.path), "journal_limit": MIB if rotated else 64 * MIB}
    settings = settings_module.load(told)
    journal = open_journal(settings, header())
    assert journal.path is not None
    first = last(journal)
    for _ in range(150):
        journal.append(Log("a", params={"p": "x" * 1_000}))
        assert disk.has(last(journal))
    assert (last(journal) != first) is rotated
    name = journal.keep(b"model")
    assert disk.has(journal.file(name))
    journal.progress.trying("a")
    assert disk.has(journal.path / "progress")
    journal.progress.refuse("metric", "a", "k", "v", "no")
    assert disk.has(journal.path / "refused.jsonl")
    journal.close(remove=True)


def test_with_the_setting_cache_nobody_waits_for_the_disk(folder: JournalFolder, disk: Disk) -> None:
    settings = settings_module.load({"durability": "cache", "journal": str(folder.path), "journal_limit": MIB})
    assert settings.durability == Settings().durability, "the default"
    journal = open_journal(settings, header())
    for _ in range(150):
        journal.append(Log("a", params={"p": "x" * 1_000}))
    journal.append(Artifact("a", "model.bin", journal.keep(b"model")))
    journal.progress.trying("a")
    journal.progress.refuse("metric", "a", "k", "v", "no")
    journal.close(remove=True)
    assert len(disk.writes) > 150
    assert disk.syncs == 0


@pytest.mark.usefixtures("open_to_all")
def test_whatever_is_in_a_journal_is_for_its_owner_only(folder: JournalFolder) -> None:
    journal = LiveJournal(folder, header(), limit=MIB)
    journal.append(GivenOut("a"))
    journal.keep(b"x")
    journal.progress.advance(10)
    journal.progress.refuse("metric", "a", "k", "v", "no")
    assert journal.path is not None
    found = modes(journal.path)
    assert {name for name in found if "/" not in name} >= {f"{0:020}.seg", "progress", "refused.jsonl", "files"}
    assert found.pop("files") == 0o700
    assert set(found.values()) == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder.path, journal.path)} == {0o700}
    journal.close(remove=False)
    (journal.path / "progress").unlink()
    whoever_delivers_it = Progress(journal.path)
    whoever_delivers_it.trying("a")
    assert modes(journal.path)["progress"] == 0o600
    whoever_delivers_it.close()


@pytest.mark.usefixtures("open_to_all")
def test_so_is_what_was_written_anew_and_what_stays_for_the_refused_values(folder: JournalFolder) -> None:
    journal = LiveJournal(folder, header(), limit=2 * MIB)
    journal.append(point(0, "w"))
    first = last(journal)
    while journal.end < 1.2 * MIB:
        journal.append(point(1))
    before = first.stat()
    journal.thin(journal.end, frozenset({"w"}))
    after = first.stat()
    assert after.st_ino != before.st_ino, "it is another file"
    assert after.st_blocks * 512 < before.st_blocks * 512 - LEAST
    assert journal.path is not None
    for number in range(12_000):  # until it is written anew
        journal.progress.trying(f"{number:040}")
    journal.progress.close()
    assert set(modes(journal.path).values()) - {0o700} == {0o600}

    journal.progress.refuse("metric", "a", "k", "v", "no")
    journal.close(remove=True)
    assert is_settled(journal.path)
    left = modes(journal.path)
    assert {"settled", "refused.jsonl"} <= left.keys()
    assert set(left.values()) == {0o600}
