"""Ends that are delivered late, when somebody else may have taken the run for one that nobody will end."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Final

from tracklayer.ending import IN_PLACE, NO_END, RealEnd
from tracklayer.exceptions import NotFound
from tracklayer.outcome import OUTCOME_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.journal.identities import Identities
    from tracklayer.journal.operations import End
    from tracklayer.store import Store

LATE: Final = 1_000
"""Milliseconds after which an end is late; one that a process left behind always is."""

LIMIT: Final = 1_000
"""So many runs that somebody has marked so are looked at."""

EXPERIMENTS: Final = 100
"""So many experiments are searched at once."""


class LateEnds:
    """The ends of one journal that came late; used by one thread at a time.

    They are announced before they are written (see `tracklayer.ending`), so that nobody overrules them. Once everything
    is delivered, those that somebody had marked as left open, or died, are looked for, and put right.
    """

    def __init__(self, store: Store, identities: Identities, *, recovering: bool) -> None:
        self._patience = 0 if recovering else LATE
        self._store = store
        self._ids = identities
        self._outcomes: dict[str, str] = {}
        self._ends: dict[str, RealEnd] = {}

    def tagged(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run are delivered: the outcome of its end may be among them."""
        if OUTCOME_TAG in tags:
            self._outcomes[run_id] = tags[OUTCOME_TAG]

    def announcement(self, run_id: str, end: End) -> dict[str, str]:
        """The tags that a run is to be given before it is ended; empty if that end is not late."""
        if end.end_time is None or end.status == "RUNNING":
            announced = self._ends.pop(run_id, None) is not None
            return NO_END if announced and end.status != "RUNNING" else {}  # else `reopen` takes it back
        if end.left or end.end_time > time.time_ns() // 1_000_000 - self._patience:
            return {}
        found = self._ends[run_id] = RealEnd(end.status, end.end_time, self._outcomes.get(run_id))
        return found.tags()

    def written(self, run_id: str, end: End) -> None:
        """A run was ended; if that took so long that it came late, it is announced and written again."""
        if run_id not in self._ends and (tags := self.announcement(run_id, end)):
            self._store.log_batch(run_id, tags=tags)
            self._store.update_run(run_id, status=end.status, end_time=end.end_time)

    def confirm(self) -> None:
        """Right those that are marked as left open, or died, once. Raises StoreError."""
        if not self._ends:
            return
        known = {named.run_id: named.experiment_id for named in self._ids.runs.values()}
        where = sorted({known[run_id] for run_id in self._ends if known.get(run_id)})
        for begin, mark in itertools.product(range(0, len(where), EXPERIMENTS), IN_PLACE):
            marked = f"tags.`{OUTCOME_TAG}` = '{mark}'"  # MLflow has no IN for tags
            for run in self._store.search_runs(where[begin : begin + EXPERIMENTS], marked, limit=LIMIT):
                if (end := self._ends.get(run.run_id)) is not None:
                    end.put_right(self._store, run)
        for run_id, end in self._ends.items():
            if not known.get(run_id):  # another process began it
                self._confirm_one(run_id, end)
        self._ends.clear()

    def _confirm_one(self, run_id: str, end: RealEnd) -> None:
        try:
            run = self._store.get_run(run_id)
        except NotFound:
            return
        if not run.deleted:
            end.put_right(self._store, run)
