"""A journal leaves whole, what is in memory only among it; one from outside is unpacked, but not whatever somebody made of it."""

from __future__ import annotations

import errno
import io
import re
import tarfile
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from harness.journal import MIB, NOON, everything, header, point, steps
from tracklayer.journal.carrying import CarryingError, LocalShelf, carried, carry, contents, fetched, unpack
from tracklayer.journal.departure import depart
from tracklayer.journal.folder import JournalFolder, is_settled
from tracklayer.journal.inheritance import carry_away
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, Named
from tracklayer.journal.refusals import refusals
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MB = 1_000_000


@contextmanager
def from_there(place: Path) -> Iterator[LeftJournal]:
    """The one journal that is in a folder, as who delivers it has it."""
    [name] = carried(str(place))
    with fetched(str(place), name) as (folder, _):
        left = LeftJournal.take(folder)
        assert left is not None
        yield left
        left.close(remove=False)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def in_memory() -> LiveJournal:
    """A journal without a folder, of which the first of four operations is delivered."""
    journal = LiveJournal(None, header(), limit=MIB)
    for step in range(3):
        journal.append(point(step))
    first = journal.read(0)[1]
    journal.append(Artifact("a", "model.bin", journal.keep(b"model")))
    journal.progress.advance(first.next)
    journal.progress.trying("a")
    journal.progress.name(Named("a", "b" * 32, "1"))
    journal.progress.refuse("metric", "a", "loss", "x", "no number")
    return journal


