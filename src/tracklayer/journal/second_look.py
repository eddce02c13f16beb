"""What one delivery has written and looks at once more: others may have written to the same runs in that moment."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import Refused, StoreError, StoreUnavailable
from tracklayer.journal.isolation import APART
from tracklayer.journal.lanes import FILES, MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.journal.courier import Courier
    from tracklayer.journal.judging import Judge
    from tracklayer.store import Store

log = logging.getLogger("tracklayer")

FAR: Final = 4 * 1024 * 1024
"""Bytes of a journal after which nothing waits any longer for all of it to be sent: what is delivered could not go before."""


class SecondLook:
    """From where on a journal is not done with, though it was sent: links and late ends are to be looked at again.

    It is taken when all is sent, so that one request does for many. A process that dies before has not delivered these
    records: whoever finds its journal sends them again, and looks. What the server fails with, and with nothing else, is
    looked at later, while all that comes behind is delivered, and let go of when that is hopeless.
    """

    def __init__(self, courier: Courier, judge: Judge, store: Store) -> None:
        """Nothing was sent yet.

        Args:
            courier: makes the requests, and knows what is to be looked at.
            judge: says what is hopeless.
            store: where the runs are.
        """
        self._courier = courier
        self._judge = judge
        self._store = store
        self._begins: dict[str, int] = {}
        self._put_off: float | None = None

    @property
    def retry_at(self) -> float | None:
        """When, on the monotonic clock, what the server failed with is worth another look; None if there is nothing."""
        return self._put_off

    def before(self, position: int) -> int:
        """Up to where a journal is done with that was sent up to a position."""
        return min(position, min(self._begins.values(), default=position))

    @property
    def positions(self) -> Mapping[str, int]:
        """From where on each run is to be looked at again, by its lane."""
        return self._begins

    def after(self, lane: str, position: int) -> None:
        """A record of a run, or of something else, that begins there was sent."""
        if self._courier.doubt is not None and not lane.startswith((FILES, MODEL)):  # those have neither links nor ends
            self._begins[lane] = min(position, self._begins.get(lane, position))

    def is_due(self, position: int) -> bool:
        """Whether it cannot wait until all is sent, as that is now to begin at a position."""
        return position - self.before(position) > FAR

    def take(self) -> None:
        """Look at what was written, unless it is put off. Raises StoreError if the server is away; may be repeated then."""
        if self._put_off is not None and time.monotonic() < self._put_off:
            return
        while (doubt := self._courier.doubt) is not None:
            try:
                self._courier.look_again()
            except StoreUnavailable as error:
                if not self._is_hopeless(self._courier.doubt or doubt, error):
                    self._put_off = time.monotonic() + APART / 1_000
                    return
                self._courier.let_go()
        self._put_off = None
        self._begins.clear()

    def _is_hopeless(self, doubt: tuple[str, str], error: StoreUnavailable) -> bool:
        """Whether the server will never do what it failed with. Raises the error if that says nothing about it."""
        if not error.internal:
            raise error
        verdict = self._judge.alone(doubt[0], "second look", doubt[1], error)
        if isinstance(verdict, Refused):
            log.warning("tracking: run %s (%s) is not looked at again: %s", *doubt, verdict)
            return True
        try:
            self._store.ping()
        except StoreError:
            raise error from None
        return False
