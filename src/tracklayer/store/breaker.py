"""A circuit breaker: after a failure to reach a server, the calls that follow fail at once instead of waiting again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE: Final = 30.0
"""Seconds for which a server that could not be reached is left alone."""


class Breaker:
    """Whether to try at all. Every method may be called from any thread, also right after a fork.

    It has no lock on purpose: a fork while another thread holds one would leave it locked in the child for good.
    Two threads that decide at the same moment can at worst both try.
    """

    def __init__(self, *, probe: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start closed.

        Args:
            probe: seconds for which other calls still fail while the first one after a pause tries the server.
            clock: what tells the time, in seconds.
        """
        self._probe = probe
        self._clock = clock
        self._until: float | None = None
        self._slow = False

    def left(self) -> float:
        """Seconds for which to leave the server alone; 0 means: try, and say `reached` or `failed` afterwards."""
        until = self._until
        if until is None:
            return 0.0
        now = self._clock()
        if now < until:
            return until - now
        self._until = now + self._probe
        return 0.0

    def half_open(self) -> None:
        """Let one call through, even if the pause is not over; the others still fail until it has said how it went."""
        if self._until is not None:
            self._until = self._clock()

    def reached(self) -> None:
        """The server answered."""
        self._until = None
        self._slow = False

    def failed(self, pause: float = PAUSE) -> None:
        """The server could not be reached: leave it alone for `pause` seconds."""
        self._until = self._clock() + pause

    def timed_out(self) -> None:
        """The server took the request and did not answer in time: twice in a row counts as not reached.

        Once may be one slow question to a busy server, for which the others should not suffer.
        """
        if self._slow or self._until is not None:  # the latter: it was tried after a pause and is no better
            self.failed()
        self._slow = True
