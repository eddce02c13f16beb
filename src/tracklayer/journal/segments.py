"""The pieces of a journal, one behind the other: files, or memory where no file can be written.

A segment begins at a position of the journal, which is its file's name, and holds frames only. The first of them is
the journal's header, in every segment, so that each can be understood without those before it: they are removed as
soon as they are delivered.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from tracklayer.journal.disk import sync
from tracklayer.journal.operations import Header
from tracklayer.journal.record import HEAD, find, frames, head, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tracklayer.journal.record import Record

SUFFIX: Final = ".seg"
DIGITS: Final = 20

_BLOCK: Final = 512
"""Bytes of what `os.stat_result.st_blocks` counts (POSIX leaves it open, Linux and macOS do not)."""

_NO_LINKS: Final = os.O_CLOEXEC | os.O_NOFOLLOW


class Segment(Protocol):
    """A piece of a journal.

    Attributes:
        start: position of its first byte.
        end: position behind its last byte.
    """

    start: int

    @property
    def end(self) -> int:
        """Position behind its last byte."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""

    def write(self, frame: bytes) -> None:
        """Add a frame. Raises OSError if it could not be added whole; nothing of it is there then."""

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position` on. Raises OSError."""


class MemorySegment:
    """A piece that is nowhere but in memory."""

    def __init__(self, start: int, header: bytes) -> None:
        self.start = start
        self._data = bytearray(header)

    @property
    def name(self) -> str:
        """Name of the file that it would be."""
        return f"{self.start:0{DIGITS}d}{SUFFIX}"

    @property
    def end(self) -> int:
        """Position behind its last byte."""
        return self.start + len(self._data)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self._data)

    def write(self, frame: bytes) -> None:
        """Add a frame."""
        self._data += frame

    def content(self) -> bytes:
        """All of it."""
        return bytes(self._data)

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position` on."""
        offset = position - self.start
        return bytes(self._data[offset : offset + size])


class FileSegment:
    """A piece that is a file. Only the process that made it writes to it, and keeps it open until it is delivered."""

    def __init__(self, path: Path, start: int, descriptor: int | None = None) -> None:
        self.path = path
        self.start = start
        self._descriptor = descriptor
        self._holes = 0

    @classmethod
    def create(cls, folder: Path, start: int, content: bytes) -> FileSegment:
        """A new file with this content, a header first.

        Raises:
            OSError: it cannot be made, or not be written; no file is left then.
        """
        path = folder / f"{start:0{DIGITS}d}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
        made = cls(path, start, descriptor)
        try:
            made.write(content)
        except BaseException:
            made.close()
            path.unlink(missing_ok=True)
            raise
        return made

    @property
    def end(self) -> int:
        """Position behind its last byte. While it is written, the system is asked: it knows whatever interrupted us."""
        if self._descriptor is None:
            return self.start + self.path.stat().st_size
        return self.start + os.lseek(self._descriptor, 0, os.SEEK_CUR)

    @property
    def size(self) -> int:
        """Bytes that it takes: what was taken out of it takes none."""
        return self.end - self.start - self._holes

    @property
    def descriptor(self) -> int | None:
        """That of the file, as long as it is open."""
        return self._descriptor

    @property
    def gone(self) -> bool:
        """True if somebody removed the file while it is written."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def write(self, frame: bytes) -> None:
        """Add a frame. Raises OSError if it could not be added whole; nothing of it is there then."""
        descriptor = self._descriptor
        if descriptor is None:
            raise OSError(f"{self.path} is closed")
        done = os.write(descriptor, frame)
        if done != len(frame):
            self._write_rest(descriptor, memoryview(frame), done)

    def _write_rest(self, descriptor: int, frame: memoryview, done: int) -> None:
        """The disk is about to be full: what was not taken is tried once more, for the reason."""
        good = os.lseek(descriptor, 0, os.SEEK_CUR) - done
        try:
            while done < len(frame):
                done += os.write(descriptor, frame[done:])
        except OSError:
            os.ftruncate(descriptor, good)
            os.lseek(descriptor, good, os.SEEK_SET)
            raise

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position` on. Raises OSError."""
        if self._descriptor is not None:  # which also has what somebody removed
            return os.pread(self._descriptor, size, position - self.start)
        descriptor = os.open(self.path, os.O_RDONLY | _NO_LINKS)
        try:
            return os.pread(descriptor, size, position - self.start)
        finally:
            os.close(descriptor)

    def replace(self, fresh: Path, descriptor: int) -> None:
        """Put another file in its place, as long as this one and with holes in it; it is not written any more.

        Args:
            fresh: the other file.
            descriptor: the same, opened: it is kept.

        Raises:
            OSError: it could not be; all is as it was.
        """
        os.lseek(descriptor, 0, os.SEEK_END)
        found = os.fstat(descriptor)
        fresh.replace(self.path)
        self.close()
        self._descriptor = descriptor
        self._holes = max(0, found.st_size - found.st_blocks * _BLOCK)

    def sync(self) -> None:
        """Wait until what was written is on the disk. Raises OSError."""
        if self._descriptor is not None:
            sync(self._descriptor)

    def close(self) -> None:
        """Write no more. It can still be read."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def remove(self) -> None:
        """The file goes, if it is still there. Raises OSError."""
        self.close()
        self.path.unlink(missing_ok=True)


def load(folder: Path) -> tuple[FileSegment, ...]:
    """The segments in a journal's folder, in order. Raises OSError."""
    names = (path.stem for path in folder.iterdir() if path.suffix == SUFFIX)
    starts = sorted(int(name) for name in names if len(name) == DIGITS and name.isdecimal())
    return tuple(FileSegment(folder / f"{start:0{DIGITS}d}{SUFFIX}", start) for start in starts)


def header_of(segments: Sequence[Segment]) -> Header | None:
    """The header, from the first segment in which it can be read; None if there is none."""
    for segment in segments:
        try:
            found = _window(segment, segment.start, segment.end, HEAD)
        except OSError:
            continue
        if found and isinstance(found[0].operation, Header):
            return found[0].operation
    return None


def stop_of(segments: Sequence[Segment], index: int) -> int:
    """Position where a segment ends: where the next one begins; what stands in its file behind that is void."""
    return segments[index + 1].start if index + 1 < len(segments) else segments[index].end


def read(segments: Sequence[Segment], position: int, end: int, limit: int) -> list[Record]:
    """Records between two positions: about `limit` bytes of them, but at least one; empty if there is none.

    What is damaged is passed over, so the first record may begin later than asked for.

    Args:
        segments: in order.
        position: where a record begins; a position whose segment is gone means the first record that is still there.
        end: where to stop.
        limit: bytes to read at once.

    Raises:
        OSError: a segment cannot be read.
    """
    for index, segment in enumerate(segments):
        last = index + 1 == len(segments)
        stop = end if last else min(segments[index + 1].start, end)
        start = max(position, segment.start)
        with contextlib.suppress(FileNotFoundError):  # somebody removed it: what comes behind it is still there
            while start < stop:
                if records := _window(segment, start, stop, limit):
                    return records
                found = find(segment.read(start, stop - start), 0)
                start = stop if found is None else start + found
    return []


def last_record(segments: Sequence[Segment]) -> tuple[int, int] | None:
    """Position behind the last record that can be read, and its time (ms since the epoch); None if there is none."""
    for index in reversed(range(len(segments))):
        segment = segments[index]
        data = segment.read(segment.start, stop_of(segments, index) - segment.start)
        found: int | None = 0
        last = None
        while found is not None:
            behind = found
            for frame in frames(data, segment.start, found):
                last = frame.next, frame.at
                behind = frame.next - segment.start
            found = find(data, behind)
        if last is not None:
            return last
    return None


def _window(segment: Segment, start: int, stop: int, limit: int) -> list[Record]:
    """The records that begin at `start`; a first one that is bigger than the limit is read whole."""
    data = segment.read(start, min(max(limit, HEAD), stop - start))
    records = list(unpack(data, start))
    if not records and HEAD <= len(data) < (size := head(data)) <= stop - start:
        records = list(unpack(segment.read(start, size), start))
    if (
        records and records[-1].next > stop
    ):  # what was taken out ends with its segment, whatever a file from outside says
        records[-1] = msgspec.structs.replace(records[-1], next=stop)
    return records
