"""What is gathered for all runs of one journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracklayer.journal.parcel import Parcel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracklayer.journal.record import Record
    from tracklayer.store import Metric

GATHERED: Final = 5_000
"""Most items that are gathered for all runs together before they are sent, full requests or not."""

PARCELS: Final = 200
"""Most runs for which something is gathered at once."""


class Parcels:
    """One parcel for each run that has something to be sent, by the run's lane.

    Attributes:
        full: lanes whose parcels fill a request.
    """

    def __init__(self) -> None:
        """Nothing is gathered."""
        self.full: set[str] = set()
        self._parcels: dict[str, Parcel] = {}
        self._items = 0

    def __len__(self) -> int:
        return len(self._parcels)

    def __iter__(self) -> Iterator[str]:
        """The lanes, as they are now: what is gathered may change meanwhile."""
        return iter(list(self._parcels))

    def get(self, lane: str) -> Parcel | None:
        """What is gathered for a run; None if nothing is."""
        return self._parcels.get(lane)

    def begun(self, lane: str, run_id: str, position: int) -> Parcel:
        """What is gathered for a run; from now on, if nothing was.

        Args:
            lane: the run's lane.
            run_id: the server's id of the run.
            position: where the record begins that is to be added.
        """
        parcel = self._parcels.get(lane)
        if parcel is None:
            parcel = self._parcels[lane] = Parcel(run_id, position)
        return parcel

    @property
    def many(self) -> bool:
        """True if so much is gathered that all of it is to be sent."""
        return self._items > GATHERED or len(self._parcels) > PARCELS

    @property
    def since(self) -> float | None:
        """When the oldest of them was begun, on the monotonic clock; None if nothing is gathered."""
        return min((parcel.since for parcel in self._parcels.values()), default=None)

    def position(self, default: int) -> int:
        """Where the first record begins that is not delivered because it is gathered; the default if nothing is."""
        return min((parcel.position for parcel in self._parcels.values()), default=default)

    @property
    def positions(self) -> Mapping[str, int]:
        """The same for each run, by its lane."""
        return {lane: parcel.position for lane, parcel in self._parcels.items()}

    def add(
        self,
        lane: str,
        run_id: str,
        position: int,
        metrics: Sequence[Metric],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        yields: bool = False,
    ) -> Parcel:
        """Gather what was logged, as `Parcel.add`."""
        parcel = self.begun(lane, run_id, position)
        parcel.add(position, metrics, params, tags, yields=yields)
        self._items += len(metrics) + len(params) + len(tags)
        if parcel.full:
            self.full.add(lane)
        return parcel

    def take_points(self, lane: str, records: Sequence[Record], begin: int) -> int:
        """Gather metric points, as `Parcel.take_points`; 0 also where nothing is gathered for the run yet."""
        parcel = self._parcels.get(lane)
        if parcel is None:
            return 0
        before = parcel.size
        taken = parcel.take_points(lane, records, begin)
        self._items += parcel.size - before
        if parcel.full:
            self.full.add(lane)
        return taken

    def sent(self, lane: str, parcel: Parcel, before: int, *, whole: bool) -> None:
        """Something of a parcel is delivered.

        Args:
            lane: whose it is.
            parcel: what is left of it.
            before: how many items it held before.
            whole: True if nothing is left.
        """
        if whole or not parcel.size:
            self._parcels.pop(lane, None)
        if whole or not parcel.full:
            self.full.discard(lane)
        self._items -= before - parcel.size

    def count_anew(self) -> None:
        """Everything was sent; what could not be is not counted any more."""
        self._items = 0

    def put_aside(self, lane: str, position: int) -> None:
        """Forget what is gathered for a run, if all of it is read again from a position on."""
        parcel = self._parcels.get(lane)
        if parcel is not None and position <= parcel.position:
            del self._parcels[lane]
            self.full.discard(lane)
            self._items -= parcel.size
