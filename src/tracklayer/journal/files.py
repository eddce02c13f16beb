"""Artifacts that are copied aside until they are uploaded."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tracklayer.journal.disk import sync, sync_folder
from tracklayer.journal.failures import JournalFull

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER: Final = "files"

_PART: Final = ".part"
"""How the name of a copy ends that is still being written."""

_CHUNK: Final = 8 * 1024 * 1024


class Copy(NamedTuple):
    """A copy in memory: its name, its descriptor, its size, and where its `Artifact` record ends."""

    name: str
    descriptor: int
    size: int
    end: int


class Files:
    """The copies of one journal. Each is for one `Artifact` record, and goes when that is delivered.

    Safe to use from several threads: copying may take long, and nobody waits for it but who asked.

    A copy in memory stays there until it is delivered, also when the disk has it, too: it may be read at that moment.

    Attributes:
        size: bytes that the copies in the folder take.
        held: bytes that the copies in memory take.
    """

    def __init__(self, folder: Path | None, lock: threading.RLock | None = None) -> None:
        """Start with what is there.

        Args:
            folder: the journal's folder; None if there is none, so that small copies are held in memory.
            lock: the journal's, where others write to it: with two locks a signal handler, which may come while one is
                held, could wait for the other, and whoever has that for the one.
        """
        self.size = 0
        self.held = 0
        self._folder = folder
        self._sizes: dict[str, int] = {}
        self._memory: dict[str, int] = {}
        self._stored: set[str] = set()  # of those in memory the ones that the folder has, too
        self._recorded: dict[str, tuple[int, str, str]] = {}
        self._spared: set[str] = set()  # those that the server refused: they stay
        self._sparing = 0  # bytes that these take
        self._lock = threading.RLock() if lock is None else lock
        if folder is not None:
            with contextlib.suppress(OSError), os.scandir(folder / FOLDER) as entries:
                self._sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
        self.size = sum(self._sizes.values())

    def move_to(self, folder: Path | None) -> None:
        """From now on copies go here; None: the folder is gone, with what was in it."""
        with self._lock:
            self._folder = folder
            if folder is None:
                self.size -= sum(self._sizes[name] for name in self._stored)
                self._stored.clear()

    @property
    def unwritten(self) -> list[str]:
        """Names of the copies that are nowhere but in memory."""
        if not self._memory:
            return []
        with self._lock:
            return [name for name in list(self._memory) if name not in self._stored]

    def store(self, folder: Path, *, spare: int, durable: bool) -> None:
        """Write to a journal's folder what is in memory only, as far as the disk takes it. Never raises.

        Args:
            folder: the folder; what is there already need not be written anew.
            spare: bytes of the disk that are left to others: they are worth more than a copy.
            durable: wait for the disk.
        """
        with self._lock:
            for name in self.unwritten:
                size = self._sizes[name]
                copy = folder / FOLDER / name
                # Its record may be there already, and the process be killed in this moment.
                part = copy.with_suffix(_PART)
                try:
                    if size + spare > _room(folder):  # to try it would fill the disk for a moment, each time
                        continue
                    copy.parent.mkdir(mode=0o700, exist_ok=True)
                    part.unlink(missing_ok=True)
                    _copy(part, self.path(name), durable=durable)
                    part.replace(copy)
                    if durable:
                        sync_folder(copy.parent)
                except BaseException as error:
                    with contextlib.suppress(OSError):
                        part.unlink(missing_ok=True)
                    if isinstance(error, OSError):
                        return
                    raise  # a signal handler's
                if name not in self._stored:  # else a signal handler came in the middle of it, and did the same
                    self._stored.add(name)
                    self.size += size

    def undelivered(self, position: int) -> list[Copy]:
        """The copies in memory only whose records end behind a position: those that would be missed."""
        with self._lock:
            ends = {name: self._recorded[name][0] for name in self.unwritten if name in self._recorded}
            return [
                Copy(name, self._memory[name], self._sizes[name], end) for name, end in ends.items() if end > position
            ]

    def keep(self, source: Path | bytes, size: int, *, room: float, durable: bool) -> str:
        """Copy it aside; returns the name of the copy.

        Args:
            source: what to copy.
            size: its size, as far as is known.
            room: bytes that may still be taken.
            durable: wait for the disk.

        Raises:
            JournalFull: it does not fit.
            OSError: the source cannot be read, or the copy not be written; nothing is left of it.
        """
        folder = self._folder
        if folder is None:
            raise OSError("there is no folder for copies")
        name = os.urandom(16).hex()
        with self._lock:
            if size > room:
                raise JournalFull(f"an artifact of {size} bytes does not fit into the journal: {room:.0f} are left")
            self.size += size
            self._sizes[name] = size
        copy = folder / FOLDER / name
        try:
            copy.parent.mkdir(mode=0o700, exist_ok=True)
            done = _copy(copy, source, durable=durable)
        except BaseException:
            with self._lock:
                self.size -= self._sizes.pop(name)
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)
            raise
        with self._lock:
            self.size += done - size
            self._sizes[name] = done
        return name

    def hold(self, source: Path | bytes, size: int, *, room: float) -> str:
        """Keep a copy in memory, where there is no disk for it; returns its name.

        Raises:
            JournalFull: it does not fit, or this system cannot.
            OSError: the source cannot be read.
        """
        if size > room or not hasattr(os, "memfd_create"):
            raise JournalFull(f"no file can be written, and an artifact of {size} bytes does not fit into memory")
        name = os.urandom(16).hex()
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            done = _fill(descriptor, source)
        except BaseException:
            os.close(descriptor)
            raise
        with self._lock:
            self._memory[name] = descriptor
            self._sizes[name] = done
            self.held += done
        return name

    def path(self, name: str) -> Path:
        """Where a copy can be read. It need not be there any more."""
        if name in self._memory:
            return Path(f"/proc/{os.getpid()}/fd/{self._memory[name]}")
        if self._folder is None or not name.isalnum():
            raise FileNotFoundError(f"there is no copy {name!r} in this journal")
        return self._folder / FOLDER / name

    def recorded(self, name: str, position: int, owner: str, path: str) -> None:
        """Its `Artifact` record ends at `position`; it is for this run or model, and for this place there."""
        self._recorded[name] = position, owner, path

    def waiting(self, path: str | None) -> set[str]:
        """Local ids of the runs and models for which copies are here, at this place; None for any."""
        with self._lock:
            return {owner for _, owner, place in self._recorded.values() if path is None or place == path}

    def spare(self, name: str, *, room: float) -> None:
        """The server refused this one for good: its copy stays where it is, for whoever wants it all the same.

        Args:
            name: the copy. One that is in memory only is not spared: it could not outlive the process.
            room: bytes that all of those may take; one beyond that goes as if it were delivered.
        """
        with self._lock:
            on_disk = name in self._sizes and (name not in self._memory or name in self._stored)
            if name not in self._spared and on_disk and self._sparing + self._sizes[name] <= room:
                self._spared.add(name)
                self._sparing += self._sizes[name]

    def release(self, position: int) -> None:
        """Everything before `position` is delivered: the copies for it go. Raises OSError."""
        with self._lock:
            self.remove([name for name, (end, _, _) in self._recorded.items() if end <= position])

    def remove(self, names: Iterable[str]) -> None:
        """These copies are delivered, and go. Raises OSError."""
        with self._lock:
            for name in names:
                self._recorded.pop(name, None)
                if name in self._spared:
                    continue
                size = self._sizes.pop(name, 0)
                on_disk = name not in self._memory or name in self._stored
                self._stored.discard(name)
                if name in self._memory:
                    os.close(self._memory.pop(name))
                    self.held -= size
                if on_disk and self._folder is not None:
                    (self._folder / FOLDER / name).unlink(missing_ok=True)
                    self.size -= size

    def close(self) -> None:
        """Give back what is held in memory."""
        for descriptor in self._memory.values():
            os.close(descriptor)
        self._memory.clear()


def _room(folder: Path) -> int:
    """Bytes that the disk has room for, as far as it says that. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize if found.f_blocks else sys.maxsize


def _copy(copy: Path, source: Path | bytes, *, durable: bool) -> int:
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        done = _fill(descriptor, source)
        if durable:
            sync(descriptor)
            sync_folder(copy.parent)
            sync_folder(copy.parent.parent)
    finally:
        os.close(descriptor)
    return done


def _fill(descriptor: int, source: Path | bytes) -> int:
    """Write all of `source`; returns how many bytes that were. Where the file system can, blocks are shared."""
    if isinstance(source, bytes):
        return _write(descriptor, source)
    done = 0
    with source.open("rb", buffering=0) as file:
        with contextlib.suppress(OSError, AttributeError):
            while count := os.copy_file_range(file.fileno(), descriptor, _CHUNK):
                done += count
        while chunk := file.read(_CHUNK):
            done += _write(descriptor, chunk)
    return done


def _write(descriptor: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)