class TestMemory:
    def test_a_journal_without_a_folder_is_carried_away_whole(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = in_memory()
        assert depart(journal, str(tmp_path / "bucket"))
        journal.close(remove=True)
        assert warnings(caplog) == []
        with from_there(tmp_path / "bucket") as left:
            *points, artifact = everything(left, left.progress.delivered)
            assert steps(points) == [1, 2]
            assert isinstance(artifact, Artifact)
            assert left.file(artifact.file).read_bytes() == b"model"
            assert left.progress.tried("a")
            assert dict(left.progress.names) == {"a": Named("a", "b" * 32, "1")}
            assert left.progress.refused == 1
            assert [refusal.key for refusal in refusals(left.path)] == ["loss"]
            assert JournalFolder(left.path.parent).paths() == [left.path]  # it has the name of a journal

    def test_a_copy_that_is_delivered_while_it_is_packed_is_packed_all_the_same(self, tmp_path: Path) -> None:
        journal = in_memory()
        with journal.unwritten() as unwritten:
            journal.progress.advance(journal.end)
            opened = [(tmp_path / str(number)).open("wb") for number in range(9)]  # which get free descriptors
            carry("20261121T000000Z-host-1-00000000", unwritten.contents, str(tmp_path / "bucket"))
        for file in opened:
            file.close()
        journal.close(remove=True)
        with from_there(tmp_path / "bucket") as left:
            artifact = everything(left)[-1]
            assert isinstance(artifact, Artifact)
            assert left.file(artifact.file).read_bytes() == b"model"

    def test_one_warning_says_how_much_is_lost_with_the_process(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = in_memory()
        [_, _, second, *_] = journal.read(0)
        assert not depart(journal, None)
        size = journal.end - second.position + len(b"model")
        lost = (
            f"tracking: 3 operations ({size} bytes) are lost with this process: they are not delivered, and cannot be"
        )
        assert warnings(caplog) == [f"{lost} written to a disk (the journal has no folder)"]
        caplog.clear()
        (tmp_path / "file").touch()
        assert not depart(journal, str(tmp_path / "file" / "bucket"))
        [told] = warnings(caplog)
        assert told.startswith(
            f"{lost} written to a disk (the journal has no folder); they could not be carried away: "
        )
        assert "Not a directory" in told
        caplog.clear()
        journal.progress.advance(journal.end)
        assert not depart(journal, None)
        assert warnings(caplog) == []
        journal.close(remove=True)

    @pytest.mark.parametrize("by_another", [False, True])
    def test_what_was_refused_does_not_take_the_place_of_all_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_another: bool
    ) -> None:
        """A process that is in the middle of a request carries its journal, and leaves it; somebody delivers that first."""
        settings, place = Settings(journal=str(tmp_path / "journals")), tmp_path / "bucket"
        monkeypatch.setattr("tracklayer.journal.inheritance.socket.gethostname", lambda: header().host)
        journal = LiveJournal(JournalFolder(tmp_path / "journals"), header(), limit=MIB)
        journal.append(point(0))
        journal.progress.refuse("metric", "a", "loss", "x", "no number")
        assert depart(journal, str(place))
        journal.close(remove=True)
        if by_another:
            monkeypatch.setattr("tracklayer.journal.carrying._local", lambda _: None)
        assert carry_away(settings, f"file://{place}" if by_another else str(place), since=NOON) == []
        monkeypatch.undo()
        [stub] = JournalFolder(tmp_path / "journals").paths()
        assert is_settled(stub)
        with from_there(place) as left:
            assert steps(everything(left)) == [0]
        [packed] = place.iterdir()
        packed.unlink()
        monkeypatch.setattr("tracklayer.journal.inheritance.socket.gethostname", lambda: header().host)
        assert carry_away(settings, str(place), since=NOON) == [packed.name], "there is nothing that it could replace"
        assert JournalFolder(tmp_path / "journals").paths() == []
        with from_there(place) as left:
            assert [refusal.key for refusal in refusals(left.path)] == ["loss"]

    def test_what_is_on_the_disk_and_cannot_be_carried_is_not_lost(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = LiveJournal(JournalFolder(tmp_path / "journals"), header(), limit=MIB)
        journal.append(point(0))
        assert not depart(journal, None)
        assert warnings(caplog) == []
        (tmp_path / "file").touch()
        assert not depart(journal, str(tmp_path / "file" / "bucket"))
        [told] = warnings(caplog)
        assert told.startswith(f"tracking: what was not delivered stays in {journal.path}: ")
        journal.close(remove=True)

    def test_a_journal_that_is_too_large_to_be_packed_in_memory_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tracklayer.journal.carrying.MEMORY", 2_000)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(CarryingError, match=r"nowhere.*not packed in memory: it may have more than 2000 bytes"):
            carry("20261121T000000Z-host-1-00000000", {"progress": bytes(2_001)}, str(tmp_path / "bucket"))
        carry("20261121T000000Z-host-1-00000000", {"progress": bytes(1_000)}, str(tmp_path / "bucket"))
        assert len(carried(str(tmp_path / "bucket"))) == 1


@pytest.mark.parametrize("is_carried", [False, True])
def test_the_copy_of_a_refused_artifact_outlives_whoever_goes_on_with_the_journal(
    tmp_path: Path, is_carried: bool
) -> None:
    """Its record is read again by each of them, as long as it is in a segment with something that waits."""
    journal = LiveJournal(JournalFolder(tmp_path), header(), limit=MIB)
    refused, taken = journal.keep(b"refused"), journal.keep(b"taken")
    journal.append(Artifact("a", "refused.bin", refused))
    journal.append(Artifact("a", "taken.bin", taken))
    journal.append(point(0))
    assert journal.path is not None
    journal.progress.refuse("artifact", "a", "refused.bin", refused, "too large")
    journal.close(remove=False)

    def deliver_what_does_not_wait(left: LeftJournal) -> None:
        *_, artifact, _ = left.read(0)
        left.progress.advance(artifact.next)
        copies = {copy.name: copy.read_bytes() for copy in left.path.glob("files/*")}
        assert copies == {refused: b"refused"}

    if is_carried:
        carry(journal.path.name, contents(journal.path), str(tmp_path / "bucket"))
        with from_there(tmp_path / "bucket") as left:
            deliver_what_does_not_wait(left)
        return
    for remove in (False, True):
        other = LeftJournal.take(journal.path)
        assert other is not None
        deliver_what_does_not_wait(other)
        other.close(remove=remove)
    assert (journal.path / "files" / refused).read_bytes() == b"refused"


class TestWhatIsDelivered:
    """A journal of which all is delivered, but for an artifact that the server refused."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        journal = LiveJournal(JournalFolder(tmp_path), header(), limit=MIB)
        copy = journal.keep(b"refused")
        journal.append(Artifact("a", "refused.bin", copy))
        journal.append(point(0))
        assert journal.path is not None
        carry(journal.path.name, contents(journal.path), str(tmp_path / "bucket"))
        journal.close(remove=True)
        return tmp_path / "bucket"

    def deliver(self, place: Path) -> tuple[int, Sequence[str]]:
        """Deliver it; how much of it there was to be delivered, and what is kept in its place."""
        [name] = carried(str(place))
        with fetched(str(place), name) as (folder, fate):
            left = LeftJournal.take(folder)
            assert left is not None
            delivered = left.progress.delivered
            operations = everything(left, delivered) if delivered < left.end else []
            for operation in operations:
                if isinstance(operation, Artifact):
                    left.spare(operation.file)
                    left.progress.refuse("artifact", "a", operation.path, operation.file, "too large")
            left.progress.advance(left.end)
            left.close(remove=True)
            fate.delivered = True
        return len(operations), fate.kept

    def fail(self, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
        put, names = LocalShelf.put, re.compile(what)

        def full(shelf: LocalShelf, name: str, source: Path) -> None:
            if names.search(name):
                raise OSError(errno.ENOSPC, "No space left on device")
            put(shelf, name, source)

        monkeypatch.setattr(LocalShelf, "put", full)

    @pytest.mark.parametrize("what", [r"\.refused-", r"\.refused\.jsonl$"])
    def test_it_is_not_delivered_again_although_what_was_refused_finds_no_room(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        [packed] = place.iterdir()
        self.fail(monkeypatch, what)
        for _ in range(2):
            with pytest.raises(CarryingError, match="No space left"):
                self.deliver(place)
            assert packed.name in {path.name for path in place.iterdir()}
        monkeypatch.undo()
        again, kept = self.deliver(place)
        assert again == 0
        assert {path.name for path in place.iterdir()} == set(kept)
        [copy] = [path for path in place.iterdir() if ".refused-" in path.name]
        assert copy.read_bytes() == b"refused"

    def test_it_is_told_if_it_can_be_neither_removed_nor_replaced(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fail(monkeypatch, r"\.refused|\.tar\.gz$")
        with pytest.raises(CarryingError, match=r"tar\.gz is delivered, but .* remove it, or .* \(.*No space left"):
            self.deliver(place)


def packed(path: Path, sizes: dict[str, int]) -> Path:
    with tarfile.open(path, mode="w:gz") as archive:
        for name, size in sizes.items():
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(bytes(size)))
    return path


def test_what_grows_beyond_all_bounds_is_not_unpacked(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb", {"0" * 20 + ".seg": 2 * MB, "files/a": 2 * MB})
    assert bomb.stat().st_size < MB // 10
    with pytest.raises(OSError, match="more than 3000000 bytes"):
        unpack(bomb, tmp_path / "out", limit=3 * MB)
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file()) <= 3 * MB


def test_what_no_journal_has_counts_although_it_is_left_out(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb", {"elsewhere": 4 * MB})
    with pytest.raises(OSError, match="more than"):
        unpack(bomb, tmp_path / "out", limit=3 * MB)


def test_a_journal_is_unpacked(tmp_path: Path) -> None:
    unpack(packed(tmp_path / "packed", {"progress": 10, "files/a": 20}), tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()} == {"progress", "a"}
