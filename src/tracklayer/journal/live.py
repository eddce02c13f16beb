"""The journal of this process.

What is appended is in the page cache when `LiveJournal.append` returns, and so outlives the process. Where no file can
be written (no folder, a full disk), it is in memory instead, until a file can be written again; one warning says so.
The order stays the same, and whoever reads notices nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from tracklayer.forking import tell_of_forks
from tracklayer.interruption import let_through
from tracklayer.journal.chain import Chain
from tracklayer.journal.disk import sync_folder
from tracklayer.journal.failures import JournalClosed, JournalFull
from tracklayer.journal.files import Files
from tracklayer.journal.folder import JournalFolder, discard
from tracklayer.journal.operations import Artifact, End, GivenOut, LeftOpen, Log, Named, NamedModel
from tracklayer.journal.progress import Progress
from tracklayer.journal.readable import WINDOW
from tracklayer.journal.record import pack
from tracklayer.journal.segments import FileSegment, MemorySegment, read
from tracklayer.journal.thinning import Rounds, Thinned, damaged, holes
from tracklayer.journal.unwritten import Unwritten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tracklayer.journal.lock import Lock
    from tracklayer.journal.operations import Header, Operation
    from tracklayer.journal.record import Record
    from tracklayer.journal.thinning import Hole
    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")

SEGMENT: Final = 16 * 1024 * 1024
"""Bytes after which a new file is begun; less where the whole journal may not be much bigger."""

MEMORY: Final = 64 * 1024 * 1024
"""Bytes that are held in memory at most, where no file can be written."""

BULK: Final = 0.9
"""The part of the bound that metric points and copies of artifacts may fill; the rest is for everything else."""

ALWAYS: Final = (Named, NamedModel, GivenOut, End, LeftOpen)
"""What is taken however full the journal is: a few bytes for each run, without which it would stay RUNNING."""

SPARED: Final = 0.25
"""The part of the bound that copies of artifacts may fill which the server refused."""

_PAUSE: Final = 1_000
"""Milliseconds between looks at the disk: is our file still there, can it be written again?"""


def open_journal(settings: Settings, header: Header) -> LiveJournal:
    """This process's journal, where and as the settings say. Never raises: without a folder it is in memory."""
    return LiveJournal(
        JournalFolder.of(settings),
        header,
        limit=settings.journal_limit,
        durable=settings.durability == "disk",
    )


