"""Ends that are delivered late, when somebody else may have taken the run for one that nobody will end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tracklayer.closing import LEFT_OPEN
from tracklayer.outcome import OUTCOME_TAG

if TYPE_CHECKING:
    from tracklayer.journal.identities import Identities
    from tracklayer.journal.operations import End
    from tracklayer.store import Store

LATE: Final = 1_000
"""Milliseconds after which an end is late; one that a process left behind always is."""

LIMIT: Final = 1_000
"""So many runs that were left open are looked at."""

EXPERIMENTS: Final = 100
"""So many experiments are searched at once."""


class LateEnds:
    """The ends of one journal that came late; used by one thread at a time.

    Whoever ends a workflow run ends the stage runs that are open, too, as left open. If the real end is delivered
    afterwards, it wins; if it is delivered in between their look and their word, it would be overruled. So once
    everything is delivered, those that are marked as left open are looked for, and put right.
    """

    def __init__(self, store: Store, identities: Identities, *, recovering: bool) -> None:
        self._patience = 0 if recovering else LATE
        self._store = store
        self._ids = identities
        self._ends: dict[str, End] = {}

    def ended(self, run_id: str, end: End) -> None:
        """A run was ended."""
        late = end.end_time is not None and end.end_time <= time.time_ns() // 1_000_000 - self._patience
        if late and end.status != "RUNNING":
            self._ends[run_id] = end
        else:
            self._ends.pop(run_id, None)

    def confirm(self) -> None:
        """Right those that are marked as left open, once. Raises StoreError."""
        if not self._ends:
            return
        where = sorted({named.experiment_id for named in self._ids.runs.values() if named.experiment_id})
        for begin in range(0, len(where), EXPERIMENTS):
            marked = f"tags.`{OUTCOME_TAG}` = '{LEFT_OPEN}'"
            for run in self._store.search_runs(where[begin : begin + EXPERIMENTS], marked, limit=LIMIT):
                end = self._ends.get(run.run_id)
                if end is None:
                    continue
                if (run.status, run.end_time) != (end.status, end.end_time):
                    self._store.update_run(run.run_id, status=end.status, end_time=end.end_time)
                self._store.delete_tag(run.run_id, OUTCOME_TAG)
        self._ends.clear()
