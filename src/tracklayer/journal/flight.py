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
        self._deliver = prepared(store, parcel.run_id, parcel.request())
        self._refusals: list[Refusal] = []
        self._error: Exception | None = None
        self._over: Latch | None = None

    def take_off(self, last: float = 0.0) -> None:
        """Send it, and return while it is under way.

        Args:
            last: seconds that the flight before took; 0 if there was none.
        """
        shortest, longest = HEAD_START
        self.parcel.take_off()
        over = Latch()
        try:
            # Not by `threading`, which waits until the thread runs, and then for the interpreter: while somebody logs in a
            # loop that takes ten milliseconds.
            _thread.start_new_thread(self._fly, (over,))
        except RuntimeError:  # no thread can be started at the very end of a process
            return
        self._over = over
        over.wait(min(max(last / 2, shortest), longest))

    def land(self) -> list[Refusal]:
        """Wait for it, and return what was refused for good. Raises what sending raised; the points are back then."""
        if self._over is None:
            self._send()
        else:
            self._over.wait(None)
        if self._error is not None:
            self.parcel.came_back()
            raise self._error
        self.parcel.arrived()
        return self._refusals

    def _fly(self, over: Latch) -> None:
        try:
            self._send()
        finally:
            over.open()

    def _send(self) -> None:
        began = time.monotonic()
        try:
            self._refusals = self._deliver()
        except Exception as error:  # it is raised where it can be judged
            self._error = error
        self.took = time.monotonic() - began
