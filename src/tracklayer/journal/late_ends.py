"""Ends that are delivered late, when somebody else may have taken the run for one that nobody will end."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from tracklayer.ending import IN_PLACE, NO_END, RealEnd
from tracklayer.exceptions import NotFound, StoreError
from tracklayer.outcome import OUTCOME_TAG
from tracklayer.store.failure import failure_of_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tracklayer.journal.identities import Identities
    from tracklayer.journal.operations import End
    from tracklayer.store import Run, Store

log = logging.getLogger("tracklayer")

LATE: Final = 1_000
"""Milliseconds after which an end is late; one that a process left behind always is."""

FEW: Final = 10
"""So many runs are read one by one; of more only those that are marked."""

MANY: Final = 100
"""So many runs are asked for at once."""


class LateEnds:
    """The ends of one journal that came late; used by one thread at a time.

    They are announced before they are written (see `tracklayer.ending`), so that nobody overrules them. Once everything
    is sent, those that somebody had marked as left open, or died, are looked for, and put right.
    """

    def __init__(self, store: Store, identities: Identities, *, recovering: bool) -> None:
        self._patience = 0 if recovering else LATE
        self._store = store
        self._ids = identities
        self._outcomes: dict[str, str] = {}
        self._ends: dict[str, RealEnd] = {}
        self._postponed: dict[str, RealEnd] = {}

    def tagged(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run are delivered: the outcome of its end may be among them."""
        if OUTCOME_TAG in tags:
            self._outcomes[run_id] = tags[OUTCOME_TAG]

    def is_late(self, end: End) -> bool:
        """Whether somebody else may have taken the run for one that nobody will end, or another try may go on with it."""
        if end.end_time is None or end.status == "RUNNING" or end.left:
            return False
        return end.end_time <= time.time_ns() // 1_000_000 - self._patience

    def announcement(self, run_id: str, end: End) -> dict[str, str]:
        """The tags that a run is to be given before it is ended; empty if that end is not late."""
        if end.end_time is None or end.status == "RUNNING":
            announced = self._ends.pop(run_id, None) is not None
            return NO_END if announced and end.status != "RUNNING" else {}  # else `reopen` takes it back
        if not self.is_late(end):
            return {}
        found = self._ends[run_id] = RealEnd(end.status, end.end_time, self._outcomes.get(run_id))
        return found.tags()

    def written(self, run_id: str, end: End) -> None:
        """A run was ended; if that took so long that it came late, it is announced and written again."""
        if run_id not in self._ends and (tags := self.announcement(run_id, end)):
            self._store.log_batch(run_id, tags=tags)
            self._store.update_run(run_id, status=end.status, end_time=end.end_time)

    def in_doubt(self, run_id: str) -> bool:
        """Whether this run is to be looked at again."""
        return run_id in self._ends

    @property
    def unconfirmed(self) -> tuple[str, str] | None:
        """The run that is to be looked at again next, and its status; None if there is none."""
        return next(((run_id, end.status) for run_id, end in self._ends.items()), None)

    def let_go(self) -> None:
        """Do not look at that one again."""
        del self._ends[next(iter(self._ends))]

    def postpone(self) -> None:
        """Look at all others before that one."""
        run_id = next(iter(self._ends))
        self._postponed[run_id] = self._ends.pop(run_id)

    def resume(self) -> None:
        """What was postponed is to be looked at again, behind the others."""
        self._ends |= self._postponed
        self._postponed.clear()

    def confirm(self) -> None:
        """Right those that are marked as left open, or died, once. Raises StoreError.

        The runs are asked for by their ids: many of a server's runs may be marked, for good, that died and are nobody's here.
        """
        while self._ends:
            if len(self._ends) <= FEW:
                self._confirm([next(iter(self._ends))], self._read)
            else:
                self._confirm(list(itertools.islice(self._ends, MANY)), self._marked)

    def _confirm(self, run_ids: list[str], find: Callable[[list[str]], Iterable[Run]]) -> None:
        error = failure_of_one(lambda: self._put_right(find(run_ids)), self._store)
        if error is not None:
            log.warning("tracking: the ends of %s were not looked at again: %s", ", ".join(run_ids), error)
        for run_id in run_ids:
            self._ends.pop(run_id, None)

    def _put_right(self, runs: Iterable[Run]) -> None:
        for run in runs:
            end = self._ends.get(run.run_id)
            if end is None or run.deleted:
                continue
            if run.tags.get(OUTCOME_TAG) not in IN_PLACE:
                continue  # it is as it was ended here, or as those who go on with it have ended it since
            try:
                error = failure_of_one(partial(end.put_right, self._store, run), self._store)
            except StoreError:
                self._ends = {run.run_id: end, **self._ends}  # so that it is known which one it is about
                raise
            if error is not None:
                log.warning("tracking: the end of %s was not put right: %s", run.run_id, error)
            del self._ends[run.run_id]

    def _read(self, run_ids: list[str]) -> Iterable[Run]:
        for run_id in run_ids:
            with contextlib.suppress(NotFound):
                yield self._store.get_run(run_id)

    def _marked(self, run_ids: list[str]) -> Iterable[Run]:
        known = {named.run_id: named.experiment_id for named in self._ids.runs.values()}
        where = {known.get(run_id) or "" for run_id in run_ids}
        these = ", ".join(f"'{run_id}'" for run_id in run_ids)
        for mark in IN_PLACE:  # MLflow has no IN for tags
            wanted = f"attributes.run_id IN ({these}) and tags.`{OUTCOME_TAG}` = '{mark}'"
            # In all experiments, if another process began one of them.
            yield from self._store.search_runs([] if "" in where else sorted(where), wanted, limit=MANY)
