"""A journal that another process left behind: read, delivered, and then removed."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NoReturn

from tracklayer.journal.failures import JournalClosed
from tracklayer.journal.files import Files
from tracklayer.journal.folder import FORMAT, discard
from tracklayer.journal.lock import Lock
from tracklayer.journal.operations import Artifact
from tracklayer.journal.progress import Progress
from tracklayer.journal.readable import WINDOW
from tracklayer.journal.segments import header_of, last_record, load, read
from tracklayer.journal.thinning import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from tracklayer.journal.operations import Header, Operation
    from tracklayer.journal.record import Record
    from tracklayer.journal.segments import FileSegment

log = logging.getLogger("tracklayer")


class LeftJournal:
    """A journal that is only delivered. `take` makes it. Not meant for several threads.

    Attributes:
        header: what its writer said about it.
        path: its folder.
        progress: how far it is delivered.
        end: position behind the last record that can be read.
        died_at: when the last record was written, in milliseconds since the epoch: the best that is known about when
            its process ended.
        damaged: True as soon as something was passed over because it could not be read.
    """

    def __init__(self, path: Path, header: Header, held: Lock, segments: tuple[FileSegment, ...]) -> None:
        self.path = path
        self.header = header
        self.damaged = False
        self._held = held
        self._segments = segments
        self._files = Files(path)
        self.end, self.died_at = last_record(segments) or (segments[0].start, header.started_at)
        self.progress = Progress(path, on_advance=self._release)
        for copy in self.progress.refused_copies:  # by an earlier delivery; their records may still be there to be read
            self.spare(copy)

    @classmethod
    def take(cls, path: Path) -> LeftJournal | None:
        """The journal in this folder.

        Returns:
            None if another process holds it, if it is gone by now, if nothing in it can be read, or if a later
            version wrote it.
        """
        try:
            held = Lock.take(path)
        except OSError:
            return None
        if held is None:
            return None
        taken = None
        try:
            segments = load(path)
            header = header_of(segments)
            if header is not None and header.format <= FORMAT:
                taken = cls(path, header, held, segments)
        except OSError as error:
            log.warning("the journal in %s cannot be read: %s", path, error)
        finally:
            if taken is None:
                held.release()
        return taken

    def append(self, operation: Operation) -> NoReturn:  # noqa: ARG002
        """Nothing is added to a journal that was left behind. Raises JournalClosed."""
        raise JournalClosed(f"the journal in {self.path} is another process's: nothing is added to it")

    def keep(self, source: Path | bytes) -> NoReturn:  # noqa: ARG002
        """Nothing is added to a journal that was left behind. Raises JournalClosed."""
        raise JournalClosed(f"the journal in {self.path} is another process's: nothing is added to it")

    def file(self, name: str) -> Path:
        """Where the copy of this name can be read. It may be gone, if it was delivered."""
        return self._files.path(name)

    def spare(self, name: str) -> None:
        """The server refused the artifact of this copy for good: the copy is kept, however many there are of those."""
        self._files.spare(name, room=math.inf)

    def read(self, position: int, limit: int = WINDOW) -> list[Record]:
        """Records from `position` on: about `limit` bytes of them, but at least one; empty if there is none."""
        records = read(self._segments, position, self.end, limit)
        if lost := damaged(self._segments, position, records[0].position if records else self.end):
            self.damaged = True
            log.warning("the journal in %s is damaged: %d bytes are passed over", self.path, lost)
        for record in records:
            if isinstance(record.operation, Artifact):
                kept = record.operation
                self._files.recorded(kept.file, record.next, kept.owner, kept.path)
        return records

    def thin(self, before: int, waiting: frozenset[str]) -> None:
        """It does not grow any more: nothing is done."""

    def close(self, *, remove: bool, keep_refused: bool = True) -> None:
        """Let others have it.

        Args:
            remove: everything is delivered, or elsewhere: the folder goes.
            keep_refused: of a folder that goes the values stay that the server refused; False if they are elsewhere, too.
        """
        self.progress.close()
        if remove:
            discard(self.path, keep_refused=keep_refused and self.progress.refused > 0)
        self._held.release()

    def _release(self, position: int) -> None:
        try:
            self._files.release(position)
            while len(self._segments) > 1 and self._segments[1].start <= position:
                first, self._segments = self._segments[0], self._segments[1:]
                first.remove()
        except OSError as error:
            log.warning("a delivered part of the journal cannot be removed: %s", error)
