"""The thread that delivers the journal of this process while the pipeline goes on."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import AccessDenied, NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.forking import importing
from tracklayer.jitter import spread
from tracklayer.journal.bell import Bell, Latch
from tracklayer.journal.operations import Consumed, DeleteTag, Inputs, LeftOpen, Linked, Log, Outputs, Rename
from tracklayer.journal.watch import is_there
from tracklayer.store.delivery import ITEMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.journal.delivery import Delivery
    from tracklayer.journal.operations import Operation
    from tracklayer.journal.readable import Journal
    from tracklayer.store import Store

log = logging.getLogger("tracklayer")

REST: Final = (0.2, 30.0)
"""Shortest and longest time between attempts while the server is away, in seconds."""

LONGEST: Final = 600.0
"""So many seconds a server may ask to be left alone."""

TURN: Final = 1.0
"""Longest wait, in seconds, where somebody wants a turn before long."""

_UNHURRIED: Final = frozenset({Log, Inputs, Outputs, Consumed, Linked, DeleteTag, Rename, LeftOpen})
"""What can wait until there is more of it."""


class Sender:
    """Delivers as it is appended: at once what somebody waits for, the rest when it fills a request or grows old.

    Attributes:
        away: True after an attempt failed, or was too slow for somebody who waited, until one succeeds.
        error: what failed last; None after a success.
        warm: open when the store can be used without first importing much.
    """

    def __init__(
        self,
        journal: Journal,
        delivery: Delivery,
        store: Store,
        *,
        interval: float,
        on_failure: Callable[[StoreError], None],
        on_idle: Callable[[], float | None],
        on_turn: Callable[[], bool],
    ) -> None:
        """Start no thread yet.

        Args:
            journal: what is appended to.
            delivery: what delivers it.
            store: where to.
            interval: seconds for which what is logged is gathered.
            on_failure: told in the sender's thread that the server is away.
            on_idle: called in the sender's thread when everything is sent; says after how many seconds it wants to be
                again though nothing was logged meanwhile, None for not at all.
            on_turn: called in the sender's thread now and then, whatever it does; says whether it wants to be before long.
        """
        self.away = False
        self.error: StoreError | None = None
        self.warm = Latch()
        self._warm_up: Callable[[], None] | None = getattr(store, "warm_up", None)
        if self._warm_up is None:
            self.warm.open()
        self._journal = journal
        self._delivery = delivery
        self._store = store
        self._interval = interval
        self._on_failure = on_failure
        self._on_idle = on_idle
        self._on_turn = on_turn
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._working = threading.Lock()
        self._moved = threading.Condition()
        self._bell = Bell()
        self._stopping = False
        self._hurry = False
        self._idle = False
        self._resting = False
        self._insisted = False
        self._doubted = False
        self._flush_to = 0
        self._items = 0
        self._unread_since: float | None = None
        self._failures = 0

    # Called by whoever appends

    def appended(self, operation: Operation) -> None:
        """Something was appended: send it at once if somebody waits for it or if it fills a request, else later."""
        kind = type(operation)
        if kind is Log:
            self._items += len(operation.points) + len(operation.params) + len(operation.tags)  # type: ignore[union-attr]
            hurry = self._items >= ITEMS
        else:
            hurry = kind not in _UNHURRIED
        if hurry:
            self._hurry = True
            if not self._resting:
                self._bell.ring()
        elif self._idle:
            self._bell.ring()
        if self._thread is None:
            self.start()

    def start(self) -> bool:
        """Start the thread, if it does not run; False if none can be started any more, at the very end of a process."""
        if self._thread is not None:
            return True
        with self._starting:
            if self._thread is None:
                # Known before it runs: a signal handler that logs in the middle of this starts no second one.
                thread = self._thread = threading.Thread(target=self._run, name="tracklayer-sender", daemon=True)
                try:
                    thread.start()
                except BaseException as error:
                    if not thread.is_alive():
                        self._thread = None
                    if not isinstance(error, RuntimeError):
                        raise  # a signal handler's
                    return False
        return True

    def wake(self) -> None:
        """Let the thread look for something to do: it says by `on_idle` if there is nothing."""
        if self.start() and not self._resting:
            self._bell.ring()

    def wait(self, target: int, *, patience: float, limit: float | None, doubt: float = math.inf) -> bool:
        """Send everything before `target` and wait until it is settled.

        Args:
            target: a position of the journal.
            patience: seconds without any progress after which waiting ends.
            limit: seconds after which waiting ends in any case; None for no limit. 0 is only a look.
            doubt: seconds without any progress after which it ends, too, if the server is not there at all; infinity
                does not look whether it is.

        Returns:
            Whether it is settled. False at once where the server is away.
        """
        self._flush_to = max(self._flush_to, target)
        self._hurry = True
        if not self.start():
            return self._deliver_here(target, patience)
        if not self._resting:
            self._bell.ring()
        self.warm.wait(limit)
        begun = quiet = looked = time.monotonic()
        seen = -1
        while True:
            with self._moved:
                if self._delivery.settled >= target:
                    return True
                now = time.monotonic()
                if self._delivery.requests != seen:
                    seen, quiet, looked = self._delivery.requests, now, now
                left = min(quiet + patience, begun + (math.inf if limit is None else limit)) - now
                if left <= 0 and limit != 0.0:  # a look says nothing about the server
                    self.slow()
                if left <= 0 or self.away or self._stopping:
                    return False
                pause = min(left, looked + doubt / 2 - now)
                if pause > 0:
                    self._moved.wait(pause)
                    continue
            self._look(seen, min(left, doubt / 2))
            looked = time.monotonic()

    def is_there(self, patience: float, timeout: float) -> bool:
        """Whether the server is there, for somebody who can do nothing without it.

        A server that has failed is not asked. One that was slower than somebody had patience is, once, and by the smallest of
        requests: where it answers that, the thread is waited for, which is about to find out, too.

        Args:
            patience: seconds to wait for that answer.
            timeout: seconds to wait for the thread then.
        """
        if self._in_doubt() and not is_there(self._store, patience, unknown=self._in_doubt):
            with self._moved:
                if self._in_doubt():  # nobody else need try before it answers the thread
                    self.error = StoreUnavailable(f"{self._store.uri} does not answer")
        with self._moved:
            self._moved.wait_for(lambda: not self._in_doubt(), timeout)
            return self.error is None

    def _in_doubt(self) -> bool:
        """Whether somebody has waited in vain, and nobody knows yet whether the server is away."""
        return self.away and self.error is None

    def _look(self, seen: int, seconds: float) -> None:
        """See whether the server is there, after nothing has moved for a while; it may move in this moment."""
        if not is_there(self._store, seconds) and self._delivery.requests == seen:
            self.slow()

    def insist(self, target: int, *, patience: float, limit: float) -> bool:
        """Try once more, at once, however short a time ago the server was away; then as `wait`."""
        tried = self._failures
        self._insisted = True
        self._hurry = True
        self._flush_to = max(self._flush_to, target)
        self._bell.ring()
        with self._moved:
            self._moved.wait_for(
                lambda: not self.away or self._failures > tried or self._delivery.settled >= target, patience
            )
        return self.wait(target, patience=patience, limit=limit)

    def stop(self, timeout: float) -> bool:
        """Let the thread end; False if it is still busy after `timeout` seconds."""
        self._stopping = True
        self._bell.ring()
        with self._moved:
            self._moved.notify_all()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    @property
    def busy(self) -> bool:
        """True while something waits to be sent at once."""
        return self._hurry

    # The thread

    def _run(self) -> None:
        with importing():
            import encodings.idna  # noqa: F401  # which the first look-up of a host's name imports

            if self._warm_up is not None:
                try:
                    self._warm_up()
                except Exception as error:
                    log.debug("the store could not be prepared: %s", error)
        self.warm.open()
        while not self._stopping:
            try:
                self._pause()
                if not self._stopping:
                    self._attempt()
            except Exception as error:  # a bug of ours must not end delivery
                log.warning("tracking: the sender failed and goes on: %s", error, exc_info=error)
                self._rest(StoreUnavailable(str(error)))

    def _pause(self) -> None:
        """Wait until something is to be sent."""
        while not (self._hurry or self._stopping):
            now, due = time.monotonic(), self._due()
            if due is not None and due <= now:
                return
            again = self._on_idle() if due is None else None
            if due is None or due - now > self._interval:  # what is logged from now on is due before that
                self._idle = True
                due = self._due()
            if not self._hurry:
                self._wait(again if due is None else due - now)
            self._idle = False

    def _wait(self, seconds: float | None) -> None:
        """Wait to be woken, at most so long; None for as long as it takes."""
        if self._on_turn():
            seconds = TURN if seconds is None else min(seconds, TURN)
        self._bell.wait(seconds)

    def _due(self) -> float | None:
        """When, on the monotonic clock, something is to be sent that is not sent at once; None if there is nothing."""
        delivery = self._delivery
        if delivery.unread:
            if self._unread_since is None:
                self._unread_since = time.monotonic()
        else:
            self._unread_since = None
        moments = [
            None if self._unread_since is None else self._unread_since + self._interval,
            None if delivery.gathered_since is None else delivery.gathered_since + self._interval,
            delivery.retry_at,
        ]
        return min((moment for moment in moments if moment is not None), default=None)

    def _attempt(self) -> None:
        self._hurry = False
        self._items = 0
        due = self._due()
        old = due is not None and due <= time.monotonic()
        self._unread_since = None
        try:
            with self._working:
                self._work(old=old)
        except StoreError as error:
            self._rest(error)

    def _work(self, *, old: bool) -> None:
        delivery = self._delivery
        while True:
            if self._doubted:
                with contextlib.suppress(AccessDenied, Refused, NotFound):  # it is there: all that one wants to know
                    self._store.ping()
                self._doubted = False
            more = delivery.step(whole=old or delivery.settled < self._flush_to)
            self._reached()
            self._on_turn()
            if not more or self._stopping:
                return

    def _reached(self) -> None:
        with self._moved:
            if not self._doubted:  # else somebody has just waited in vain, and it is asked next
                if self.away:
                    log.info("the tracking server is back: what was logged meanwhile is being delivered")
                self.away = False
                self.error = None
                self._failures = 0
            self._moved.notify_all()

    def _rest(self, error: StoreError) -> None:
        """The server is away: leave it alone for a while, the longer the longer it is away."""
        shortest, longest = REST
        delay = min(shortest * 2 ** min(self._failures, 12), longest) * spread(0.6, 1.0)
        if isinstance(error, StoreUnavailable) and error.retry_after is not None:
            delay = max(delay, min(error.retry_after, LONGEST))
        if self._failures == 0:
            log.warning(
                "the tracking server is away: the pipeline goes on, what is logged is kept and delivered later: %s",
                error,
            )
        self._failures += 1
        self._resting = True
        with self._moved:
            self.away = True
            self.error = error
            self._moved.notify_all()
        self._on_failure(error)
        until = time.monotonic() + delay
        while not (self._stopping or self._insisted) and (left := until - time.monotonic()) > 0:
            self._wait(left)
        self._resting = self._insisted = False
        self._hurry = True
        self._store.try_again()

    def slow(self) -> None:
        """Somebody waited for the server in vain: nobody does, until it answers; it is asked even if there is nothing to send."""
        if not self.away:
            log.warning(
                "the tracking server at %s does not answer in time: the pipeline goes on, what is logged is kept and "
                "delivered later",
                self._store.uri,
            )
        self._doubted = True
        self.away = True
        self._hurry = True
        if self.start() and not self._resting:
            self._bell.ring()

    def _deliver_here(self, target: int, patience: float) -> bool:
        """Deliver in the calling thread, where no other can be started any more."""
        if not self._working.acquire(
            timeout=patience
        ):  # another one does; or this is a signal handler in the middle of it
            return False
        try:
            while self._delivery.settled < target and self._delivery.step():
                pass
        except StoreError as error:
            log.info("what was logged is kept: %s", error)
        finally:
            self._working.release()
        return self._delivery.settled >= target
