"""What can go wrong with a journal itself. None of it reaches the user's code: whoever appends decides what to do."""

from __future__ import annotations

from tracklayer.exceptions import TracklayerError


class JournalError(TracklayerError):
    """The root of what a journal raises on purpose."""


class JournalFull(JournalError):
    """There is no room for this: the bound of the journal (or of the memory that stands in for it) is reached.

    The journal has counted what it did not take; see `tracklayer.journal.live.LiveJournal.unkept`.
    """


class JournalClosed(JournalError):
    """The journal is closed, belongs to the process from which this one was forked, or is only read."""
