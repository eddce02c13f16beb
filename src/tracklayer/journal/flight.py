"""A request that is under way while the next one is prepared."""

from __future__ import annotations

import _thread
import time
from typing import TYPE_CHECKING, Final

from tracklayer.journal.bell import Latch
from tracklayer.store.delivery import prepared

if TYPE_CHECKING:
    from tracklayer.journal.parcel import Parcel
    from tracklayer.store import Store
    from tracklayer.store.delivery import Refusal

HEAD_START: Final = (0.005, 0.5)
"""Shortest and longest time, in seconds, for which nothing else is done: Python runs one thread at a time, and the
request is to leave first. In between it is half of what the last flight took: the next one is ready early enough then,
and whoever logs meanwhile has the interpreter to himself for longer."""


class Flight:
    """A full request of one parcel's metric points, sent in a thread of its own.

    The parcel goes on to gather meanwhile, and stays responsible for all of it until the flight has landed. A process
    that ends does not wait for it.

    Attributes:
        lane: whose parcel it is.
        parcel: where the points come from, and go back to if they do not arrive.
        took: seconds from taking off until the answer was there; 0 until then.
    """

    def __init__(self, lane: str, parcel: Parcel, store: Store) -> None:
        """Prepare it; another one may be under way.

        Args:
            lane: whose parcel it is.
            parcel: has nothing but points, and enough of them for a request.
            store: where to.
        """
        self.lane = lane
        self.parcel = parcel
        self.took = 0.0
        self._points = parcel.request()
        self._deliver = prepared(store, parcel.run_id, self._points)
        self._refusals: list[Refusal] = []
        self._error: Exception | None = None
        self._pilot = _thread.allocate_lock()  # whoever has it sends
        self._over = Latch()
        self._next: Flight | None = None

    def follow_with(self, flight: Flight) -> None:
        """Let another one take off as soon as this one has landed well, at once and in the same thread.

        Whoever waits for this one would first have to get the interpreter from whoever logs meanwhile, to no other end than
        to start a thread that then does the same; the server is idle so long. It still has to be told to take off.
        """
        self._next = flight

    def take_off(self, last: float = 0.0) -> bool:
        """Send it, if it is not under way already, and return while it is.

        Args:
            last: seconds that the flight before took; 0 if there was none.

        Returns:
            False if it is not sent, because its parcel does not begin with its points any more: the flight before has
            failed, and they were sent with what came back from it.
        """
        shortest, longest = HEAD_START
        if not self.parcel.take_off(self._points):
            return False
        if self.claim():
            try:
                # Not by `threading`, which waits until the thread runs, and then for the interpreter: while somebody logs
                # in a loop that takes ten milliseconds.
                _thread.start_new_thread(_fly, (self,))
            except RuntimeError:  # no thread can be started at the very end of a process
                self._pilot.release()
                return True
        self._over.wait(min(max(last / 2, shortest), longest))
        return True

    def land(self) -> list[Refusal]:
        """Wait for it, and return what was refused for good. Raises what sending raised; the points are back then."""
        if self.claim():
            self._send()
        else:
            self._over.wait(None)
        if self._error is not None:
            self.parcel.came_back()
            raise self._error
        self.parcel.arrived()
        return self._refusals

    def claim(self) -> bool:
        """True for the first who asks: whose it is to send it."""
        return self._pilot.acquire(blocking=False)

    def fly(self) -> Flight | None:
        """Send it, and return the one that follows if that is the caller's to send, too: not after one that went badly."""
        following = None
        try:
            self._send()
            if self._next is not None and self._error is None and not self._refusals and self._next.claim():
                following = self._next
        finally:
            self._next = None  # else the first of them holds all the others, and their points, until the thread ends
            self._over.open()
        return following

    def _send(self) -> None:
        began = time.monotonic()
        try:
            self._refusals = self._deliver()
        except Exception as error:  # it is raised where it can be judged
            self._error = error
        self.took = time.monotonic() - began


def _fly(flight: Flight | None) -> None:
    while flight is not None:
        flight = flight.fly()
