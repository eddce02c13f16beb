"""What the server calls the runs and models of a journal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tracklayer.identity import key_tag
from tracklayer.journal.operations import Named, NamedModel
from tracklayer.provisional import id_tag, is_provisional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.context import RunRef
    from tracklayer.journal.progress import Progress
    from tracklayer.store import Run, Store

REMEMBERED: Final = 10_000
"""So many runs of other journals are remembered, by the ids under which they were given out."""

_MODEL: Final = "m-"

_DEAD: Final = "dead:"
"""How the note in the progress begins that a run or model was refused for good; then its local id, and why."""


class Held(Exception):
    """An operation has to wait for something that is not there yet: for the run or model that was given out as `id`."""

    def __init__(self, identifier: str) -> None:
        super().__init__(f"nobody has delivered {identifier} yet")
        self.id = identifier


class Later(Exception):
    """An operation is worth another try after a while, whatever comes meanwhile; the message says why."""


class Identities:
    """Local ids and what they stand for. Used by the sender's thread; `known` may be called from any.

    An id that was given out by another process is looked for at the server, once in each round of delivery.

    Attributes:
        dead: by local id, why a run or model is not to be; None if it was promised to nobody.
    """

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._runs: dict[str, Named] = dict(progress.names)
        self._models: dict[str, NamedModel] = dict(progress.models)
        self._others: dict[str, Named] = {}
        self._missed: set[str] = set()
        self.dead: dict[str, str | None] = {}
        for note in progress.notes(_DEAD):
            local, _, reason = note.partition(" ")
            if local not in self._runs and local not in self._models:
                self.dead[local] = reason

    def bury(self, local: str, reason: str) -> None:
        """A run or model was refused for good; whoever delivers this journal next is to know, too."""
        self.dead[local] = reason
        self._progress.trying(f"{_DEAD}{local} {reason[:300]}")

    def is_refused(self, local: str) -> bool:
        """Whether a run or model of this journal was refused for good, and nobody else is known to have made it."""
        return self.dead.get(local) is not None and self.known(local) is None

    def known(self, local: str) -> str | None:
        """The server's id of a run or model as far as it is known without asking; None if it is not."""
        if not is_provisional(local):
            return local
        if local.startswith(_MODEL):
            model = self._models.get(local)
            return model.model_id if model else None
        run = self._runs.get(local) or self._others.get(local)
        return run.run_id if run else None

    def resolve(self, local: str) -> str:
        """The server's id of a run or model.

        Raises:
            Held: nobody has created it yet.
            StoreError: the server could not be asked.
        """
        known = self.known(local)
        if known is None and local not in self._missed:
            known = self._found_model(local) if local.startswith(_MODEL) else self._found_run(local)
            if known is None:
                self._missed.add(local)
        if known is None:
            raise Held(local)
        return known

    def resolved(self, local: str) -> str:
        """The server's id of a run or model; the local one itself while there is none."""
        try:
            return self.resolve(local)
        except Held:
            return local

    def resolved_ref(self, run: RunRef) -> RunRef | None:
        """The reference with the server's id, found by the id or by the key; None while there is no such run."""
        if not is_provisional(run.run_id):
            return run
        named = self.run(run.run_id)
        if named is not None:
            return replace(run, run_id=named.run_id, experiment_id=named.experiment_id)
        if run.key is not None:
            found = self._store.search_runs([], f"tags.`{key_tag(run.key)}` != ''", limit=1)
            if found:
                return replace(run, run_id=found[0].run_id, experiment_id=found[0].experiment_id)
        return None

    def run(self, local: str) -> Named | None:
        """What is known of a run, asking for it if need be; None while there is none of this id.

        Raises:
            StoreError: the server could not be asked.
        """
        try:
            run_id = self.resolve(local)
        except Held:
            return None
        named = self._runs.get(local) or self._others.get(local)
        if named is None or not (named.experiment_id and named.artifact_uri):
            named = self._keep(local, self._store.get_run(run_id))
        return named

    def model(self, local: str) -> NamedModel:
        """What is known of a model, asking for it if need be. Raises Held, StoreError."""
        model_id = self.resolve(local)
        named = self._models.get(local)
        if named is None:
            found = self._store.get_logged_model(model_id)
            named = self._models[local] = NamedModel(local, model_id, found.artifact_uri)
        return named

    def name(self, named: Named | NamedModel) -> None:
        """A run or model of this journal is there; that is remembered for good."""
        self._progress.name(named)
        self.learn(named)

    def learn(self, named: Named | NamedModel) -> None:
        """A run or model is known to be there."""
        if isinstance(named, NamedModel):
            self._models[named.id] = named
        else:
            self._runs[named.id] = named
        self._missed.discard(named.id)

    def ask_again(self) -> None:
        """What was not there may have come meanwhile."""
        self._missed.clear()

    @property
    def runs(self) -> Mapping[str, Named]:
        """The runs that were begun in this journal, by their local ids."""
        return self._runs

    def find(self, local: str) -> Run | None:
        """The run that carries the tag of this id, asked for now."""
        found = self._store.search_runs([], f"tags.`{id_tag(local)}` != ''", limit=1)
        return found[0] if found else None

    def _found_run(self, local: str) -> str | None:
        found = self.find(local)
        return None if found is None else self._keep(local, found).run_id

    def _found_model(self, local: str) -> str | None:
        found = self._store.find_logged_model([], id_tag(local))
        if found is None:
            return None
        self._models[local] = NamedModel(local, found.model_id, found.artifact_uri)
        return found.model_id

    def _keep(self, local: str, run: Run) -> Named:
        named = Named(local, run.run_id, run.experiment_id, run.artifact_uri)
        if local in self._runs:
            self._runs[local] = named
            return named
        while len(self._others) >= REMEMBERED:
            del self._others[next(iter(self._others))]
        self._others[local] = named
        return named
