"""Runs that are passed over for the time being: why, from where on, and until when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracklayer.jitter import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HELD: Final = (2.0, 60.0)
"""Shortest and longest time for which a run is held before it is tried again, in seconds."""


@dataclass(slots=True)
class Hold:
    """Why a run is passed over.

    Attributes:
        position: from where on.
        why: in words.
        missing: the id that it waits for; None if it waits for something else.
        tries: how often it was tried again; -1 before whoever took it over has tried it at all.
        until: when it is worth another try, on the monotonic clock.
        tried: True while it is being tried.
    """

    position: int
    why: str
    missing: str | None
    tries: int
    until: float
    tried: bool = False


class Holds:
    """All runs that are held. Changed by one thread; `reasons` may be called from any."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def __contains__(self, lane: str) -> bool:
        return lane in self._holds

    def __getitem__(self, lane: str) -> Hold:
        return self._holds[lane]

    def __len__(self) -> int:
        return len(self._holds)

    def passes(self, lane: str, position: int) -> bool:
        """True if what stands there is passed over."""
        hold = self._holds.get(lane)
        return hold is not None and position >= hold.position and not hold.tried

    def hold(self, lane: str, position: int, why: str, missing: str | None = None) -> None:
        """Pass a run over from there on; the longer, the more often it was tried."""
        before = self._holds.get(lane)
        tries = 0 if before is None else before.tries + 1
        self._holds[lane] = Hold(position, why, missing, tries, time.monotonic() + _pause(tries))

    def take_over(self, positions: Mapping[str, int]) -> None:
        """Pass over what an earlier delivery has passed over, and try it at once.

        Args:
            positions: from where on, by lane.
        """
        for lane, position in positions.items():
            self._holds[lane] = Hold(position, f"{lane} could not be delivered before", None, -1, time.monotonic())

    def is_news(self, lane: str) -> bool:
        """True if it was not passed over yet, or only by an earlier delivery."""
        hold = self._holds.get(lane)
        return hold is None or hold.tries < 0

    def release(self, lane: str) -> None:
        """Pass it over no longer."""
        self._holds.pop(lane, None)

    def due(self) -> set[str]:
        """Those that are worth another try by now."""
        now = time.monotonic()
        return {lane for lane, hold in self._holds.items() if hold.until <= now}

    def first(self, lanes: Iterable[str] | None = None) -> int | None:
        """The lowest position at which one of them (None: any) is held; None if none is."""
        holds = self._holds.values() if lanes is None else [self._holds[lane] for lane in lanes]
        return min((hold.position for hold in holds), default=None)

    @property
    def positions(self) -> dict[str, int]:
        """From where on each of them is passed over."""
        return {lane: hold.position for lane, hold in self._holds.items()}

    @property
    def lanes(self) -> frozenset[str]:
        """All that are passed over."""
        return frozenset(self._holds)

    @property
    def retry_at(self) -> float | None:
        """When, on the monotonic clock, the next is worth another try; None if nothing is held."""
        return min((hold.until for hold in self._holds.values()), default=None)

    @property
    def reasons(self) -> dict[str, str]:
        """Why runs are held, by what they are called in the journal."""
        return {lane: hold.why for lane, hold in dict(self._holds).items()}


def _pause(tries: int) -> float:
    shortest, longest = HELD
    return min(shortest * 2.0 ** min(tries, 10), longest) * spread(0.75, 1.25)
