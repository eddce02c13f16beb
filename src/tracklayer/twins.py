"""Runs that came to be twice, because the first request for them was still under way when they were asked for again.

A server that hangs (a locked database, a machine that is out of memory) may carry out a request long after whoever
sent it has given up, has looked for the run in vain, and has had it made once more. MLflow's API has nothing that
would make creating a run idempotent. So whoever asked twice looks once more when the run ends, and puts the twin,
which nobody has ever heard of, into the trash. Whoever recovers the journal of a process that was killed does so for it,
and `tracklayer reconcile` finds those that appear even later.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import NotFound
from tracklayer.identity import PARENT_TAG, key_tag
from tracklayer.parent import sweep_parents
from tracklayer.provisional import ID_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracklayer.store import Run, Store

log = logging.getLogger("tracklayer")


TWIN_TAG: Final = "tracklayer.twin_of"
"""Tag of a run in the trash: the run that it is the twin of."""

LIMIT: Final = 100
"""So many runs with the same key are looked at."""


def trash_twins(store: Store, run_id: str) -> list[str]:
    """Put the twins of a run that was asked for more than once into the trash, and those of its parent. Idempotent.

    Args:
        store: the tracking back end.
        run_id: the run that stays.

    Returns:
        The ids of the runs that are in the trash now.

    Raises:
        StoreError: the back end could not be asked.
    """
    run = store.get_run(run_id)
    key = run.tags.get("tracklayer.key")
    if key is not None and PARENT_TAG not in run.tags:
        return sweep_parents(store, run.experiment_id, key)
    names = [key_tag(key)] if key is not None else [name for name in run.tags if name.startswith(ID_TAG)]
    if not names:
        return []
    candidates = store.search_runs([run.experiment_id], f"tags.`{names[0]}` != ''", limit=LIMIT)
    trashed = [trash(store, twin.run_id, run.run_id) for twin in twins_of(run, candidates)]
    if key is not None:
        trashed += _of_parent(store, run)
    return trashed


def twins_of(run: Run, candidates: Sequence[Run]) -> list[Run]:
    """Those of the candidates, which have the run's key, that the same request made.

    A try that goes on in another process has the key, too, but a start time of its own. And whatever has been logged
    to, or has finished, somebody knows about.
    """
    return [
        twin
        for twin in candidates
        if twin.run_id != run.run_id
        and twin.start_time == run.start_time
        and twin.status != "FINISHED"  # RUNNING, until whoever ends the workflow run ends it, too
        and not (twin.metrics or twin.params)
    ]


def _of_parent(store: Store, run: Run) -> list[str]:
    """The same for the workflow run's parent, which may have been asked for in the same breath."""
    try:
        parent = store.get_run(run.tags[PARENT_TAG])
    except (KeyError, NotFound):
        return []
    key = parent.tags.get("tracklayer.key")
    return [] if key is None or PARENT_TAG in parent.tags else sweep_parents(store, parent.experiment_id, key)


def trash(store: Store, twin: str, run_id: str) -> str:
    """Put a run into the trash that is a twin of another; its id. Raises StoreError."""
    log.info("the run %s is a late twin of %s: it goes to the trash", twin, run_id)
    store.log_batch(twin, tags={TWIN_TAG: run_id})
    store.delete_run(twin)
    return twin
