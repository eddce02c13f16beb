"""How far a delivery has come, for each run by itself, and what of that is written down for whoever goes on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.journal.holding import Holds
    from tracklayer.journal.parcels import Parcels
    from tracklayer.journal.readable import Journal
    from tracklayer.journal.second_look import SecondLook


class Frontier:
    """What is delivered of a journal, by what is gathered, held, and still to be looked at. Used by one thread at a time."""

    def __init__(self, journal: Journal, holds: Holds, parcels: Parcels, second_look: SecondLook) -> None:
        """Begin where the journal's progress says.

        Args:
            journal: what is delivered.
            holds: the runs that are passed over; those that an earlier delivery has passed over are from now on.
            parcels: what is gathered.
            second_look: what was sent and is to be looked at again.
        """
        self._journal = journal
        self._holds = holds
        self._parcels = parcels
        self._second_look = second_look
        progress = journal.progress
        holds.take_over({lane: max(begin, progress.delivered) for lane, begin in progress.held.items()})

    def settled(self, position: int) -> int:
        """Up to where everything is delivered, refused, held or put off, of a journal that was read up to a position."""
        sent = self._parcels.position(position)
        return sent if self._is_put_off else self._second_look.before(sent)

    def delivered(self, position: int) -> int:
        """Up to where everything is delivered or refused, of a journal that was read up to a position."""
        held, seen = self._holds.first(), self._second_look.before(self._parcels.position(position))
        return seen if held is None else min(held, seen)

    def note(self, position: int, *, resting: bool) -> None:
        """Write down how far it is.

        Args:
            position: up to where the journal was read.
            resting: True if nothing is delivered for a while from now on.
        """
        progress = self._journal.progress
        progress.advance(self.delivered(position))
        if self._holds:
            self._journal.thin(self._second_look.before(self._parcels.position(position)), self._holds.lanes)
        if self._holds or self._is_put_off or progress.settled > progress.delivered:
            progress.settle(*self._passed_over(position), resting=resting)

    @property
    def _is_put_off(self) -> bool:
        return self._second_look.retry_at is not None

    def _passed_over(self, position: int) -> tuple[int, Mapping[str, int]]:
        """Up to where everything is delivered but for some runs, and from where on each of these is not.

        A run that was held is one of these for as long as anything of it is gathered, or to be looked at again: of what
        stands behind it the others have nothing to be delivered once more. So is one of which a second look is put off.
        """
        before, settled = self._journal.progress.settled, position
        held = self._holds.positions
        for lanes, wait in ((self._parcels.positions, False), (self._second_look.positions, self._is_put_off)):
            for lane, begin in lanes.items():
                if wait or lane in held or begin < before:
                    held[lane] = min(begin, held.get(lane, begin))
                else:
                    settled = min(settled, begin)
        return settled, {lane: begin for lane, begin in held.items() if begin < settled}
