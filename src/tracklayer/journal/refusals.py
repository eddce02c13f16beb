"""Values that the server refused for good: a line of JSON each, beside the journal, for people and for ``doctor``."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from typing import TYPE_CHECKING, Final

import msgspec

from tracklayer.journal.disk import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger("tracklayer")

NAME: Final = "refused.jsonl"

_REASON: Final = 2_000
"""Characters that are kept of a server's reason."""

_KNOWN: Final = 100_000
"""Refused values that are recognised when they are told again."""

LIMIT: Final = 16 * 1024 * 1024
"""Bytes from which on refused values are counted and not written down any more."""

ARTIFACT: Final = "artifact"
"""Kind of a line about an artifact, the value of which is the name of its copy."""

MORE: Final = "more"
"""Kind of a line that only says how many there were that are not written down."""

_COUNTED: Final = 1_000
"""So many are counted before that is written down, if the process does not end before."""

_HELD: Final = 10_000
"""Lines that are held in memory at most, where they cannot be written."""

_PAUSE: Final = 1.0
"""Seconds between attempts to write where that failed."""


class Refusal(msgspec.Struct, frozen=True):
    """A value that the server refused for good.

    Attributes:
        at: when, in milliseconds since the epoch.
        kind: what it is: ``metric``, ``param``, ``tag``, ``artifact``, ….
        run: the run it was for: the server's id where that is known, else the local one.
        key: its name; None for what has none.
        value: the value, as text; None if it is too big to be kept here or there is none.
        reason: what the server said.
        timestamp: of a metric point, in milliseconds since the epoch. Not there for anything else.
        step: of a metric point. Not there for anything else.
    """

    at: int
    kind: str
    run: str
    key: str | None = None
    value: str | None = None
    reason: str = ""
    timestamp: int | msgspec.UnsetType = msgspec.UNSET
    step: int | msgspec.UnsetType = msgspec.UNSET


class Refusals:
    """The refused values of one journal. Not safe to use from several threads: `Progress` sees to that.

    Attributes:
        count: how many there are.
        counts: how many there are of each run.
        copies: names of the copies of artifacts among them.
    """

    def __init__(self, folder: Path | None, *, writable: bool, durable: bool) -> None:
        """Read what is there.

        Args:
            folder: the journal's folder; None if there is none.
            writable: False for somebody who only looks.
            durable: wait for the disk after each line.
        """
        self.count = 0
        self.counts: dict[str, int] = {}
        self.copies: set[str] = set()
        self._folder = folder
        self._writable = writable
        self._durable = durable
        self._known: set[int] = set()
        self._waiting: list[bytes] = []
        self._again_at = 0.0
        self._size = _size(folder)
        self._beyond = 0
        for refusal in () if folder is None else refusals(folder):
            self._is_new(refusal)
        if folder is not None and writable and _is_torn(folder / NAME):
            self._waiting.append(b"\n")

    def add(self, refusal: Refusal) -> bool:
        """Keep it; False if that was done before. Where no line can be written, it is written later."""
        fresh = self._is_new(refusal)
        if fresh:
            if len(self._waiting) < _HELD and self._size < LIMIT:
                self._append(msgspec.structs.replace(refusal, reason=refusal.reason[:_REASON]))
            else:
                self._beyond += 1
                if self._beyond >= _COUNTED:
                    self._count_beyond()
            self._write()
        return fresh

    def _append(self, refusal: Refusal) -> None:
        line = msgspec.json.encode(refusal) + b"\n"
        self._waiting.append(line)
        self._size += len(line)

    def _count_beyond(self) -> None:
        if self._beyond:
            at, reason = time.time_ns() // 1_000_000, "so many more were refused than are kept here"
            self._append(Refusal(at, MORE, "", None, str(self._beyond), reason))
            self._beyond = 0

    def reasons(self, run: str, limit: int) -> list[str]:
        """What was refused of a run, in words: the first of it that is in the file."""
        there = () if self._folder is None else refusals(self._folder)
        found = (f"{item.kind} {item.key or ''}: {item.reason}" for item in there if item.run == run)
        return list(itertools.islice(found, limit))

    def unwritten(self) -> dict[str, bytes]:
        """The whole file, by its name, if there is something that it lacks."""
        self._count_beyond()
        if not self._waiting:
            return {}
        written = b""
        with contextlib.suppress(OSError):
            written = b"" if self._folder is None else (self._folder / NAME).read_bytes()
        return {NAME: written + b"".join(self._waiting)}

    def move_to(self, folder: Path) -> None:
        """From now on they are written here."""
        self._folder = folder
        self._again_at = 0.0
        self._write()

    def close(self) -> None:
        """Write what could not be written before, if it can be now."""
        self._again_at = 0.0
        self._count_beyond()
        self._write()

    def _is_new(self, refusal: Refusal) -> bool:
        if refusal.kind == MORE:
            told = refusal.value or ""
            self.count += int(told) if told.isdecimal() and len(told) < 10 else 0
            return False
        point = refusal.timestamp, refusal.step
        known = hash((refusal.kind, refusal.run, refusal.key, refusal.value, refusal.reason[:_REASON], point))
        if known in self._known:
            return False
        if len(self._known) < _KNOWN:
            self._known.add(known)
        self.count += 1
        self.counts[refusal.run] = self.counts.get(refusal.run, 0) + 1
        if refusal.kind == ARTIFACT and refusal.value:
            self.copies.add(refusal.value)
        return True

    def _write(self) -> None:
        if not self._waiting or self._folder is None or not self._writable or time.monotonic() < self._again_at:
            return
        try:
            write_whole(self._folder / NAME, b"".join(self._waiting), os.O_APPEND, durable=self._durable)
        except OSError as error:
            self._again_at = time.monotonic() + _PAUSE
            log.warning("%d refused values are not written down, the journal cannot be: %s", len(self._waiting), error)
        else:
            self._waiting.clear()


def refusals(folder: Path) -> Iterator[Refusal]:
    """The values that the server refused, from a journal's folder. A line that is torn is left out."""
    try:
        with (folder / NAME).open("rb") as file:
            for line in file:
                with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                    yield msgspec.json.decode(line, type=Refusal)
    except OSError:
        return


def _size(folder: Path | None) -> int:
    with contextlib.suppress(OSError):
        return 0 if folder is None else (folder / NAME).stat().st_size
    return 0


def _is_torn(path: Path) -> bool:
    """Whether the last line was not written to its end, so that what is added must begin a new one."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
