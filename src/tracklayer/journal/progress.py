"""How far a journal is delivered, and what the server called the runs in it: a small file beside the segments.

Delivery may be repeated, so the file may lag behind what was really delivered; it must never run ahead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec

from tracklayer.journal.disk import sync, sync_folder, write_whole
from tracklayer.journal.lanes import lane_of
from tracklayer.journal.notes import Begun, Closed, Delivered, Ended, Note, Remembered, Reopened, Settled, Told, Trying
from tracklayer.journal.operations import Named, NamedModel
from tracklayer.journal.record import decoder, frames, pack
from tracklayer.journal.refusals import Refusal, Refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tracklayer.journal.record import Record

log = logging.getLogger("tracklayer")

NAME: Final = "progress"

TWICE: Final = "twice:"
"""How the note begins that a run was asked for again, without an answer to the first request."""

_COMPACT: Final = 262_144
"""Bytes from which on the file is written anew once it is more than twice as big as it need be."""

_PAUSE: Final = 1.0
"""Seconds between attempts to write where that failed."""

_PACE: Final = 1.0
"""Seconds between notes about what waits, while delivery goes on."""

_MANY: Final = 10_000
"""So many runs that wait are worth no more than one note about them in a second."""


class Progress:
    """Safe to use from several threads. Nothing here raises because a disk is full: it is written later then.

    Attributes:
        delivered: everything before this position is delivered.
        names: what the server called the runs, by their local ids.
        models: the same for models.
        remembered: what is asked for only when the journal is taken over.
        changed: whether anything was noted since it was read.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        writable: bool = True,
        durable: bool = False,
        on_advance: Callable[[int], None] | None = None,
    ) -> None:
        """Read what is there.

        Args:
            folder: the journal's folder; None if there is none.
            writable: False for somebody who only looks, without the journal's lock.
            durable: wait for the disk after each note.
            on_advance: told the new position after it was written down.
        """
        self.delivered = 0
        self.changed = False
        self._settled = Settled()
        self._settle_at = 0.0
        self._unsettled = False  # True: that is known, and not noted yet
        self._names: dict[str, Named] = {}
        self._models: dict[str, NamedModel] = {}
        self._trying: set[str] = set()
        self.remembered = Remembered()
        self._refusals = Refusals(folder, writable=writable, durable=durable)
        self._folder = folder
        self._writable = writable
        self._durable = durable
        self._on_advance = on_advance
        self._lock = threading.RLock()
        self._descriptor: int | None = None
        self._size = 0
        self._least = 0
        self._behind = False
        self._again_at = 0.0
        self._read()

    @property
    def names(self) -> Mapping[str, Named]:
        """What the server called the runs, by their local ids."""
        return self._names

    @property
    def refused(self) -> int:
        """How many values were refused."""
        return self._refusals.count

    @property
    def models(self) -> Mapping[str, NamedModel]:
        """What the server called the models, by their local ids."""
        return self._models

    def advance(self, position: int) -> None:
        """Everything before `position` is delivered: segments and copies that only it needed are removed."""
        with self._lock:
            if position <= self.delivered:
                return
            self._note(Delivered(position))
        if self._on_advance is not None:
            self._on_advance(position)

    @property
    def settled(self) -> int:
        """Everything before this position is delivered, but for what is `held`."""
        return max(self._settled.position, self.delivered)

    @property
    def held(self) -> Mapping[str, int]:
        """From where on runs that wait are not delivered, by their lanes; it may be before what is `delivered`."""
        return self._settled.held if self._settled.position > self.delivered else {}

    def is_left(self, record: Record) -> bool:
        """Whether a record is still to be delivered, as far as that is noted."""
        position = record.position
        if not self.delivered <= position < self.settled:
            return position >= self.delivered
        return position >= self.held.get(lane_of(record.operation), self.settled)

    def settle(self, position: int, held: Mapping[str, int], *, resting: bool) -> None:
        """Everything before `position` is delivered, but for some runs: nobody is to deliver the rest once more.

        It is noted now and then, and at the end: a note for each request would cost more than what is done twice after a
        kill, and is no less true for coming late.

        Args:
            position: the position.
            held: from where on these runs are not delivered, by their lanes.
            resting: True if delivery does not go on at once.
        """
        note = Settled(position, dict(held))
        with self._lock:
            if note != self._settled:
                self._settled = note
                self._unsettled = self.changed = True
            now = time.monotonic()
            if self._unsettled and now >= self._settle_at + (0.0 if resting else _PACE):
                self._settle_at = now + len(held) // _MANY
                self._unsettled = False
                self._note(note)

    def trying(self, identifier: str) -> None:
        """The run or model with this local id is about to be created; or a remark with a beginning of its own, see `notes`."""
        with self._lock:
            if identifier not in self._trying:
                self._note(Trying(identifier))

    def tried(self, identifier: str) -> bool:
        """Whether it was tried before, perhaps by a process that did not live to see the answer."""
        return identifier in self._trying

    def notes(self, prefix: str) -> list[str]:
        """What was noted by `trying` with this beginning, without it."""
        with self._lock:
            return [note.removeprefix(prefix) for note in self._trying if note.startswith(prefix)]

    def name(self, named: Named | NamedModel) -> None:
        """The server's answer."""
        with self._lock:
            self._note(named)

    def remember(self, note: Begun | Ended | Reopened | Closed | Told) -> None:
        """What a record says that is delivered, and may be removed by now. Told again it is not written again."""
        with self._lock:
            if self.remembered.take(note):
                self._note(note)

    def refuse(
        self,
        kind: str,
        run: str,
        key: str | None,
        value: str | None,
        reason: str,
        *,
        at: int | None = None,
        step: int | None = None,
    ) -> None:
        """Keep a value that the server refused for good. The same one, told again, is kept once; see `Refusal`."""
        told = {name: number for name, number in (("timestamp", at), ("step", step)) if number is not None}
        refusal = Refusal(time.time_ns() // 1_000_000, kind, run, key, value, reason, **told)
        with self._lock:
            self.changed = self._refusals.add(refusal) or self.changed

    def refused_of(self, run: str) -> int:
        """How many values were refused of a run, by whoever delivered this journal."""
        return self._refusals.counts.get(run, 0)

    @property
    def refused_runs(self) -> list[str]:
        """The runs and models of which values were refused, by whoever delivered this journal."""
        return list(self._refusals.counts)

    @property
    def refused_copies(self) -> set[str]:
        """Names of the copies of refused artifacts: of some there was no room for the copy to stay."""
        return self._refusals.copies

    def reasons(self, run: str, limit: int) -> list[str]:
        """What was refused of a run, in words, as far as it is written down: the first of it."""
        with self._lock:
            return self._refusals.reasons(run, limit)

    def unwritten(self) -> dict[str, bytes]:
        """What is known and not on the disk: whole files, by their names in a journal's folder."""
        with self._lock:
            lags = self._behind or self._unsettled or self._folder is None
            known = {NAME: self._compact()} if lags else {}
            return known | self._refusals.unwritten()

    def move_to(self, folder: Path) -> None:
        """From now on it is written here, with all that was noted before."""
        with self._lock:
            self._folder = folder
            self._behind = True
            self._again_at = 0.0
            self._catch_up()
            self._refusals.move_to(folder)

    def close(self) -> None:
        """Write what could not be written before, if it can be now; then no more."""
        with self._lock:
            self._again_at = 0.0
            if self._unsettled:
                self._unsettled = False
                self._note(self._settled)
            self._catch_up()
            self._refusals.close()
            self._writable = False
            self._abandon()

    def forget(self) -> None:
        """In a forked child: this is the parent's; nothing is written any more."""
        self._lock = threading.RLock()  # another thread of the parent may hold the old one for good
        self._writable = False
        self._on_advance = None
        self._abandon()

    def _abandon(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _read(self) -> None:
        if self._folder is None:
            return
        try:
            data = (self._folder / NAME).read_bytes()
        except OSError:
            data = b""
        decode = decoder(Note).decode
        for frame in frames(data, 0):
            with contextlib.suppress(msgspec.MsgspecError):
                self._take(decode(frame.payload))
            self._size = frame.next
        if self._writable and self._size < len(data):  # torn: whatever is added must not stand behind that
            self._behind = True

    def _take(self, note: Note) -> None:
        if isinstance(note, Delivered):
            self.delivered = max(self.delivered, note.position)
        elif isinstance(note, Settled):
            self._settled = note
        elif isinstance(note, Trying):
            self._trying.add(note.id)
        elif isinstance(note, Named):
            self._names[note.id] = note
        elif isinstance(note, NamedModel):
            self._models[note.id] = note
        else:
            self.remembered.take(note)

    def _note(self, note: Note) -> None:
        self.changed = True
        self._take(note)
        if self._folder is None or not self._writable:
            return
        if self._behind:
            self._catch_up()
            return
        frame = pack(note, time.time_ns() // 1_000_000)
        try:
            self._append(frame)
        except OSError:
            self._behind = True
            self._again_at = time.monotonic() + _PAUSE
            return
        if self._size > max(_COMPACT, 2 * self._least):
            self._behind = True
            self._catch_up()

    def _append(self, frame: bytes) -> None:
        if self._descriptor is None:
            assert self._folder is not None
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._folder / NAME, flags, 0o600)
            if self._durable:
                sync_folder(self._folder)
        if os.write(self._descriptor, frame) != len(frame):
            os.ftruncate(self._descriptor, self._size)
            raise OSError("the disk is full")
        self._size += len(frame)
        if self._durable:
            sync(self._descriptor)

    def _compact(self) -> bytes:
        """All that is known, in as few frames as it takes."""
        at = time.time_ns() // 1_000_000
        open_tries = (Trying(identifier) for identifier in sorted(self._trying))
        notes: list[Note] = [Delivered(self.delivered), *open_tries, *self._names.values(), *self._models.values()]
        if self._settled.position > self.delivered:
            notes.append(self._settled)
        notes += self.remembered.notes()
        return b"".join(pack(note, at) for note in notes)

    def _catch_up(self) -> None:
        """Write the file anew, if it lacks something and it is time for another attempt."""
        if self._folder is None or not self._writable or time.monotonic() < self._again_at:
            return
        if self._behind:
            path, content = self._folder / NAME, self._compact()
            fresh = path.with_suffix(".new")
            try:
                write_whole(fresh, content, os.O_TRUNC, durable=self._durable)
                fresh.replace(path)
                if self._durable:
                    sync_folder(self._folder)
            except OSError:
                self._again_at = time.monotonic() + _PAUSE
                with contextlib.suppress(OSError):
                    fresh.unlink(missing_ok=True)
                return
            self._abandon()
            self._size = self._least = len(content)
            self._behind = False
