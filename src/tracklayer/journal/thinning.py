"""What is delivered goes out of the middle of a journal, where a run before it cannot be delivered yet.

A journal is removed from its beginning on, so one run that waits (for another machine, for the store of its artifacts)
would keep all that others log behind it. Positions must stay what they are, and whoever delivers the journal after a
crash begins at the run that waits: so a segment is written anew with holes in it, which take no room on the disk, and
a record at the beginning of each that says where reading goes on.

Only two kinds of records are taken out, of runs that do not wait: metric points, which may be delivered in any order
and any number of times, and artifacts, whose copies are what takes the room. Everything else is small, and may matter
to whoever comes later: that a run was begun, that a tag was taken away before it was set again. Segments are thinned
from the first on, so that of the artifacts of a run those are left that were logged last.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracklayer.journal.disk import sync
from tracklayer.journal.lanes import lane_of
from tracklayer.journal.operations import Artifact, Gone, Log
from tracklayer.journal.readable import WINDOW
from tracklayer.journal.record import pack
from tracklayer.journal.segments import FileSegment, read, stop_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracklayer.journal.record import Record
    from tracklayer.journal.segments import Segment

LEAST: Final = 8192
"""Bytes that a hole has at least, unless an artifact is taken out: file systems give back whole blocks."""

_NEW: Final = ".new"

_FROM: Final = 0.5
"""The part of its bound from which on a journal is thinned: before that the room is there, and it costs reading it."""

_STEP: Final = 0.125
"""The part of the bound by which it has grown before it is thinned once more."""

_PAUSE: Final = 10.0
"""Seconds after which it is worth it, too, that less waits: each time costs reading all of it."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Records that stand one behind the other and can go.

    Attributes:
        begin: position of the first.
        end: position behind the last.
        copies: names of the copies of artifacts that go with them.
    """

    begin: int
    end: int
    copies: tuple[str, ...]


def holes(segment: FileSegment, stop: int, before: int, waiting: frozenset[str]) -> tuple[Hole, ...]:
    """What can be taken out of a segment.

    Args:
        segment: a segment that is not written any more.
        stop: position where it ends.
        before: everything before this position is delivered, but for what waits.
        waiting: lanes of the runs that wait.

    Returns:
        Nothing of a segment in which something cannot be read, or of which nothing worth it can go.

    Raises:
        OSError: it cannot be read.
    """
    found: list[Hole] = []
    begin, old, copies = segment.start, 0, list[str]()
    position, fresh = segment.start, 0

    def finish(end: int) -> int:
        """The records from `begin` to `end` can go; how many bytes that are which were not gone already."""
        if end > begin and (copies or end - begin >= LEAST):
            found.append(Hole(begin, end, tuple(copies)))
            return end - begin - old
        return 0

    while position < stop:
        records = read((segment,), position, stop, WINDOW)
        if not records or records[0].position != position:
            return ()
        for record in records:
            if _can_go(record, before, waiting):
                old += record.next - record.position if type(record.operation) is Gone else 0
                if isinstance(record.operation, Artifact):
                    copies.append(record.operation.file)
                continue
            fresh += finish(record.position)
            begin, old, copies = record.next, 0, []
        position = records[-1].next
    fresh += finish(stop)
    return tuple(found) if fresh >= LEAST or any(hole.copies for hole in found) else ()


def _can_go(record: Record, before: int, waiting: frozenset[str]) -> bool:
    operation = record.operation
    if isinstance(operation, Gone):
        return True
    if record.position >= before or lane_of(operation) in waiting:
        return False
    if isinstance(operation, Log):
        return bool(operation.points) and not (operation.params or operation.tags)
    return isinstance(operation, Artifact)


def damaged(segments: Sequence[Segment], position: int, found: int) -> int:
    """How many bytes are passed over by whoever reads from one position on and finds the next record at another one.

    Not those of a hole in the middle of which the first position is: somebody was there, or knew of it, before that was
    made. Records that are gone are not missing.

    Args:
        segments: in order.
        position: where a record began.
        found: where one was found.

    Raises:
        OSError: a segment cannot be read.
    """
    expected = max(position, segments[0].start)
    if found <= expected:
        return 0
    for index, segment in enumerate(segments):
        with contextlib.suppress(FileNotFoundError):  # somebody removed it
            begin, stop = segment.start, stop_of(segments, index)
            while begin < expected < stop and (records := read((segment,), begin, stop, WINDOW)):
                for record in records:
                    if type(record.operation) is Gone and record.position < expected < record.next:
                        return max(0, found - record.next)
                begin = records[-1].next
    return found - expected


class Thinned:
    """A segment that was written anew, beside the old one. Either `replace` or `discard` it."""

    def __init__(self, segment: FileSegment, stop: int, gaps: Sequence[Hole], *, durable: bool) -> None:
        """Write it.

        Args:
            segment: a segment that is not written any more.
            stop: position where it ends.
            gaps: what is left out, in order.
            durable: wait for the disk.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        self._segment = segment
        self._path = segment.path.with_suffix(_NEW)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            position, at = segment.start, time.time_ns() // 1_000_000
            for gap in gaps:
                self._copy(position, gap.begin)
                self._write(pack(Gone(gap.end), at), gap.begin)
                position = gap.end
            self._copy(position, stop)
            os.ftruncate(self._descriptor, stop - segment.start)
            if durable:
                sync(self._descriptor)
        except BaseException:
            self.discard()
            raise

    def replace(self) -> None:
        """Put it in the place of the old one. Raises OSError: all is as it was then."""
        try:
            self._segment.replace(self._path, self._descriptor)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Leave nothing of it."""
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)

    def _copy(self, position: int, end: int) -> None:
        while position < end:
            data = self._segment.read(position, min(WINDOW, end - position))
            if not data:
                raise OSError(f"{self._segment.path} is shorter than it was")
            self._write(data, position)
            position += len(data)

    def _write(self, data: bytes, position: int) -> None:
        view, offset = memoryview(data), position - self._segment.start
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done


class Rounds:
    """When a journal is worth being thinned: it is half full, and has grown, or less waits than the last time."""

    def __init__(self) -> None:
        """It never was."""
        self._used = 0
        self._waiting: frozenset[str] = frozenset()
        self._next = 0.0

    def begin(self, used: int, room: int, waiting: frozenset[str]) -> bool:
        """Whether to thin it now.

        Args:
            used: bytes that it takes.
            room: bytes that it may take.
            waiting: lanes of the runs that wait.
        """
        self._used = min(self._used, used)
        now = time.monotonic()
        if used < room * _FROM:
            return False
        grown = used >= self._used + room * _STEP
        if not grown and (now < self._next or not self._waiting - waiting):
            return False
        self._waiting, self._next = waiting, now + _PAUSE
        return True

    def done(self, used: int) -> None:
        """It was: this is what it takes now."""
        self._used = used
