"""Experiments, created dynamically: by name, by many processes at once, also where the name was deleted before."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from tracklayer.exceptions import AlreadyExists, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.store import Experiment, Store

log = logging.getLogger("tracklayer")

SUFFIXES = 20
"""How many names beside a deleted one are tried (``flights (2)``, ``flights (3)``, …) before giving up."""


class Experiments:
    """Ids of experiments by name for one store, each name asked for once.

    Only what the server said is kept: an experiment that turns out to be gone is forgotten with `forget`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: dict[str, str] = {}

    def id_of(self, name: str, tags: Mapping[str, str]) -> str:
        """Id of the active experiment `name`, created or restored if need be.

        Args:
            name: valid for MLflow, see `tracklayer.naming`.
            tags: set on creation, and those that are missing on an experiment that is found. What somebody wrote
                there is left alone.

        Raises:
            StoreError: the server cannot be reached or refuses. A run is never put into Default instead.
        """
        known = self._ids.get(name)
        if known is None:
            known = self._ids[name] = self._find_or_create(name, tags)
        return known

    def make(self, name: str) -> None:
        """Create the experiment `name` if there is none. One that somebody has deleted stays deleted.

        Args:
            name: valid for MLflow.

        Raises:
            StoreError: the server cannot be reached or refuses.
        """
        if name in self._ids or self._store.get_experiment_by_name(name) is not None:
            return
        with contextlib.suppress(AlreadyExists):  # another process was faster
            self._ids[name] = self._store.create_experiment(name, {})

    def forget(self) -> None:
        """Ask again next time: the server said that there is no such experiment (any more)."""
        self._ids = {}

    def _find_or_create(self, name: str, tags: Mapping[str, str]) -> str:
        found = self._store.get_experiment_by_name(name)
        if found is None:
            try:
                return self._store.create_experiment(name, tags)
            except AlreadyExists:  # another process was faster
                found = self._store.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.deleted:
            return self._revive(found, tags)
        missing = {tag: value for tag, value in tags.items() if tag not in found.tags}
        if missing:
            try:
                self._store.set_experiment_tags(found.experiment_id, missing)
            except StoreError as error:  # a reader of the experiment may log runs yet not change its tags
                log.info("tags of experiment %r were not set: %s", name, error)
        return found.experiment_id

    def _revive(self, found: Experiment, tags: Mapping[str, str]) -> str:
        """Restore a deleted experiment; where that is not allowed, go to the first free name beside it."""
        try:
            self._store.restore_experiment(found.experiment_id)
        except StoreError as error:
            reason = error
        else:
            log.warning("experiment %r had been deleted and was restored, because a run was opened in it", found.name)
            return found.experiment_id
        for number in range(2, SUFFIXES + 2):
            name = f"{found.name[:240]} ({number})"
            other = self._store.get_experiment_by_name(name)
            if other is not None and other.deleted:
                continue
            log.warning("experiment %r is deleted and cannot be restored (%s): using %r", found.name, reason, name)
            return other.experiment_id if other is not None else self._store.create_experiment(name, tags)
        raise reason
