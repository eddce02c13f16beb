"""Reading runs page by page, in bounded memory, however many there are."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import AccessDenied, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tracklayer.store import Run, Store

PAGE: Final = 200
"""So many runs are read at once."""

EXPERIMENTS: Final = 500
"""So many experiments are searched at once."""

REMEMBERED: Final = 1_000
"""So many runs, and answers to the same question, are remembered."""

_LISTED: Final = 100
_SINGLE: Final = 20

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Reader:
    """Reads runs of one store; what it has read is forgotten in time, oldest first."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._runs: OrderedDict[str, Run | None] = OrderedDict()
        self._missing: set[str] = set()
        self._found: OrderedDict[str, Sequence[Run]] = OrderedDict()

    def portions(self, names: frozenset[str]) -> list[list[str]]:
        """Ids of the active experiments of these names (empty: of all), in the portions in which they are searched.

        Raises:
            NotFound: there is none of one of these names.
        """
        experiments = [each for each in self.store.search_experiments() if not names or each.name in names]
        if missing := names - {each.name for each in experiments}:
            raise NotFound(f"there is no experiment called {', '.join(map(repr, sorted(missing)))}")
        ids = [each.experiment_id for each in experiments]
        return [ids[begin : begin + EXPERIMENTS] for begin in range(0, len(ids), EXPERIMENTS)]

    def pages(self, experiments: Sequence[str], filter_string: str, since: int = 0) -> Iterator[list[Run]]:
        """All live runs of these experiments that match, oldest first; never more than a page of them in memory.

        Args:
            experiments: their ids.
            filter_string: MLflow's filter.
            since: only runs that started at this time stamp or later.
        """
        known: set[str] = set()
        size = PAGE
        while True:
            runs = self.store.search_runs(
                experiments,
                f"{filter_string} and attributes.start_time >= {since}",
                order_by=["attributes.start_time ASC"],
                limit=size,
            )
            fresh = [run for run in runs if run.run_id not in known]
            if fresh:
                yield fresh
            if len(runs) < size:
                return
            # The next page begins with the moment of this one's last run, of which there may be several.
            last = runs[-1].start_time or 0
            known = {run.run_id for run in runs if (run.start_time or 0) == last} | (known if last == since else set())
            size = PAGE if last > since else size * 2
            since = last

    def fetch(self, run_ids: Iterable[str]) -> None:
        """Read these runs at once, deleted ones too, so that `run` need not ask for each."""
        wanted = [run_id for run_id in dict.fromkeys(run_ids) if run_id not in self._runs and _RUN_ID.fullmatch(run_id)]
        for deleted in (False, True):
            for begin in range(0, len(wanted), _LISTED):
                listed = ", ".join(f"'{run_id}'" for run_id in wanted[begin : begin + _LISTED])
                for run in self.store.search_runs(
                    [], f"attributes.run_id IN ({listed})", limit=_LISTED, deleted=deleted
                ):
                    self._keep(run.run_id, run)
            wanted = [run_id for run_id in wanted if run_id not in self._runs]
            if not wanted:
                return
        for run_id in wanted[:_SINGLE]:  # whole experiments may be deleted; the others are asked for when needed
            self.run(run_id)

    def run(self, run_id: str) -> Run | None:
        """A run, deleted or not; None if there is none, or it may not be read."""
        if run_id not in self._runs:
            try:
                self._keep(run_id, self.store.get_run(run_id) if _RUN_ID.fullmatch(run_id) else None)
            except AccessDenied:
                self._keep(run_id, None)
            except NotFound:
                self._keep(run_id, None)
                self._missing.add(run_id)
        return self._runs[run_id]

    def is_gone(self, run_id: str) -> bool:
        """True for a run that was deleted, for now or for good; False also where it may not be read."""
        run = self.run(run_id)
        return run_id in self._missing if run is None else run.deleted

    def tagged(self, tag: str) -> Sequence[Run]:
        """The live runs, in whatever experiment, that carry a tag of this name, oldest first; at most a hundred."""
        if tag not in self._found:
            self._found[tag] = self.store.search_runs(
                [], f"tags.`{tag}` != ''", order_by=["attributes.start_time ASC"], limit=100
            )
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return self._found[tag]

    def _keep(self, run_id: str, run: Run | None) -> None:
        self._runs[run_id] = run
        while len(self._runs) > REMEMBERED:
            self._runs.popitem(last=False)
