"""Waiting for an answer of the server, but not for a server that is away.

For a while a slow answer looks like none. So the smallest of requests is made beside, as long as somebody waits: a server
that answers it is there, and is waited for; one that does not is away.
"""

from __future__ import annotations

import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from tracklayer.exceptions import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.store import Store

T = TypeVar("T")


class Silence(StoreUnavailable):
    """The server answers nothing at all."""


class Overdue(StoreUnavailable):
    """There is no answer yet, and time is over."""


LOOK: Final = 0.02
"""Seconds between two looks whether waiting has become needless."""


class Asked(Generic[T]):
    """Something that is done in a thread of its own, so that whoever wants it need not wait for it for ever."""

    def __init__(self, action: Callable[[], T], name: str) -> None:
        """Begin; in the calling thread where no other can be started any more, at the very end of a process."""
        self._action = action
        self._done = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None
        # A context of its own, so that calls in it count as whose they are.
        thread = threading.Thread(target=copy_context().run, args=(self._run,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._run()

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most so long; False if that has not come."""
        return self._done.wait(seconds)

    def result(self) -> T:
        """What came of it, after its end. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def _run(self) -> None:
        try:
            self._result = self._action()
        except BaseException as error:  # it is raised where it was asked for
            self._error = error
        self._done.set()


def is_there(store: Store, seconds: float, *, unknown: Callable[[], bool] = lambda: True) -> bool:
    """Whether the server answers the smallest of requests within so many seconds, be it with a refusal.

    Args:
        store: the server.
        seconds: to wait.
        unknown: looked at meanwhile; as soon as it is False somebody else knows better, and waiting ends.
    """
    pulse = Asked(store.ping, "tracklayer-pulse")
    until = time.monotonic() + seconds
    while not pulse.wait(max(min(LOOK, until - time.monotonic()), 0.0)):
        if time.monotonic() >= until or not unknown():
            return False
    try:
        pulse.result()
    except StoreUnavailable:
        return False
    except Exception:
        return True
    return True


def watched(action: Callable[[], T], store: Store, *, patience: float, limit: float | None = None) -> T:
    """What `action` returns, however long that takes, if only the server is there meanwhile.

    An action that nobody waits for any longer goes on in its thread, until its own time-outs end it.

    Args:
        action: asks the server for something.
        store: the server.
        patience: seconds for which a server is waited for that answers nothing.
        limit: seconds after which waiting ends in any case; None for no limit.

    Raises:
        Silence: the server is away.
        Overdue: `limit` is over.
        Exception: whatever `action` raises.
    """
    deadline = None if limit is None else time.monotonic() + limit
    asked = Asked(action, "tracklayer-asked")
    while not asked.wait(_left(patience / 2, deadline)):
        if deadline is not None and time.monotonic() >= deadline:
            raise Overdue(f"{store.uri} has not answered within {limit:g} s")
        if not is_there(store, _left(patience / 2, deadline)) and not asked.wait(0.0):
            raise Silence(f"{store.uri} does not answer")
    return asked.result()


def _left(seconds: float, deadline: float | None) -> float:
    return seconds if deadline is None else max(min(seconds, deadline - time.monotonic()), 0.0)
