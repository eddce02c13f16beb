"""What can be read of a journal, whichever kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from tracklayer.journal.progress import Progress
    from tracklayer.journal.record import Record

WINDOW: Final = 262_144
"""Bytes of a journal that are read at once."""


class Journal(Protocol):
    """What delivery needs of a journal."""

    progress: Progress

    @property
    def end(self) -> int:
        """Position behind the last record."""

    def read(self, position: int, limit: int = WINDOW) -> list[Record]:
        """Complete records from `position` on."""

    def thin(self, before: int, waiting: frozenset[str]) -> None:
        """Everything before a position is delivered, but for the runs that wait: the room of it may be given back."""

    def spare(self, name: str) -> None:
        """The server refused the artifact of this copy for good: the copy is kept, as far as there is room for such."""

    def file(self, name: str) -> Path:
        """Where the copy of an artifact can be read."""
