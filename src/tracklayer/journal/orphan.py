"""A segment whose file somebody removed: the system keeps what was in it for as long as this process has it open."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

from tracklayer.journal.segments import MemorySegment

if TYPE_CHECKING:
    from tracklayer.journal.segments import FileSegment


class Orphan(MemorySegment):
    """Like what is in memory it ends with this process, unless it is delivered or written to a file first.

    It takes no memory. Nothing is added to it, and it is not closed: somebody may read it while a file takes its place.
    """

    def __init__(self, segment: FileSegment) -> None:
        """Take over what is left of a segment.

        Args:
            segment: its file was removed (`FileSegment.gone`). Nobody may close it from now on: it is closed when
                nobody can read it any more.
        """
        super().__init__(segment.start, b"")
        self._segment = segment
        if (descriptor := segment.descriptor) is not None:
            # At the end of the process it is needed last of all, and the system closes it then.
            weakref.finalize(segment, os.close, descriptor).atexit = False

    @property
    def end(self) -> int:
        """Position behind its last byte."""
        return self._segment.end

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return 0

    def content(self) -> bytes:
        """All of it."""
        return self.read(self.start, self.end - self.start)

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position` on. Raises OSError."""
        return self._segment.read(position, size)
