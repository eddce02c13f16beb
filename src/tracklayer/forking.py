"""What a fork leaves in its child: no module half imported by a thread of ours, no lock that nobody lets go of.

A forked child has its parent's modules and locks, and of its threads only the one that forked. What another was
importing at that moment stays half a module in the child, whatever is asked of it: where a thread of ours imports, a
fork waits for it. What another held at that moment would stay held for good: the child gets such locks anew.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PATIENCE: Final = 10.0
"""Seconds for which a fork waits. It would be for ever if the thread that forks were importing what ours waits for."""


@contextmanager
def importing() -> Iterator[None]:
    """While this is entered no other thread forks the process; for imports only, which end by themselves."""
    gate = _gate()
    with gate.lock:
        yield


class _Gate:
    """What whoever imports holds, and whoever forks."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.held = False  # only read and written by the thread that forks, which has the lock then

    def shut(self) -> None:
        self.held = self.lock.acquire(timeout=PATIENCE)

    def open(self) -> None:
        if self.held:
            self.held = False
            self.lock.release()

    def replace(self) -> None:
        """In the child, where nobody is left who would release it."""
        self.held = False
        self.lock = threading.RLock()


@singleton
def _gate() -> _Gate:
    gate = _Gate()
    os.register_at_fork(before=gate.shut, after_in_parent=gate.open, after_in_child=gate.replace)
    return gate


class Forked(Protocol):
    """What has something to do in a forked child."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there: it has one thread, and must not wait."""


def tell_of_forks(item: Forked) -> None:
    """From now on `item` is told in every forked child. That keeps it alive neither here nor there."""
    _told().add(item)


@singleton
def _told() -> weakref.WeakSet[Forked]:
    """Who is told."""
    told = weakref.WeakSet[Forked]()

    def tell() -> None:
        for item in tuple(told):
            item.forked()

    os.register_at_fork(after_in_child=tell)
    return told


class ProcessLock:
    """A lock of this process. A forked child finds it free, whichever of its parent's other threads held it.

    Whoever holds it may take it again, because a signal handler that logs may come between any two lines: what the
    lock is for should be in order there all the same. And whoever holds it should not wait for another lock that a
    handler may find held by what it has interrupted, the journal's first of all: two threads would wait for each other.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        tell_of_forks(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def forked(self) -> None:
        """What the thread that forked holds it goes on holding; what another held is replaced."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()
