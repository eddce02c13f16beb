"""How runs hang together: duplicate parents, runs below a parent that is gone, links that never resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracklayer.identity import PARENT_TAG, ROOT_TAG, SUPERSEDED_TAG, UPSTREAM_TAG, key_tag, produced_tag, short_hash
from tracklayer.journal.courier import WANTED_TAG
from tracklayer.json_text import decoded
from tracklayer.linking import find_producer, ref_of
from tracklayer.parent import find_parent
from tracklayer.provisional import id_tag, is_provisional, provisional_id
from tracklayer.reconcile.findings import (
    DuplicateParent,
    Finding,
    LeftAlone,
    MisplacedRun,
    TwinRun,
    UnresolvedId,
    WantedDataset,
)
from tracklayer.reconcile.truth import is_ours, place_of
from tracklayer.twins import twins_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracklayer.reconcile.reading import Reader
    from tracklayer.reconcile.scope import Scope
    from tracklayer.store import Run, Store


HOLDING: Final = (PARENT_TAG, ROOT_TAG, SUPERSEDED_TAG)
"""Tags whose values are run ids."""

TRACKED: Final = "tags.`tracklayer.key` != ''"
"""MLflow's filter for the runs of tracklayer's own."""


class Relations:
    """Examines runs of one portion of experiments, page by page; a workflow run's parents are all in one of them."""

    def __init__(self, reader: Reader, scope: Scope) -> None:
        self._reader = reader
        self._scope = scope
        self._keys: set[int] = set()  # hashes: 64 bits for each, so that millions of runs fit
        self._reported: set[str] = set()

    def examine(self, page: list[Run]) -> Iterator[Finding | LeftAlone]:
        """What is wrong with how the runs of this page hang together."""
        runs = [run for run in page if is_ours(run) and self._scope.covers(run.tags)]
        self._reader.fetch(run_id for run in runs for run_id in _leads_to(run.tags) if not is_provisional(run_id))
        for run in runs:
            yield from self._duplicates(run)
            yield from self._misplaced(run)
            yield from self._unresolved(run)
            yield from self._wanted(run)

    def _duplicates(self, run: Run) -> Iterator[DuplicateParent | TwinRun]:
        key = run.tags["tracklayer.key"]
        short = int(short_hash(f"{run.experiment_id} {key}")[:16], 16)
        if short not in self._keys:
            self._keys.add(short)
        elif PARENT_TAG in run.tags:
            yield from self._twins(run, key)
        else:
            yield from self._second_parents(run, key)

    def _twins(self, run: Run, key: str) -> Iterator[TwinRun]:
        runs = self._reader.store.search_runs([run.experiment_id], f"tags.`{key_tag(key)}` != ''", limit=100)
        for kept in runs:
            if kept.status == "FINISHED" or kept.metrics or kept.params:
                for twin in twins_of(kept, runs):
                    if twin.run_id not in self._reported:
                        self._reported.add(twin.run_id)
                        because = f"nothing was logged to it, and {kept.run_id} began at the very same moment"
                        yield TwinRun(run=ref_of(twin), kept=ref_of(kept), because=because)

    def _second_parents(self, run: Run, key: str) -> Iterator[DuplicateParent]:
        candidates = candidates_of(self._reader.store, run.experiment_id, key)
        elected, because = elect(self._reader.store, candidates, key)
        for other in candidates:
            if elected is not None and other.run_id != elected.run_id and other.run_id not in self._reported:
                self._reported.add(other.run_id)
                yield DuplicateParent(run=ref_of(other), elected=ref_of(elected), because=because)

    def _misplaced(self, run: Run) -> Iterator[MisplacedRun]:
        """Whatever in the run's tags leads to a parent that is in the trash, while that workflow run has a parent.

        A parent that was thrown away on purpose, the only one, stays there.
        """
        for run_id in _leads_to(run.tags):
            if is_provisional(run_id) or not self._reader.is_gone(run_id):
                continue
            other = self._reader.run(run_id)
            place = place_of(run if other is None else other)
            of_parent = place is not None and place.task_run is None
            if place is None or not (of_parent if other is not None else run_id == run.tags.get(PARENT_TAG)):
                continue  # it leads to somebody else's run, or to a stage run that was thrown away
            elected = self._elected(place.key, run.experiment_id)
            if elected is not None and elected.run_id != run.run_id:
                because = f"{run_id} does not exist" if other is None else f"{run_id} is in the trash"
                yield MisplacedRun(run=ref_of(run), parent=run_id, elected=ref_of(elected), because=because)

    def _elected(self, key: str, experiment_id: str) -> Run | None:
        """The live parent of the workflow run with this key, that of this experiment rather than another."""
        found = [other for other in self._reader.tagged(key_tag(key)) if PARENT_TAG not in other.tags]
        here = [other for other in found if other.experiment_id == experiment_id]
        first = here or [other for other in found if other.experiment_id == found[0].experiment_id]
        return elect(self._reader.store, first, key)[0]

    def _unresolved(self, run: Run) -> Iterator[UnresolvedId | LeftAlone]:
        for tag, given_out in given_out_in(run.tags):
            found = self._standing_for(given_out, run)
            if found is not None:
                yield UnresolvedId(run=ref_of(run), tag=tag, given_out=given_out, found=ref_of(found))
            else:
                because = (
                    f"{given_out}, in its tag {tag.replace(given_out, '…')}, was given out and is not delivered yet"
                )
                yield LeftAlone(run=ref_of(run), because=because)

    def _standing_for(self, given_out: str, run: Run) -> Run | None:
        """The run that was given out under this id; of its own parent everybody knows the key."""
        found = [other for other in self._reader.tagged(id_tag(given_out)) if other.run_id != run.run_id]
        place = place_of(run)
        if not found and place is not None and place.task_run is not None and given_out == provisional_id(place.key):
            return self._elected(place.key, run.experiment_id)
        return found[0] if found else None

    def _wanted(self, run: Run) -> Iterator[WantedDataset | LeftAlone]:
        for tag, value in run.tags.items():
            if not tag.startswith(WANTED_TAG):
                continue
            wanted = _wanted_dataset(value)
            if wanted is None:
                yield LeftAlone(run=ref_of(run), because=f"its tag {tag} cannot be read")
                continue
            uri, digest, at = wanted
            if not self._reader.tagged(produced_tag(uri, digest)):  # as for data that comes from outside
                continue
            # Whoever reads exactly this version may do so by a clock that is behind; of "the last one" time decides.
            before = at if digest is None else None
            found = find_producer(self._reader.store, uri, digest, beside=run.run_id, before=before)
            if found is not None:
                yield WantedDataset(run=ref_of(run), tag=tag, found=found)


