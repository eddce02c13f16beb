"""The segments of a journal that is written: when a new one begins, and what happens when no file can be written.

Not safe to use from several threads; `tracklayer.journal.live` sees to that. A signal handler may come between any two
lines of this module and write a frame itself: it gets `simply`, which neither begins nor ends a segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.interruption import let_through
from tracklayer.journal.disk import sync_folder
from tracklayer.journal.orphan import Orphan
from tracklayer.journal.segments import FileSegment, MemorySegment, stop_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tracklayer.journal.segments import Segment


class Chain:
    """Segments one behind the other: in files as long as these can be written, else in memory.

    Attributes:
        path: where files are made; None while there is no folder.
        segments: all of them, in order. The tuple is replaced, never changed.
    """

    def __init__(self, first: bytes, *, size: int, durable: bool, on_failure: Callable[[OSError], None]) -> None:
        """Begin in memory; `store` puts it into files.

        Args:
            first: the frame with which every segment begins.
            size: bytes after which a new segment is begun.
            durable: wait for the disk after each frame.
            on_failure: told why a file could not be written.
        """
        self.path: Path | None = None
        self.segments: tuple[Segment, ...] = (MemorySegment(0, first),)
        self._first = first
        self._size = size
        self._durable = durable
        self._on_failure = on_failure
        self._before = 0
        self._filled = len(first)

    @property
    def end(self) -> int:
        """Position behind the last frame."""
        return self.segments[-1].end

    @property
    def in_memory(self) -> bool:
        """Whether what is written now goes to memory."""
        return isinstance(self.segments[-1], MemorySegment)

    @property
    def used(self) -> int:
        """Bytes that are taken where it is written now: on the disk, or in memory."""
        return self._before + self._filled

    @property
    def memory(self) -> tuple[MemorySegment, ...]:
        """The segments that are nowhere but in memory, or in files that somebody removed."""
        return tuple(segment for segment in self.segments if isinstance(segment, MemorySegment))

    @property
    def lost(self) -> bool:
        """Whether somebody removed the file that is written now."""
        last = self.segments[-1]
        return isinstance(last, FileSegment) and last.gone

    def write(self, frame: bytes, *, simply: bool = False) -> None:
        """Add a frame. Where the disk does not take it, memory does."""
        segment = self.segments[-1]
        if self._filled >= self._size and not simply:
            segment = self._rotate(segment)
        try:
            segment.write(frame)
        except OSError as error:
            self.fall_back(error, segment)
            self.segments[-1].write(frame)
        else:
            if segment is not self.segments[-1]:  # a signal handler came first and went over to memory: it counts there
                self.segments[-1].write(frame)
            elif self._durable and isinstance(segment, FileSegment):
                self._sync(segment)
        self._filled += len(frame)

    def fall_back(self, error: OSError, failed: Segment | None = None) -> None:
        """Go on in memory.

        Args:
            error: why.
            failed: the segment that could not be written; None for the last.
        """
        let_through(error)  # a time-out is an OSError, too
        self._on_failure(error)
        failed = self.segments[-1] if failed is None else failed
        if self.segments[-1] is failed:
            self._go_on(failed, MemorySegment(failed.end, self._first))
        self._measure()

    def let_go(self) -> None:
        """Somebody removed the files: what was in them can still be read, and be put into others."""
        self.segments = tuple(
            Orphan(segment) if isinstance(segment, FileSegment) and segment.gone else segment
            for segment in self.segments
        )
        self._measure()

    def store(self, path: Path) -> None:
        """Put files in the place of memory, in this folder.

        Raises:
            OSError: not everything could be; what could stays in files, and the order is what it was.
        """
        try:
            for index, segment in enumerate(self.segments):
                if isinstance(segment, MemorySegment):
                    content = segment.content()
                    stored = self._file(path, segment.start, content)
                    self.segments = (*self.segments[:index], stored, *self.segments[index + 1 :])
                    if late := segment.content()[len(content) :]:  # what a signal handler has added at the last moment
                        self.write(late, simply=True)
        finally:
            self._measure()

    def keep(self, segments: tuple[Segment, ...]) -> None:
        """Back to what `segments` were: files that were made meanwhile are gone again."""
        made, self.segments = self.segments, segments
        for segment in made:
            if isinstance(segment, FileSegment) and segment not in segments:
                segment.close()
        self._measure()

    def moved(self, path: Path) -> None:
        """The folder is called `path` from now on."""
        self.path = path
        for segment in self.segments:
            if isinstance(segment, FileSegment) and (file := path / segment.path.name).exists():
                segment.path = file

    def release(self, position: int) -> None:
        """Remove the segments that hold nothing from `position` on; the last one stays. Raises OSError."""
        while len(self.segments) > 1 and self.segments[1].start <= position:
            first, self.segments = self.segments[0], self.segments[1:]
            if isinstance(first, FileSegment):
                first.remove()
        self._measure()

    def full(self) -> list[tuple[FileSegment, int]]:
        """The files that are not written any more, each with the position where it ends, in order.

        What is written now is among them: a new one is begun, if there is something in it.
        """
        last = self.segments[-1]
        if isinstance(last, FileSegment) and self._filled > len(self._first):
            self._rotate(last)
        return [
            (segment, stop_of(self.segments, index))
            for index, segment in enumerate(self.segments[:-1])
            if isinstance(segment, FileSegment)
        ]

    def thinned(self) -> None:
        """Something was taken out of a file."""
        self._measure()

    def size_of(self, kind: type[FileSegment | MemorySegment]) -> int:
        """Bytes that all segments in files, or all those in memory, take."""
        return sum(item.size for item in self.segments if isinstance(item, kind))

    def close(self) -> None:
        """Write no more."""
        for segment in self.segments:
            if isinstance(segment, FileSegment):
                segment.close()

    def _rotate(self, full: Segment) -> Segment:
        """Begin a new segment; where no file can be made, in memory."""
        fresh: Segment
        if isinstance(full, MemorySegment):
            fresh = MemorySegment(full.end, self._first)
        else:
            try:
                assert self.path is not None
                fresh = self._file(self.path, full.end, self._first)
            except OSError as error:
                self.fall_back(error, full)
                return self.segments[-1]
        if self.segments[-1] is not full:  # a signal handler came first, and went over to memory
            if isinstance(fresh, FileSegment):
                fresh.remove()
            return self.segments[-1]
        self._go_on(full, fresh)
        self._measure()
        return fresh

    def _go_on(self, full: Segment, fresh: Segment) -> None:
        """From now on the fresh one is written, with what a signal handler added to the full one at the last moment."""
        self.segments = (*self.segments, fresh)
        if late := full.end - fresh.start:
            fresh.write(full.read(fresh.start, late))

    def _file(self, path: Path, start: int, content: bytes) -> FileSegment:
        """A new file; none is left if it could not be written, or not be synced where that is wanted."""
        made = FileSegment.create(path, start, content)
        if self._durable:
            try:
                made.sync()
                sync_folder(path)
            except OSError:
                made.remove()
                raise
        return made

    def _sync(self, segment: FileSegment) -> None:
        try:
            segment.sync()
        except OSError as error:  # it was written, so it is not written again: but not to this file any more
            self.fall_back(error, segment)

    def _measure(self) -> None:
        """How much there is before the segment that is written, and how much in it."""
        last = self.segments[-1]
        kind = MemorySegment if isinstance(last, MemorySegment) else FileSegment
        self._filled = last.end - last.start
        self._before = self.size_of(kind) - self._filled
