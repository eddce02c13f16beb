"""A journal as tests write it, and all that is read from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.operations import Header, Log, Point
from tracklayer.journal.readable import WINDOW

if TYPE_CHECKING:
    from pathlib import Path

    from tracklayer.journal.left import LeftJournal
    from tracklayer.journal.live import LiveJournal
    from tracklayer.journal.operations import Operation

NOON = 1_795_262_400_000
"""When all of it was logged, in milliseconds since the epoch."""

MIB = 1024 * 1024


def header() -> Header:
    """The header of a journal of this process."""
    return Header(1, "http://127.0.0.1:5000", "host", os.getpid(), NOON)


def point(step: int, run: str = "a") -> Log:
    """One point of a metric, known by its step."""
    return Log(run, (Point("loss", 1 / (step + 1), NOON + step, step),))


def appended(journal: LiveJournal, operation: Operation) -> int:
    """Append an operation; returns the position behind it."""
    journal.append(operation)
    return journal.end


def everything(journal: LiveJournal | LeftJournal, position: int = 0, limit: int = WINDOW) -> list[Operation]:
    """All that a reader gets who starts at `position`, without headers."""
    found: list[Operation] = []
    while records := journal.read(position, limit):
        assert records[0].position >= position
        position = records[-1].next
        found += [record.operation for record in records if not isinstance(record.operation, Header)]
    assert position == journal.end
    return found


def steps(operations: list[Operation]) -> list[int]:
    """The steps of the points among them, in order."""
    return [item.points[0].step for item in operations if isinstance(item, Log)]


def points_on(folder: Path) -> int:
    """How many records are in journals there: a point each, and what opens the run."""
    return sum(info.records for info in JournalFolder(folder).journals())
