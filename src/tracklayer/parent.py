"""The workflow-run parent: exactly one run for each workflow run, however many processes want it at once.

Where one process can be alone in making it (a flow's own process, a script), it just does. Elsewhere it is elected
by a compare-and-set that MLflow's schema gives: a dataset is unique by (experiment, name, digest) and keeps the
source with which it was first logged. Each candidate logs the dataset named after the key with itself as source, and
reads back whose source stuck: that one is the parent, and the other candidates are deleted. A process that dies
anywhere in between leaves at most a candidate, which the next one to come helps into office or sweeps away.
(Verified on SQLite and PostgreSQL, and in every order of its steps; see ``docs/decisions``.)
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import NotFound, Refused, StoreError
from tracklayer.identity import key_tag, short_hash
from tracklayer.json_text import decoded
from tracklayer.store import Dataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.store import Run, Store

log = logging.getLogger("tracklayer")

BALLOT: Final = "tracklayer workflow run"
"""Name of the datasets that elections are held with; the digest is the hash of the key."""

GENERATIONS: Final = 16
"""How often the parent of one workflow run may be deleted by hand and made anew."""


def find_parent(store: Store, experiment_id: str, key: str, *, alone: bool = False) -> Run | None:
    """The parent with this key among the live runs of the experiment; None if there is none yet.

    Args:
        store: the tracking back end.
        experiment_id: where it is.
        key: the workflow run's key.
        alone: as for `make_parent`: where no election was held, the oldest candidate is the parent.
    """
    candidates = _candidates(store, experiment_id, key)
    return _winner_among(candidates, key) or (candidates[0] if alone and candidates else None)


def sweep_parents(store: Store, experiment_id: str, key: str) -> list[str]:
    """Put the candidates that lost the election into the trash, late ones too.

    Returns:
        Their ids; none as long as nobody is elected.

    Raises:
        StoreError: the back end could not be asked.
    """
    candidates = _candidates(store, experiment_id, key)
    winner = _winner_among(candidates, key)
    if winner is None:
        return []
    _sweep(store, candidates, winner.run_id)
    return [run.run_id for run in candidates if run.run_id != winner.run_id]


def settle_parents(store: Store, key: str) -> list[str]:
    """Leave one parent of a workflow run, in whatever experiment: for one whose processes died while they made it.

    Returns:
        The ids of the candidates that were put into the trash.

    Raises:
        StoreError: the back end could not be asked.
    """
    found = store.search_runs([], f"tags.`{key_tag(key)}` = '1'", limit=100)
    swept: list[str] = []
    for experiment_id in {run.experiment_id for run in found}:
        candidates = _candidates(store, experiment_id, key)
        if len(candidates) > 1:
            if _winner_among(candidates, key) is None:  # they died before any of them voted
                _elect(store, candidates[0], key, 0)
            swept += sweep_parents(store, experiment_id, key)
    return swept


def make_parent(
    store: Store, experiment_id: str, key: str, *, name: str, start_time: int, tags: Mapping[str, str], alone: bool
) -> tuple[Run, bool]:
    """Find the parent, or make it.

    Args:
        store: the tracking back end.
        experiment_id: where the parent is.
        key: the workflow run's key.
        name: run name, if it has to be made.
        start_time: milliseconds since the epoch, if it has to be made.
        tags: tags, if it has to be made; the key's index tag is added.
        alone: True where no other process can be making it, and no earlier try of this one was left without an
            answer: no election is held.

    Returns:
        The parent, and whether this call made it.

    Raises:
        StoreError: the back end could not be asked; whatever candidate was made is swept by the next to come.
    """
    candidates = _candidates(store, experiment_id, key)
    found = _winner_among(candidates, key)
    if found is None and alone and candidates:
        found = candidates[0]
    if found is not None:
        _sweep(store, candidates, found.run_id)
        return found, False
    if candidates and not alone:  # somebody died between creating and publishing, or is just about to publish
        candidate, made = candidates[0], False
    else:
        candidate, made = _create(store, experiment_id, key, name, start_time, tags), True
        if alone:
            return candidate, True
    for generation in range(GENERATIONS):
        winner = _elect(store, candidate, key, generation)
        if made and winner is not candidate:
            _delete(store, candidate.run_id)
        if winner is not None:
            _sweep(store, candidates, winner.run_id)
            return winner, made and winner is candidate
        # The winner was deleted by hand. Only a candidate that was made after that may stand for the next generation:
        # whoever has seen the deleted one in office may be about to sweep those that were there then.
        candidate, made = _create(store, experiment_id, key, name, start_time, tags), True
    log.warning("the parent of %s was deleted %d times: going on without an election", key, GENERATIONS)
    return candidate, made


def _create(store: Store, experiment_id: str, key: str, name: str, start_time: int, tags: Mapping[str, str]) -> Run:
    """A candidate."""
    return store.create_run(experiment_id, name=name, start_time=start_time, tags={**tags, key_tag(key): "1"})


def _candidates(store: Store, experiment_id: str, key: str) -> Sequence[Run]:
    """Live runs that carry the key, oldest first."""
    return store.search_runs(
        [experiment_id], f"tags.`{key_tag(key)}` = '1'", order_by=["attributes.start_time ASC"], limit=100
    )


def _winner_among(candidates: Sequence[Run], key: str) -> Run | None:
    """The candidate whom any of the candidates' ballots names; the newest generation counts."""
    ids = {run.run_id: run for run in candidates}
    for generation in reversed(range(GENERATIONS)):
        digest = _digest(key, generation)
        for run in candidates:
            winner = _source(run, digest)
            if winner in ids:
                return ids[winner]
    return None


def _elect(store: Store, candidate: Run, key: str, generation: int) -> Run | None:
    """Hold the election of this generation for `candidate`; whoever won it, or None if that one was deleted by hand."""
    digest = _digest(key, generation)
    ballot = Dataset(name=BALLOT, digest=digest, source_type="code", source=json.dumps({"run_id": candidate.run_id}))
    try:
        store.log_inputs(candidate.run_id, [ballot])
    except Refused:
        # The candidate was swept: the election was decided between our look and our vote. The answer is on any
        # live run with the key.
        winner = find_parent(store, candidate.experiment_id, key)
        if winner is None:
            raise
        return winner
    winner_id = _source(store.get_run(candidate.run_id), digest) or candidate.run_id
    if winner_id == candidate.run_id:
        return candidate
    try:
        winner = store.get_run(winner_id)
    except NotFound:
        return None
    return None if winner.deleted else winner


def _digest(key: str, generation: int) -> str:
    return short_hash(key if generation == 0 else f"{key}~{generation}")


def _source(run: Run, digest: str) -> str | None:
    """The run id that the ballot with this digest names; None if `run` has not voted."""
    for dataset in run.datasets:
        if dataset.name == BALLOT and dataset.digest == digest:
            try:
                winner = decoded(dataset.source)["run_id"]
            except (ValueError, KeyError, TypeError):
                return None
            return winner if isinstance(winner, str) else None
    return None


def _sweep(store: Store, candidates: Sequence[Run], winner_id: str) -> None:
    """Delete the candidates that lost: the election is decided for good, so none of them can still win."""
    for run in candidates:
        if run.run_id != winner_id:
            _delete(store, run.run_id)


def _delete(store: Store, run_id: str) -> None:
    try:
        store.delete_run(run_id)
    except StoreError as error:  # swept by somebody else, or by the next to come
        log.debug("candidate %s was not deleted: %s", run_id, error)
