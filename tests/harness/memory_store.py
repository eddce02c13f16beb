"""A tracking back end in memory that does what MLflow does, as far as the election of a parent asks.

It is a value with methods: `contents` is immutable and hashable, so that whoever explores what processes do to it can
keep any state of it, compare states, and go back. `tests/integration/test_parent_race.py` holds it against real servers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tracklayer.exceptions import NotFound, Refused
from tracklayer.store import Dataset, Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FILTER = re.compile(r"tags\.`([^`]+)` = '([^']*)'")


class StoredRun(NamedTuple):
    """A run as it stands in the store; `datasets` are (name, digest) of its inputs."""

    run_id: str
    experiment_id: str
    name: str
    start_time: int
    tags: tuple[tuple[str, str], ...]
    deleted: bool = False
    datasets: tuple[tuple[str, str], ...] = ()


class Contents(NamedTuple):
    """Everything in the store: runs, and by (experiment, name, digest) the source type and source that a dataset got first."""

    runs: tuple[StoredRun, ...] = ()
    datasets: tuple[tuple[tuple[str, str, str], tuple[str, str]], ...] = ()


class MemoryStore:
    """The part of `tracklayer.store.Store` that `tracklayer.parent` uses. One call is one step: nothing interrupts it.

    Args:
        contents: what is in it.
        backwards: True if clocks disagree, so that what was created last seems to be the oldest.
    """

    def __init__(self, contents: Contents | None = None, *, backwards: bool = False) -> None:
        self.contents = contents or Contents()
        self._backwards = backwards

    def create_run(self, experiment_id: str, *, name: str, start_time: int, tags: Mapping[str, str]) -> Run:
        """Create a run; its id counts up, its start time is as given, give or take a wrong clock."""
        number = len(self.contents.runs)
        created = StoredRun(
            run_id=f"run-{number}",
            experiment_id=experiment_id,
            name=name,
            start_time=start_time + (-number if self._backwards else number),
            tags=tuple(sorted(tags.items())),
        )
        self.contents = self.contents._replace(runs=(*self.contents.runs, created))
        return self._told(created)

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        deleted: bool = False,
    ) -> Sequence[Run]:
        """Runs by one tag, oldest first: nothing else is asked for in an election."""
        asked = _FILTER.fullmatch(filter_string)
        if asked is None or list(order_by) != ["attributes.start_time ASC"]:
            raise NotImplementedError(f"{filter_string} ordered by {order_by}")
        found = [
            run
            for run in self.contents.runs
            if run.experiment_id in experiment_ids and run.deleted == deleted and asked.groups() in run.tags
        ]
        return [self._told(run) for run in sorted(found, key=lambda run: run.start_time)[:limit]]

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        """Log datasets as inputs; a deleted run takes none, and what is known by its name and digest stays as it was."""
        if self._run(run_id).deleted:
            raise Refused(f"the run {run_id} must be in the 'active' state")
        self.insert_inputs(run_id, datasets)

    def insert_inputs(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        """The second half of `log_inputs`, after the look at whether the run is active."""
        run = self._run(run_id)
        known = dict(self.contents.datasets)
        for dataset in datasets:
            known.setdefault((run.experiment_id, dataset.name, dataset.digest), (dataset.source_type, dataset.source))
        logged = dict.fromkeys([*run.datasets, *((one.name, one.digest) for one in datasets)])
        self._replace(run._replace(datasets=tuple(logged)))
        self.contents = self.contents._replace(datasets=tuple(sorted(known.items())))

    def get_run(self, run_id: str) -> Run:
        """The run, deleted or not."""
        return self._told(self._run(run_id))

    def delete_run(self, run_id: str) -> None:
        """Move the run to the trash."""
        self._replace(self._run(run_id)._replace(deleted=True))

    def _run(self, run_id: str) -> StoredRun:
        for run in self.contents.runs:
            if run.run_id == run_id:
                return run
        raise NotFound(f"there is no run {run_id}")

    def _replace(self, changed: StoredRun) -> None:
        runs = tuple(changed if run.run_id == changed.run_id else run for run in self.contents.runs)
        self.contents = self.contents._replace(runs=runs)

    def _told(self, run: StoredRun) -> Run:
        sources = dict(self.contents.datasets)
        datasets = []
        for name, digest in run.datasets:
            source_type, source = sources[run.experiment_id, name, digest]
            datasets.append(Dataset(name=name, digest=digest, source_type=source_type, source=source))
        return Run(
            run_id=run.run_id,
            experiment_id=run.experiment_id,
            name=run.name,
            status="RUNNING",
            start_time=run.start_time,
            end_time=None,
            artifact_uri="",
            deleted=run.deleted,
            tags=dict(run.tags),
            datasets=tuple(datasets),
        )
