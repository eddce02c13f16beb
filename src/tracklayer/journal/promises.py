"""Runs and models that somebody waits for, and the ids that were given out to those who could not wait longer."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING, TypeAlias

from tracklayer.journal.bell import Latch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.journal.operations import Named, NamedModel
    from tracklayer.opening import Opened

    Answer: TypeAlias = Opened | Named | NamedModel

log = logging.getLogger("tracklayer")


class Waiter:
    """Somebody waits for a run or a model to be there.

    Attributes:
        id: its local id.
        written: True once the journal has what is asked for.
        answer: what the server said; None while it has not.
        error: why it is not there, as far as that is known.
    """

    def __init__(self, identifier: str) -> None:
        self.id = identifier
        self.written = False
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self._done = Latch()

    def wait(self, seconds: float) -> bool:
        """Wait for an answer or an error, at most so long; False if there is none."""
        return self._done.wait(seconds)

    def tell(self, answer: Answer | None, error: Exception | None = None) -> None:
        """There is an answer, or an error."""
        self.answer = self.answer or answer
        self.error = error
        self._done.open()


class Promises:
    """Who waits for what in this process, and what was promised. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may log, whatever it interrupts
        self._waiters: dict[str, Waiter] = {}
        self._given: set[str] = set()
        self._cancelled: set[str] = set()
        self._late: dict[str, Callable[[], Callable[[Opened], None] | None]] = {}

    def ask(self, identifier: str) -> Waiter:
        """Somebody asks for a run or a model, and `give` or `cancel` will say what became of that."""
        with self._lock:
            self._cancelled.discard(identifier)
            waiter = self._waiters[identifier] = Waiter(identifier)
            return waiter

    def asked(self, identifier: str) -> Waiter | None:
        """Whoever asked for this, and was neither given nor told anything yet; None if nobody is."""
        return self._waiters.get(identifier)

    def give(self, waiter: Waiter, named: Callable[[Opened], None] | None = None) -> bool:
        """Nobody waits any longer: give the id out, unless there is an answer by now.

        Args:
            waiter: from `ask`.
            named: called when the run has come to be. A method is held weakly: it keeps nothing alive.

        Returns:
            True if the id is given out with this, for the first time.
        """
        with self._lock:
            self._forget(waiter)
            if waiter.answer is not None:
                return False
            if named is not None:
                self._late[waiter.id] = _weak(named)
            first = waiter.id not in self._given
            self._given.add(waiter.id)
            return first

    def cancel(self, waiter: Waiter) -> None:
        """Whoever asked was told that it failed: it is not to come to be any more."""
        with self._lock:
            self._forget(waiter)
            self._cancelled.add(waiter.id)

    def is_given(self, identifier: str) -> bool:
        """Whether user code goes on with this id."""
        return identifier in self._given

    def is_cancelled(self, identifier: str) -> bool:
        """Whether user code was told that this failed."""
        return identifier in self._cancelled

    def named(self, identifier: str, named: Named | NamedModel, opened: Opened | None) -> None:
        """It has come to be: tell whoever waits, or has gone on without it."""
        with self._lock:
            waiter = self._waiters.get(identifier)
            late = self._late.pop(identifier, None)
            if waiter is not None:
                waiter.tell(opened if opened is not None else named)
        callback = late() if late is not None else None
        if callback is not None and opened is not None:
            try:
                callback(opened)
            except Exception as error:
                log.warning("tracking: telling that %s is there failed: %s", identifier, error, exc_info=error)

    def failed(self, error: Exception) -> None:
        """The server is away: nobody waits for it any longer."""
        with self._lock:
            waiters = list(self._waiters.values())
        for waiter in waiters:
            waiter.tell(None, error)

    def troubled(self, identifier: str, error: Exception) -> None:
        """This one alone cannot be had."""
        with self._lock:
            waiter = self._waiters.get(identifier)
        if waiter is not None:
            waiter.tell(None, error)

    def _forget(self, waiter: Waiter) -> None:
        if self._waiters.get(waiter.id) is waiter:
            del self._waiters[waiter.id]


def _weak(callback: Callable[[Opened], None]) -> Callable[[], Callable[[Opened], None] | None]:
    if hasattr(callback, "__self__"):
        return weakref.WeakMethod(callback)
    return lambda: callback