class LiveJournal:
    """A journal that is written. Safe to use from several threads, and from a signal handler.

    A forked child must not use the journal of its parent: what would write raises `JournalClosed` there.

    Attributes:
        header: what it is for.
        progress: how far it is delivered.
        unkept: how many metric points (or other operations) were not taken for want of room, by the run's local id.
    """

    def __init__(
        self, folder: JournalFolder | None, header: Header, *, limit: int, durable: bool = False, memory: int = MEMORY
    ) -> None:
        """Begin it.

        Args:
            folder: where journals are; None for one in memory.
            header: what it is for.
            limit: bytes that it may take on the disk, copies of artifacts included.
            durable: wait for the disk after each append.
            memory: bytes that it may take in memory.
        """
        self.header = header
        self.unkept: dict[str, int] = {}
        self._folder = folder
        self._limit = limit
        self._memory = memory
        self._durable = durable
        self._lock = threading.RLock()
        self._busy = False
        self._closed = ""
        self._held: Lock | None = None
        self._looked_at = 0
        self._warned = False
        self._rounds = Rounds()
        self._trouble: OSError | None = None
        self._files = Files(None, self._lock)
        size = max(4096, min(SEGMENT, (memory if folder is None else limit) // 16))
        self._chain = Chain(pack(header, header.started_at), size=size, durable=durable, on_failure=self._warn)
        self.progress = Progress(None, durable=durable, on_advance=self._release)
        if folder is not None:
            try:
                self._settle(folder)
            except OSError as error:
                self._warn(error)
        tell_of_forks(self)

    @property
    def path(self) -> Path | None:
        """Its folder; None while it is in memory only."""
        return self._chain.path

    @property
    def end(self) -> int:
        """Position behind the last record."""
        with self._lock:
            return self._chain.end

    @property
    def at_risk(self) -> bool:
        """Whether something in it is in memory only, and not delivered: it ends with this process."""
        with self._lock:
            delivered = self.progress.delivered
            return bool(self._files.unwritten) or any(segment.end > delivered for segment in self._chain.memory)

    @property
    def trouble(self) -> OSError | None:
        """Why it could not be written when it last could not; None as long as there was nothing of that kind."""
        return self._trouble

    def append(self, operation: Operation) -> None:
        """Add an operation.

        Raises:
            JournalFull: there is no room for it, or not for the metric points in it; the rest of it is kept then.
            JournalClosed: it is closed, or another process's.
            ValueError: it holds a number that no journal can.
        """
        at = time.time_ns() // 1_000_000
        frame = pack(operation, at)
        with self._lock:
            if self._closed:
                raise JournalClosed(self._closed)
            interrupted = self._busy  # by a signal handler that logs, in the middle of what follows
            try:
                self._busy = True
                if not interrupted and not self._looked_at <= at < self._looked_at + _PAUSE:
                    self._look(at)
                used, room = self._filling()
                if used + len(frame) > BULK * room:
                    self._squeeze(operation, at, len(frame))
                self._chain.write(frame, simply=interrupted)
                if type(operation) is Artifact:
                    self._files.recorded(operation.file, self._chain.end, operation.owner, operation.path)
            finally:
                self._busy = interrupted

    def keep(self, source: Path | bytes) -> str:
        """Copy an artifact aside; returns the name for its `Artifact` record, of which each has a copy of its own.

        Raises:
            JournalFull: there is no room for it, on the disk or in memory.
            JournalClosed: it is closed, or another process's.
            OSError: the source cannot be read.
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with self._lock:
            if self._closed:
                raise JournalClosed(self._closed)
            disk = self.path is not None
            on_disk, in_memory = self._chain.size_of(FileSegment), self._chain.size_of(MemorySegment)
        if disk:
            room = BULK * self._limit - on_disk - self._files.size
            try:
                return self._files.keep(source, size, room=room, durable=self._durable)
            except OSError as error:
                if error.filename is not None and str(error.filename) == str(source):
                    raise
                self._warn(error)
        return self._files.hold(source, size, room=BULK * self._memory - in_memory - self._files.held)

    def file(self, name: str) -> Path:
        """Where the copy of this name can be read. It is gone as soon as it is delivered."""
        return self._files.path(name)

    def spare(self, name: str) -> None:
        """The server refused the artifact of this copy for good: the copy is kept, as far as there is room for such."""
        self._files.spare(name, room=self._limit * SPARED)

    def waiting(self, path: str | None) -> set[str]:
        """Local ids of the runs and models of which artifacts are not delivered yet, at this place; None for any."""
        return self._files.waiting(path)

    def read(self, position: int, limit: int = WINDOW) -> list[Record]:
        """Records from `position` on: about `limit` bytes of them, but at least one.

        An empty list says that there is nothing (more) to be read before what was the `end` when this was called.
        """
        with self._lock:
            segments, end = self._chain.segments, self._chain.end
        records = read(segments, position, end, limit)
        if lost := damaged(segments, position, records[0].position if records else end):
            log.warning("the journal %s is damaged: %d bytes are passed over", self.path, lost)
        return records

    def look(self) -> bool:
        """Once a second at most, for whoever does not log: see to the file, and write what is in memory, if that can be done.

        Returns:
            Whether that is worth another look before long: something is at risk that a disk could take.
        """
        at = time.time_ns() // 1_000_000
        if not self._looked_at <= at < self._looked_at + _PAUSE:
            with self._lock:
                if not self._closed and not self._busy:
                    self._look(at)
        return self._folder is not None and self.at_risk

    @contextmanager
    def unwritten(self) -> Iterator[Unwritten]:
        """What is nowhere but in memory at this moment; it can be read as long as this is entered."""
        with contextlib.ExitStack() as opened:
            with self._lock:
                found = Unwritten.of(self._chain, self._files, self.progress, opened)
            yield found

    def save(self) -> None:
        """Write what is in memory to the disk, if that can be done by now."""
        with self._lock:
            if not self._closed and not self._busy:  # a signal handler came in the middle of an append
                self._save_all()

    def thin(self, before: int, waiting: frozenset[str]) -> None:
        """Make room, where it becomes scarce, while runs wait that cannot be delivered: see `tracklayer.journal.thinning`.

        Args:
            before: everything before this position is delivered, but for what waits.
            waiting: lanes of the runs that wait.
        """
        with self._lock:
            if self._closed or self._busy or self._chain.in_memory or not self._rounds.begin(*self._filling(), waiting):
                return
            full = self._chain.full()
        try:
            for segment, stop in full:
                if gaps := holes(segment, stop, before, waiting):
                    self._replace(Thinned(segment, stop, gaps, durable=self._durable), gaps)
        except OSError as error:  # a disk that has no room for the thinner one either
            log.info("what is delivered cannot be taken out of %s: %s", self.path, error)
        with self._lock:
            if not self._closed:  # else its files may be gone
                self._rounds.done(self._filling()[0])

    def close(self, *, remove: bool, end: int | None = None, keep_refused: bool = True) -> None:
        """Write no more, and let others deliver what is left.

        Args:
            remove: everything is delivered, or elsewhere: the folder goes.
            end: the position up to which that is so; if another thread has added something since, nothing is removed.
                None for all of it, whatever that is.
            keep_refused: of a folder that goes the values stay that the server refused; False if they are elsewhere, too.
        """
        with self._lock:
            if self._closed:
                return
            remove = remove and (end is None or end >= self._chain.end)
            if not remove:
                self._save_all()
            self._closed = "the journal is closed"
            self.progress.close()
            self._files.close()
            self._chain.close()
            if remove and self.path is not None:
                first = pack(self.header, self.header.started_at)
                discard(self.path, keep_refused=keep_refused and self.progress.refused > 0, first=first)
            if self._held is not None:
                self._held.release()

    def forked(self) -> None:
        """In a forked child: this is the parent's. Its files are let go of, and stay as they are."""
        self._lock = threading.RLock()  # another thread of the parent may hold the old one for good
        self._closed = f"the journal belongs to the process {self.header.pid}"
        self.progress.forget()
        self._chain.close()
        self._files.close()
        if self._held is not None:
            self._held.forget()

    def _replace(self, thinned: Thinned, gaps: Sequence[Hole]) -> None:
        with self._lock:
            if self._closed:
                thinned.discard()
                return
            thinned.replace()
            self._chain.thinned()
            self._files.remove(name for gap in gaps for name in gap.copies)

    def _look(self, at: int) -> None:
        """Once a second: is our file still there, or (where there is none) can one be written by now?"""
        self._looked_at = at
        if self._chain.lost:
            self._let_go()
        elif self._chain.in_memory or self._files.unwritten:
            self._save()

    def _let_go(self) -> None:
        """Somebody removed our folder: what was in its segments, and what comes, goes to a new one.

        Not at once: whoever removes many folders may not have come to the end of it.
        """
        self._chain.fall_back(FileNotFoundError(f"somebody removed {self.path}"))
        self._chain.let_go()
        self._chain.path = None
        self._files.move_to(None)
        if self._held is not None:
            self._held.release()
        self._held = None

    def _save_all(self) -> None:
        """Write what is in memory to the disk, and what somebody has removed a moment ago."""
        if self._chain.lost:
            self._let_go()
        self._save()

    def _save(self) -> None:
        """Write what is in memory to the disk, if that can be done."""
        in_memory = self._chain.in_memory
        if self._folder is None or not (in_memory or self._files.unwritten):
            return
        try:
            if self._chain.path is None:
                self._settle(self._folder)
            else:
                self._store(self._chain.path)
        except OSError as error:
            let_through(error)
            self._trouble = error
            return
        if in_memory or not self._files.unwritten:
            log.info("the journal can be written again: %s", self.path)
            self._warned = False

    def _store(self, path: Path) -> None:
        """Put into a folder what is in memory: first the copies, so that each is there before the record that names it.

        A copy that the disk does not take keeps nothing else from it: without the process it would be lost either way.
        Raises OSError.
        """
        spare = sum(segment.end - segment.start for segment in self._chain.memory)
        self._files.store(path, spare=spare, durable=self._durable)
        self._chain.store(path)

    def _settle(self, folder: JournalFolder) -> None:
        """Make the journal's folder, with everything in it that is in memory. Raises OSError."""
        before = self._chain.segments
        try:
            path, self._held = folder.make(self.header, self._store)
        except OSError:
            self._chain.keep(before)
            self._files.move_to(None)
            raise
        self._chain.moved(path)
        self._files.move_to(path)
        self.progress.move_to(path)
        if self._durable:
            with contextlib.suppress(OSError):  # what is in it can be read by everybody but after a loss of power
                sync_folder(path.parent)

    def _release(self, position: int) -> None:
        """Everything before `position` is delivered: what only that needed goes."""
        with self._lock:
            if self._closed:
                return
            try:
                self._files.release(position)
                self._chain.release(position)
            except OSError as error:
                log.warning("a delivered part of the journal cannot be removed: %s", error)

    def _filling(self) -> tuple[int, int]:
        """How many bytes are taken where it is written now, and how many there may be."""
        used, files = self._chain.used, self._files
        return (used + files.held, self._memory) if self._chain.in_memory else (used + files.size, self._limit)

    def _squeeze(self, operation: Operation, at: int, size: int) -> None:
        """Only so much is left: decide about an operation. Raises JournalFull if it may not be written."""
        if isinstance(operation, ALWAYS):
            return
        points = len(operation.points) if isinstance(operation, Log) else 0
        used, room = self._filling()
        if not points and used + size <= room:
            return
        run = str(getattr(operation, "run", None) or getattr(operation, "id", None) or "")
        self.unkept[run] = self.unkept.get(run, 0) + max(points, 1)
        if isinstance(operation, Log) and points and (operation.params or operation.tags):
            rest = msgspec.structs.replace(operation, points=())
            frame = pack(rest, at)
            with contextlib.suppress(JournalFull):
                self._squeeze(rest, at, len(frame))
                self._chain.write(frame, simply=True)
        what = f"{points} metric points" if points else type(operation).__name__
        raise JournalFull(f"the journal is full ({room} bytes): {what} of the run {run} cannot be kept")

    def _warn(self, error: OSError) -> None:
        let_through(error)  # a time-out is an OSError, too
        self._trouble = error
        if not self._warned:
            self._warned = True
            log.warning(
                "the journal cannot be written (%s): what is logged is kept in memory, at most %d MB of it, until it "
                "is delivered or can be written; it is lost if this process is killed before",
                error,
                self._memory // 1_000_000,
            )
