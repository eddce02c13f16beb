"""What one delivery has written and looks at once more: others may have written to the same runs in that moment."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import Refused, StoreUnavailable
from tracklayer.journal.isolation import APART
from tracklayer.journal.lanes import FILES, MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.journal.courier import Courier
    from tracklayer.journal.judging import Judge

log = logging.getLogger("tracklayer")

FAR: Final = 4 * 1024 * 1024
"""Bytes of a journal after which nothing waits any longer for all of it to be sent: what is delivered could not go before."""


FAILURES: Final = 3
"""So many things are found that cannot be looked at before all of them wait: each may take as long as a time-out."""

LOOK: Final = "second look"
"""What it is called where failures are counted, and told apart."""


class SecondLook:
    """From where on a journal is not done with, though it was sent: links and late ends are to be looked at again.

    It is taken when all is sent, so that one request does for many. A process that dies before has not delivered these
    records: whoever finds its journal sends them again, and looks. What the server fails with, or does not answer, while
    it serves others, is looked at later, and all that comes behind is delivered; it is let go of when that is hopeless.
    """

    def __init__(self, courier: Courier, judge: Judge) -> None:
        """Nothing was sent yet.

        Args:
            courier: makes the requests, and knows what is to be looked at.
            judge: says what is hopeless, and what is the server's fault.
        """
        self._courier = courier
        self._judge = judge
        self._begins: dict[str, tuple[int, str]] = {}  # and the server's id of the run
        self._put_off: float | None = None

    @property
    def retry_at(self) -> float | None:
        """When, on the monotonic clock, what the server failed with is worth another look; None if there is nothing."""
        return self._put_off

    def before(self, position: int) -> int:
        """Up to where a journal is done with that was sent up to a position."""
        return min(position, min((begin for begin, _ in self._begins.values()), default=position))

    @property
    def positions(self) -> Mapping[str, int]:
        """From where on each run is to be looked at again, by its lane."""
        return {lane: begin for lane, (begin, _) in self._begins.items()}

    def after(self, lane: str, position: int, run_id: str | None) -> None:
        """A record was sent: if something of its run is to be looked at again, it is not done with. Other runs are.

        Args:
            lane: what it belongs to.
            position: where it begins.
            run_id: the server's id of its run; None if it is of none.
        """
        if run_id is None or lane.startswith((FILES, MODEL)):  # those have neither links nor ends
            return
        if self._courier.in_doubt(run_id):
            before, _ = self._begins.get(lane, (position, run_id))
            self._begins[lane] = min(position, before), run_id

    def is_due(self, position: int) -> bool:
        """Whether it cannot wait until all is sent, as that is now to begin at a position."""
        return position - self.before(position) > FAR

    def take(self) -> None:
        """Look at what was written, unless it is put off. Raises StoreError if the server is away; may be repeated then."""
        if self._put_off is not None and time.monotonic() < self._put_off:
            return
        failures = 0
        try:
            while failures < FAILURES and (doubt := self._courier.doubt) is not None:
                try:
                    self._courier.look_again()
                except StoreUnavailable as error:
                    if self._is_hopeless(self._courier.doubt or doubt, error):
                        self._courier.let_go()
                    else:  # the others are looked at: else they would be sent again by whoever goes on with the journal
                        self._courier.postpone()
                        failures += 1
        finally:
            self._courier.resume()
        self._begins = {lane: begun for lane, begun in self._begins.items() if self._courier.in_doubt(begun[1])}
        self._put_off = time.monotonic() + APART / 1_000 if failures else None
        if not failures:
            self._judge.well(LOOK)

    def _is_hopeless(self, doubt: tuple[str, str], error: StoreUnavailable) -> bool:
        """Whether the server will never do what it failed with. Raises the error if that says nothing about it."""
        verdict = self._judge.alone(doubt[0], LOOK, doubt[1], error)
        if isinstance(verdict, Refused):
            log.warning("tracking: run %s (%s) is not looked at again: %s", *doubt, verdict)
            return True
        # Who recovers a journal makes no further attempt if this one ends with an error: it would never come to the end.
        self._judge.tell_apart(LOOK, error, at_once=error.internal or self._judge.recovering)
        if self._put_off is None:
            log.warning("tracking: run %s (%s) is looked at again later: %s", *doubt, error)
        return False
