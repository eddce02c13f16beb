"""How threads wait for each other where a signal handler may do the same.

What `threading` has for it holds a lock for a moment while it is looked at: a handler that comes in that moment, and
wants the same, would wait for what it has interrupted. Here there is no lock that could be held.
"""

from __future__ import annotations

import contextlib
import threading


class Bell:
    """Wakes a thread. A signal handler may ring it, whatever it interrupted."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Let whoever waits go on, or whoever waits next."""
        with contextlib.suppress(RuntimeError):  # it was rung and nobody has heard it yet
            self._silence.release()

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is rung, at most so long; None for as long as it takes. False if it was not."""
        return self._silence.acquire(timeout=-1 if seconds is None else max(seconds, 0.001))


class Latch:
    """Is opened once. A signal handler may wait for that, or open it, whatever it interrupted."""

    def __init__(self) -> None:
        self._bell = Bell()
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether it was opened."""
        return self._open

    def open(self) -> None:
        """Let everybody go on who waits, and whoever comes later."""
        self._open = True
        self._bell.ring()

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is open, at most so long; None for as long as it takes. False if it is not."""
        if not self._open and self._bell.wait(seconds):
            self._bell.ring()  # for the next one who waits
        return self._open
