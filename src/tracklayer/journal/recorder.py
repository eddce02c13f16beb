"""What the rest of tracklayer calls to have something recorded: it is in the journal then, and on its way.

There is one recorder for each tracking back end of a process (`tracklayer.journal.recorders`). Nothing here raises because of the journal or the
server, unless somebody asks for that; nothing waits for longer than it is told to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from typing import TYPE_CHECKING, Final, TypeVar, cast

from tracklayer.creation import provisionally
from tracklayer.exceptions import NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.forking import importing
from tracklayer.interruption import let_through
from tracklayer.journal import departure
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.failures import JournalClosed, JournalFull
from tracklayer.journal.heading import heading
from tracklayer.journal.live import open_journal
from tracklayer.journal.operations import Begin, End, GivenOut, Log, Named, NamedModel
from tracklayer.journal.promises import Promises
from tracklayer.journal.sender import Sender
from tracklayer.journal.watch import Silence, watched
from tracklayer.provisional import PENDING, provisional_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tracklayer.backend import Backend
    from tracklayer.journal.operations import Create, CreateModel, Operation
    from tracklayer.journal.promises import Waiter
    from tracklayer.journal.recovery import Scavenger
    from tracklayer.opening import Opened, Opening
    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")

T = TypeVar("T")

STRICT: Final = 120.0
"""Longest wait, in seconds, for whoever wants to be told that the server is away instead of going on without it."""

RECOVERY: Final = 2.0
"""Seconds for which the end of a process waits for the delivery of what others left behind."""

UNKEPT_TAG: Final = "tracklayer.unkept"
"""Tag of a run of which something is missing, because the journal was full when it was logged."""

STOPPING: Final = 10.0
"""Longest wait, in seconds, for the end of a request before a journal is carried away."""

WAKING: Final = 0.05
"""Longest wait, in seconds, for the sender to end where the server is away."""


class Recorder:
    """Records what is logged at one tracking back end. Safe to use from several threads.

    In a process that was forked from the one that made it, everything goes to a recorder of that process's own.

    Attributes:
        backend: the tracking back end.
        settings: the settings with which it was made.
    """

    def __init__(self, backend: Backend, settings: Settings) -> None:
        """Begin a journal; ask the server for nothing yet."""
        self.backend = backend
        self.settings = settings
        self._pid = os.getpid()
        with contextlib.suppress(OSError):
            # It is looked for once, under a lock: a process forked while a thread of ours held that would wait for good.
            tempfile.gettempdir()
        self._journal = open_journal(settings, heading(backend.store.uri, settings))
        self._promises = Promises()
        self._warned: set[str] = set()
        self._closed = False
        self._scavenger: Scavenger | None = None
        self._delivery = Delivery(
            self._journal,
            backend,
            settings,
            recovering=False,
            on_named=self._promises.named,
            given=self._promises.is_given,
            cancelled=self._promises.is_cancelled,
            on_trouble=self._promises.troubled,
        )
        self._sender = Sender(
            self._journal,
            self._delivery,
            backend.store,
            interval=settings.flush_interval,
            on_failure=self._failed,
            on_idle=self._idle,
            on_turn=self._journal.look,
        )

    def __repr__(self) -> str:
        return f"<Recorder {self.backend.store.uri}{' (away)' if self.away else ''}>"

    @property
    def away(self) -> bool:
        """True after the server could not be reached in time, until it is: then nobody waits for it."""
        return self._sender.away

    @property
    def error(self) -> StoreError | None:
        """Why the server is away; None if it is not."""
        return self._sender.error

    @property
    def held(self) -> Mapping[str, str]:
        """Why runs wait that cannot be delivered yet, by their local ids."""
        return self._delivery.held

    @property
    def refused(self) -> int:
        """How many values the server has refused for good."""
        return self._journal.progress.refused

    # Recording

    def append(self, operation: Operation) -> None:
        """Record an operation. Never raises because of the journal: what it cannot take is told in the log, and the run."""
        if type(operation) is End and (count := self._journal.unkept.get(operation.run)):
            self.append(Log(operation.run, tags={UNKEPT_TAG: f"{count} values: the journal was full"}))
        if self._write(operation):
            self._sender.appended(operation)

    def _write(self, operation: Operation) -> bool:
        """Write an operation to the journal; False if it is not there, so that the sender has nothing to do."""
        try:
            self._journal.append(operation)
        except JournalClosed:
            if os.getpid() != self._pid:
                self._heir().append(operation)
            else:
                self._warn("closed", f"{type(operation).__name__} came after the end of the process and is lost")
            return False
        except JournalFull as error:
            self._warn("full", str(error))
            self._tell_unkept(operation)
        except (ValueError, TypeError, OSError) as error:
            let_through(error)
            self._warn(type(error).__name__, f"{type(operation).__name__} cannot be kept: {error}")
            return False
        return True

    def keep(self, source: Path | bytes) -> str:
        """Copy an artifact aside; its name is for one `Artifact` operation.

        Raises:
            JournalFull: there is no room for it.
            OSError: the source cannot be read.
        """
        if os.getpid() != self._pid:
            return self._heir().keep(source)
        return self._journal.keep(source)

    def file(self, name: str) -> Path:
        """Where the copy that `keep` made under this name is; it goes when it is delivered."""
        if os.getpid() != self._pid:
            return self._heir().file(name)
        return self._journal.file(name)

    def waits(self, owner: str, path: str | None = None) -> bool:
        """Whether an artifact of a run or model was kept here that may not be delivered yet.

        Args:
            owner: its local id, or the server's.
            path: the artifact's place; None for any.
        """
        if os.getpid() != self._pid:
            return self._heir().waits(owner, path)
        waiting = self._journal.waiting(path)
        return bool(waiting) and (self.resolve(owner) or owner) in {self.resolve(other) or other for other in waiting}

    def begin(
        self,
        opening: Opening,
        *,
        wait: float,
        strict: bool = False,
        named: Callable[[Opened], None] | None = None,
    ) -> Opened:
        """Have a run created, and wait for it, but not for long.

        Args:
            opening: what is known about the run.
            wait: seconds to wait at most; 0 where the server is away.
            strict: wait until the server has answered or failed, and raise that.
            named: called, in the sender's thread, when a run that was given out under a provisional id has come to
                be. A method is held weakly: it keeps nothing alive.

        Returns:
            The run; with a provisional id, its experiment `PENDING`, if the server did not answer in time.

        Raises:
            StoreError: only if `strict`.
        """
        if os.getpid() != self._pid:
            return self._heir().begin(opening, wait=wait, strict=strict, named=named)
        identifier = provisional_id(opening.key)
        waiter = self._ask(identifier, Begin(identifier, opening), STRICT if strict else wait, strict=strict)
        if strict and waiter.answer is None:
            self._promises.cancel(waiter)
            raise waiter.error or StoreUnavailable(f"{self.backend.store.uri} did not create the run in time")
        return self._given(waiter, opening, named)

    def interrupted(self, opening: Opening) -> Opened | None:
        """The run of a `begin` that did not return (a time-out by signal, Ctrl-C), so that it can be ended.

        Args:
            opening: what is known about the run.

        Returns:
            The run, as `begin` would have told it; None if it was not asked for yet.
        """
        waiter = self._promises.asked(provisional_id(opening.key))
        return self._given(waiter, opening, None) if waiter is not None and waiter.written else None

    def _given(self, waiter: Waiter, opening: Opening, named: Callable[[Opened], None] | None) -> Opened:
        """What whoever asked for a run goes on with."""
        if self._promises.give(waiter, named):
            self.append(GivenOut(waiter.id))
        return cast("Opened", waiter.answer) if waiter.answer is not None else provisionally(opening)

    def create(self, create: Create, *, wait: float) -> Named:
        """Have a run of user code created, and wait for it, but not for long.

        Args:
            create: the run, with a provisional id of its own.
            wait: seconds to wait at most; 0 where the server is away.

        Returns:
            What the server calls it; with the provisional id as its run id, if it did not answer in time.

        Raises:
            NotFound: the server said in time that the experiment is not there: there is no such run then.
            Refused: the server said in time that it takes no such run.
        """
        if os.getpid() != self._pid:
            return self._heir().create(create, wait=wait)
        told = self._ask_or_give(create.id, create, wait)
        return told if isinstance(told, Named) else Named(create.id, create.id, create.experiment_id)

    def create_model(self, create: CreateModel, *, wait: float) -> NamedModel:
        """Have a logged model created, and wait for it, but not for long; see `create`.

        The place of its artifacts is empty if the server did not answer in time.
        """
        if os.getpid() != self._pid:
            return self._heir().create_model(create, wait=wait)
        told = self._ask_or_give(create.id, create, wait)
        return told if isinstance(told, NamedModel) else NamedModel(create.id, create.id, "")

    # Sending

    def flush(self, timeout: float | None = None) -> bool:
        """Send what was recorded before, and wait until the server has it, or has refused it.

        Args:
            timeout: seconds to wait at most; None: for as long as the server takes something now and then.

        Returns:
            False if something is still to be sent; at once if the server is away.
        """
        if os.getpid() != self._pid:
            return self._heir().flush(timeout)
        patience = self.settings.connect_timeout + self.settings.timeout + 1.0
        return self._sender.wait(
            self._journal.end, patience=patience, limit=timeout, doubt=min(self.settings.patience, patience)
        )

    def ask(self, action: Callable[[], T], *, limit: float | None = None) -> T:
        """What the server answers to somebody who needs to know it now: a slow server is waited for, none is not.

        Args:
            action: asks for it.
            limit: seconds after which waiting ends in any case; None: as long as the server is there.

        Raises:
            StoreUnavailable: the server is away, of which others are told; or `limit` is over.
            Exception: whatever `action` raises.
        """
        if os.getpid() != self._pid:
            return self._heir().ask(action, limit=limit)
        if self.away:
            raise StoreUnavailable(f"{self.backend.store.uri} could not be reached a moment ago")
        if self._sender.start():  # that mlflow takes seconds to import is no fault of the server's
            self._sender.warm.wait(STRICT)
        try:
            return watched(action, self.backend.store, patience=self.settings.patience, limit=limit)
        except Silence:
            self.unanswered()
            raise

    def is_there(self) -> bool:
        """Whether the server is there, for a call that can but fail without it.

        A server that has failed is not asked. One that somebody has waited for in vain is, once: perhaps it was only slow.
        """
        if os.getpid() != self._pid:
            return self._heir().is_there()
        return self._sender.is_there(self.settings.patience, self.settings.timeout)

    def drain(self) -> bool:
        """What the end of a stage does: send what was recorded, and wait a little for the server to have it.

        Returns:
            False if something is still to be sent: the sender goes on with it.
        """
        if os.getpid() != self._pid:
            return self._heir().drain()
        return self._sender.wait(self._journal.end, patience=self.settings.patience, limit=self.settings.linger)

    def look_around(self) -> None:
        """Deliver, in the background, what other processes of this machine left behind, if it is time to look for it."""
        if os.getpid() == self._pid and not self._closed:
            self._sender.wake()

    def unanswered(self) -> None:
        """Somebody has waited for the server in vain: until it answers the sender, nobody waits for it."""
        if os.getpid() == self._pid:
            self._sender.slow()

    def resolve(self, local: str) -> str | None:
        """The server's id of a run or model, as far as this process knows it; None while it does not."""
        return self._delivery.identities.known(local)

    def named(self, local: str) -> Named | None:
        """What the server calls a run, as far as this process knows it; its places may be empty. None: no such run."""
        return self._delivery.identities.runs.get(local)

    def close(self, *, carry: str | None = None) -> bool:
        """Send what is left, waiting as a stage's end does, and close the journal; it is removed if all is delivered.

        Args:
            carry: the folder (any URL that fsspec knows) to which what is left is taken; None is where the settings say.

        Returns:
            Whether everything is delivered.
        """
        if self._closed or os.getpid() != self._pid:
            return False
        self._closed = True
        if not self.drain() and self._journal.at_risk:  # it ends with this process: the server may be back by now
            self._sender.insist(self._journal.end, patience=self.settings.patience, limit=self.settings.linger)
        if self._scavenger is not None:
            self._scavenger.wait(0.0 if self.away else RECOVERY)
        # A journal that is to be carried away is worth waiting for the end of a request. Where the server is away the
        # sender rests, most of the time, and ends as soon as it is woken.
        url = carry or self.settings.carry
        patience = WAKING if self.away else self.settings.patience
        stopped = self._sender.stop(STOPPING if url else patience)
        end = self._journal.end
        complete = stopped and self._delivery.delivered >= end
        if not stopped:
            # It is in the middle of a request: the lock goes with the process, not before. A copy can leave all the
            # same: if the request still succeeds, whoever delivers the copy finds what it has done.
            departure.depart(self._journal, url)
            return False
        departure.close(self._journal, url, complete=complete, end=end)
        return complete

    def discard(self) -> None:
        """Nothing was recorded, and nothing will be."""
        self._closed = True
        self._journal.close(remove=True)

    # Inside

    def _ask_or_give(self, identifier: str, operation: Create | CreateModel, wait: float) -> object:
        """What the server said; None if it did not in time: then the id is given out. Raises NotFound, Refused."""
        waiter = self._ask(identifier, operation, wait, strict=False)
        if waiter.answer is None and isinstance(waiter.error, NotFound | Refused):
            self._promises.cancel(waiter)
            raise waiter.error
        if self._promises.give(waiter):
            self.append(GivenOut(identifier))
        return waiter.answer

    def _ask(self, identifier: str, operation: Operation, wait: float, *, strict: bool) -> Waiter:
        waiter = self._promises.ask(identifier)
        if self._write(operation):
            waiter.written = True  # at once: whoever is interrupted from here on has asked for it
            self._sender.appended(operation)
        if strict or (wait > 0 and not self.away):
            self._sender.warm.wait(STRICT)  # that mlflow takes seconds to import is no fault of the server's
            if not waiter.wait(wait):
                self._sender.slow()
        return waiter

    def _failed(self, error: StoreError) -> None:
        """The server is away: tell who waits for it, and what is in memory goes to a disk that has room again."""
        self._promises.failed(error)
        self._journal.save()

    def _idle(self) -> float | None:
        """Everything of this process is sent: time for what others left behind; see `Scavenger.look`."""
        if self._scavenger is None:
            with importing():
                from tracklayer.journal.recovery import Scavenger

            self._scavenger = Scavenger(self.backend, self.settings, busy=lambda: self._sender.busy)
        return None if self._closed or self.away else self._scavenger.look()

    def _heir(self) -> Recorder:
        from tracklayer.backend import open_backend
        from tracklayer.journal.recorders import recorder_of

        backend = open_backend(self.settings)
        return recorder_of(backend or self.backend, self.settings)

    def _tell_unkept(self, operation: Operation) -> None:
        """Tell a run how much was not kept, again when that has doubled: its process may not live to its end."""
        if isinstance(operation, Log) and UNKEPT_TAG not in operation.tags:
            count = self._journal.unkept.get(operation.run, 0)
            if (told := f"{operation.run} {count.bit_length()}") not in self._warned:
                self._warned.add(told)
                self.append(Log(operation.run, tags={UNKEPT_TAG: f"{count} values so far: the journal was full"}))

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("tracking: %s", message)


__all__ = ["PENDING", "Recorder"]