def _leads_to(tags: Mapping[str, str]) -> list[str]:
    """The ids of runs in a run's tags: above it, at the root of its story, upstream."""
    above = [tags[tag] for tag in (PARENT_TAG, ROOT_TAG) if tag in tags]
    upstream = [tag.removeprefix(UPSTREAM_TAG) for tag in tags if tag.startswith(UPSTREAM_TAG)]
    return list(dict.fromkeys([*above, *upstream]))


def candidates_of(store: Store, experiment_id: str, key: str) -> list[Run]:
    """The live parents with this key in an experiment, oldest first."""
    runs = store.search_runs(
        [experiment_id], f"tags.`{key_tag(key)}` != ''", order_by=["attributes.start_time ASC"], limit=100
    )
    return [run for run in runs if PARENT_TAG not in run.tags]


def elect(store: Store, candidates: Sequence[Run], key: str) -> tuple[Run | None, str]:
    """Which of a workflow run's live parents stays, and why that one; None if there is none.

    The one that won the election; where none was held (a flow's own process, a script) the oldest, which is also whom
    the next process to come would put up.
    """
    if not candidates:
        return None, ""
    winner = find_parent(store, candidates[0].experiment_id, key)
    if winner is not None and any(winner.run_id == run.run_id for run in candidates):
        return winner, f"{winner.run_id} was elected"
    return candidates[0], f"{candidates[0].run_id} is the oldest"


def given_out_in(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """The tags that refer to another run by an id that was given out before it existed, each with that id."""
    found = [(tag, tags[tag]) for tag in HOLDING if is_provisional(tags.get(tag, ""))]
    links = [tag for tag in tags if tag.startswith(UPSTREAM_TAG)]
    return found + [
        (tag, tag.removeprefix(UPSTREAM_TAG)) for tag in links if is_provisional(tag.removeprefix(UPSTREAM_TAG))
    ]


def _wanted_dataset(value: str) -> tuple[str, str | None, int] | None:
    try:
        told = decoded(value)
        uri, digest, at = told["uri"], told.get("digest"), int(told.get("at", 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return (uri, digest if isinstance(digest, str) else None, at) if isinstance(uri, str) and uri else None
