"""An operation becomes requests: what each kind of operation in a journal means to the tracking server."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import msgspec

from tracklayer.creation import create
from tracklayer.datasets import dataset_of
from tracklayer.description import NOTE_TAG, recomposed, with_user_text
from tracklayer.ending import TELLS_AN_END
from tracklayer.exceptions import NotFound, Refused
from tracklayer.identity import (
    PRODUCED_TAG,
    ROOT_TAG,
    UPSTREAM_TAG,
    key_tag,
    produced_tag,
    upstream_tag,
    workflow_run_key,
)
from tracklayer.journal.endings import Endings
from tracklayer.journal.identities import Held
from tracklayer.journal.linkage import Linkage
from tracklayer.journal.notes import Begun, Closed, Ended
from tracklayer.journal.operations import (
    Artifact,
    Begin,
    ChangeModel,
    Close,
    Consumed,
    Create,
    CreateModel,
    DeleteTag,
    End,
    GivenOut,
    Linked,
    Log,
    Lost,
    Named,
    NamedModel,
    NewExperiment,
    Register,
    Rename,
)
from tracklayer.journal.pending import names_ids, with_real_ids
from tracklayer.journal.progress import TWICE
from tracklayer.journal.tables import append_rows
from tracklayer.linking import find_producer, link_tags
from tracklayer.provisional import BY_NAME, PENDING, id_tag, is_provisional
from tracklayer.store import Run
from tracklayer.store.delivery import PAIRS, deliver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from tracklayer.backend import Backend
    from tracklayer.journal.identities import Identities
    from tracklayer.journal.operations import Operation
    from tracklayer.journal.progress import Progress
    from tracklayer.opening import Opened
    from tracklayer.settings import Settings
    from tracklayer.store import Dataset, Metric
    from tracklayer.store.delivery import Refusal

log = logging.getLogger("tracklayer")

WANTED_TAG: Final = "mlflow.tracklayer.wanted."
"""How the tags begin of runs that read a dataset which nobody was known to have produced; then as `produced_tag`."""


class Source(Protocol):
    """What a courier needs of the journal."""

    def file(self, name: str) -> Path:
        """Where the copy of an artifact can be read."""

    @property
    def progress(self) -> Progress:
        """How far the journal is delivered."""


class Abandoned(Exception):
    """A run that was begun, but never acknowledged to anybody, and that is not there: nothing of it is to come."""


class Courier:
    """Makes the requests of one operation after the other. Used by one thread at a time.

    Every method raises `Held` if something that it needs is not there yet, and `StoreError`; it may be repeated then.

    Attributes:
        endings: how runs end.
    """

    def __init__(
        self,
        journal: Source,
        backend: Backend,
        settings: Settings,
        identities: Identities,
        *,
        recovering: bool,
        given: Callable[[str], bool],
        cancelled: Callable[[str], bool],
        on_named: Callable[[str, Named | NamedModel, Opened | None], None],
        on_refused: Callable[[str, Sequence[Refusal]], None],
    ) -> None:
        """Ask for nothing yet.

        Args:
            journal: where the operations come from.
            backend: where they go to.
            settings: those of whoever delivers.
            identities: what the server calls the runs and models of the journal.
            recovering: True if the journal's own process has ended, so that what was not acknowledged is only
                looked for, and what was may have been created by anybody.
            given: whether the run or model with this local id was given out to user code before it existed.
            cancelled: whether whoever began the run with this local id was told that it failed.
            on_named: told when a run or model has come to be (local id, its names, what was opened).
            on_refused: told what the server refused for good of a run.
        """
        self._journal = journal
        self._backend = backend
        self._settings = settings
        self._ids = identities
        self._recovering = recovering
        self._given = given
        self._cancelled = cancelled
        self._on_named = on_named
        self._on_refused = on_refused
        self._linkage = Linkage(backend, settings, identities)
        self.endings = Endings(backend, settings, identities, journal.progress, self._linkage, recovering=recovering)
        self._tagged: set[str] = set()
        self._before = set(identities.runs)  # named by an earlier delivery, that perhaps was not able to say so

    def perform(self, operation: Operation, at: int) -> None:
        """Make the requests of an operation that stands for itself (not those that are gathered).

        Args:
            operation: what to do.
            at: when it was written to the journal, in milliseconds since the epoch.
        """
        if isinstance(operation, Close):
            self.endings.close(operation, at)
            self._journal.progress.remember(Closed(workflow_run_key(operation.context.workflow_run)))
        elif isinstance(operation, Named | NamedModel):
            self._ids.learn(operation)
        else:
            _ACTIONS[type(operation)](self, operation)

    # Runs come to be

    def begin(self, operation: Begin) -> None:
        """Create the run of an opening, or find it. Raises Abandoned."""
        for local in {operation.id, self._ids.known(operation.id) or operation.id}:
            self._journal.progress.remember(Ended(local, again=True))
        given = self._given(operation.id)
        if operation.id in self._before:
            if given:
                with contextlib.suppress(NotFound):
                    self._linkage.begun_before(operation.id, operation.opening, self._ids.resolve(operation.id))
            self._before.discard(operation.id)
            return
        progress = self._journal.progress
        if note := Begun.of(operation):
            progress.remember(note)
        if self._cancelled(operation.id) or (self._recovering and not given):
            self._look_for(operation.id, operation.opening.key)
            return
        tried = progress.tried(operation.id)  # a second time it is resumed, in the same process
        again = given or tried
        opening = self._linkage.resolved(operation.opening)
        self._asking(operation.id)
        opened = create(
            opening,
            self._backend,
            again=again,
            given_out=operation.id if given else None,
            resolve=self._ids.resolved,
        )
        if given:
            self._tagged.add(operation.id)
        named = Named(operation.id, opened.ref.run_id, opened.ref.experiment_id)
        self._name(named)
        self._on_named(operation.id, named, opened)
        self._linkage.begun(operation.id, opening, opened, late=given)

    def create(self, operation: Create) -> None:
        """Create a run that user code started below a stage, or find it. Raises Abandoned."""
        if operation.id in self._ids.runs:
            return
        if self._cancelled(operation.id):
            raise Abandoned(operation.id)
        progress = self._journal.progress
        given = self._given(operation.id)
        run = self._ids.find(operation.id) if self._recovering or progress.tried(operation.id) else None
        if run is None:
            if self._recovering and not given:
                raise Abandoned(operation.id)
            experiment_id = operation.experiment_id
            if experiment_id == PENDING:
                stage = self._ids.run(operation.stage)
                if stage is None:
                    raise Held(operation.stage)
                experiment_id = stage.experiment_id
            elif experiment_id.startswith(BY_NAME):
                experiment_id = self._backend.experiments.id_of(experiment_id.removeprefix(BY_NAME), {})
            tags = self._resolved_tags(operation.tags)
            self._asking(operation.id)
            run = self._created(operation, experiment_id, tags)
        else:
            self._complete(run, operation)
        self._tagged.add(operation.id)
        named = Named(operation.id, run.run_id, run.experiment_id, run.artifact_uri)
        self._name(named)
        self._on_named(operation.id, named, None)

    def _asking(self, identifier: str) -> None:
        """A run is about to be asked for. An earlier request for it, without an answer, may still be under way."""
        progress = self._journal.progress
        if progress.tried(identifier) and identifier not in self._ids.runs:
            progress.trying(TWICE + identifier)
        progress.trying(identifier)

    def _name(self, named: Named) -> None:
        if self._journal.progress.tried(TWICE + named.id):  # user code may know it by this id
            self._journal.progress.trying(TWICE + named.run_id)
        self._ids.name(named)

    def _created(self, operation: Create, experiment_id: str, tags: Mapping[str, str]) -> Run:
        store, own = self._backend.store, {id_tag(operation.id): "1"}
        told = {"name": operation.name, "start_time": operation.start_time}
        try:
            return store.create_run(experiment_id, tags={**tags, **own}, **told)  # type: ignore[arg-type]
        except Refused:
            # One of the tags, perhaps: the run comes first, and each of its tags is then tried.
            run = store.create_run(experiment_id, tags=own, **told)  # type: ignore[arg-type]
            self._on_refused(run.run_id, deliver(store, run.run_id, tags=tags))
            return run

    def _complete(self, run: Run, operation: Create) -> None:
        """Give a run that was found the tags that were to follow its creation: who created it may have been stopped."""
        tags = {key: value for key, value in self._resolved_tags(operation.tags).items() if key not in run.tags}
        if tags:
            self._on_refused(run.run_id, deliver(self._backend.store, run.run_id, tags=tags))

    def _look_for(self, identifier: str, key: str) -> None:
        """The run, if it came to be although nobody was told: it is known then, and ended with the others."""
        found: Sequence[Run] = ()
        if self._journal.progress.tried(identifier):
            found = self._backend.store.search_runs([], f"tags.`{key_tag(key)}` != ''", limit=1)
        if not found:
            raise Abandoned(identifier)
        run = found[0]
        self._ids.name(Named(identifier, run.run_id, run.experiment_id, run.artifact_uri))
        if not self._recovering and run.status == "RUNNING":
            self._backend.store.update_run(run.run_id, status="KILLED", end_time=time.time_ns() // 1_000_000)

    def given_out(self, operation: GivenOut) -> None:
        """See to it that the run is found by the id that was given out, and right what was linked to that id before.

        A model carries the tag from its creation on.
        """
        if operation.id.startswith("m-"):
            return
        run_id = self._ids.known(operation.id)
        if run_id is None:  # whatever became of it, the run's own operation says
            return
        if operation.id not in self._tagged:
            self._backend.store.log_batch(run_id, tags={id_tag(operation.id): "1"})
            self._tagged.add(operation.id)
        self._linkage.right_consumers(operation.id, run_id)

    # Runs change

    def gathered(self, operation: Log) -> tuple[str, Sequence[Metric], Mapping[str, str]]:
        """The server's id of the run, and metrics and tags with the server's ids."""
        run_id = self._ids.resolve(operation.run)
        tags: Mapping[str, str] = operation.tags
        if tags:
            tags = self._resolved_tags(tags)
            if self._recovering and not TELLS_AN_END.isdisjoint(tags) and self.endings.is_of_a_later_try(run_id):
                tags = {name: value for name, value in tags.items() if name not in TELLS_AN_END}
            self.endings.tagged(run_id, tags)
        points = operation.points
        if any(point.model_id is not None for point in points):
            points = tuple(
                point
                if point.model_id is None
                else msgspec.structs.replace(point, model_id=None)
                if point.model_id in self._ids.dead
                else msgspec.structs.replace(point, model_id=self._ids.resolve(point.model_id))
                for point in points
            )
        return run_id, cast("Sequence[Metric]", points), tags  # a point has all that a metric has

    def resolve(self, local: str) -> str:
        """The server's id of a run or model."""
        return self._ids.resolve(local)

    def consumed(self, operation: Consumed) -> tuple[dict[str, str], Dataset]:
        """Tags and dataset of a run that read what somebody had produced, or may yet have."""
        run_id = self._ids.resolve(operation.run)
        found = find_producer(self._backend.store, operation.uri, operation.digest, beside=run_id, before=operation.at)
        version = operation.digest or (found.digest if found else None)
        dataset = dataset_of(operation.uri, version, "consumed", name=operation.name)
        if found is not None:
            return link_tags([found]), dataset
        told = {"uri": operation.uri[:2000], "digest": operation.digest, "at": operation.at}
        text = json.dumps({name: value for name, value in told.items() if value is not None}, separators=(",", ":"))
        wanted = produced_tag(operation.uri, operation.digest).removeprefix(PRODUCED_TAG)
        return {WANTED_TAG + wanted: text}, dataset

    def delete_tag(self, operation: DeleteTag) -> None:
        """Take a tag away."""
        self._backend.store.delete_tag(self._ids.resolve(operation.run), operation.key)

    def described(self, operation: Linked) -> None:
        """Bring a run's description up to date."""
        store, run_id = self._backend.store, self._ids.resolve(operation.run)
        before = store.get_run(run_id).tags.get(NOTE_TAG, "")
        text = operation.text
        after = recomposed(before, operation.note) if text is None else with_user_text(before, text)
        if after != before:
            store.log_batch(run_id, tags={NOTE_TAG: after})

    def rename(self, operation: Rename) -> None:
        """Give a run another name."""
        self._backend.store.update_run(self._ids.resolve(operation.run), name=operation.name)

    # Artifacts and models

    def artifact(self, operation: Artifact) -> None:
        """Store an artifact of a run or a model."""
        owner = self._owner(operation.owner)
        try:
            path = self._journal.file(operation.file)
        except FileNotFoundError:
            raise Refused("its copy is gone with the journal's folder") from None
        if not path.exists():
            raise Refused("its copy in the journal is gone")
        content: bytes | Path = path
        if names_ids(operation.path):
            content = with_real_ids(path.read_bytes(), self._real)
        if operation.known is None:
            self._backend.store.log_artifact(owner, operation.path, content)
        else:
            append_rows(self._backend.store, owner, operation, path.read_bytes(), self._journal.progress)

    def _owner(self, local: str) -> Run:
        """Whatever has artifacts, as far as storing them needs it."""
        if local.startswith("m-"):
            model = self._ids.model(local)
            uri = model.artifact_location
            identifier = model.model_id
        else:
            named = self._ids.run(local)
            if named is None:
                raise Held(local)
            uri, identifier = named.artifact_uri, named.run_id
        return Run(
            run_id=identifier, experiment_id="", name="", status="", start_time=None, end_time=None, artifact_uri=uri
        )

    def _real(self, local: str) -> tuple[str, str] | None:
        """The server's id of a run or model, and where its artifacts are; None for one that is not to be."""
        if self._ids.is_refused(local):
            return None
        if local.startswith("m-"):
            model = self._ids.model(local)
            return model.model_id, model.artifact_location
        named = self._ids.run(local)
        return (named.run_id, named.artifact_uri) if named else None

    def create_model(self, operation: CreateModel) -> None:
        """Create a logged model, or find it. Raises Abandoned."""
        if self._ids.known(operation.id) is not None:
            return
        store, progress = self._backend.store, self._journal.progress
        run = self._ids.run(operation.run) if operation.run else None
        if operation.run and run is None:
            raise Held(operation.run)
        experiment_id = operation.experiment_id
        if experiment_id == PENDING and run is not None:
            experiment_id = run.experiment_id
        elif experiment_id.startswith(BY_NAME):
            experiment_id = self._backend.experiments.id_of(experiment_id.removeprefix(BY_NAME), {})
        tried = self._recovering or progress.tried(operation.id)
        model = store.find_logged_model([experiment_id], id_tag(operation.id)) if tried else None
        if model is None:
            if self._recovering and not self._given(operation.id):
                raise Abandoned(operation.id)
            progress.trying(operation.id)
            model = store.create_logged_model(
                experiment_id,
                name=operation.name,
                run_id=run.run_id if run else None,
                tags={**self._resolved_tags(operation.tags), id_tag(operation.id): "1"},
                params=operation.params,
                model_type=operation.model_type,
            )
        named = NamedModel(operation.id, model.model_id, model.artifact_uri)
        self._ids.name(named)
        self._on_named(operation.id, named, None)

    def change_model(self, operation: ChangeModel) -> None:
        """Add tags and params to a logged model, or give it its status."""
        model_id = self._ids.resolve(operation.model)
        params = list(operation.params.items())
        for begin in range(0, len(params), PAIRS):
            self._backend.store.change_logged_model(model_id, params=dict(params[begin : begin + PAIRS]))
        tags = self._resolved_tags(operation.tags)
        self._backend.store.change_logged_model(model_id, tags=tags, status=operation.status)

    def register(self, operation: Register) -> None:
        """Make a logged model a version of a registered model."""
        self._backend.store.register_model(self._ids.resolve(operation.model), operation.name, operation.tags)

    def new_experiment(self, operation: NewExperiment) -> None:
        """Create an experiment that user code was told of while the server was away; its runs may never come."""
        self._backend.experiments.make(operation.name)

    def sent(self, run_id: str, tags: Iterable[str]) -> None:
        """Links were written with ids that led nowhere when they were resolved: perhaps they do now."""
        self._linkage.sent(run_id, tags)

    def in_doubt(self, run_id: str) -> bool:
        """Whether a link of this run, or its end that came late, is to be looked at again."""
        return self._linkage.in_doubt(run_id) or self.endings.in_doubt(run_id)

    @property
    def doubt(self) -> tuple[str, str] | None:
        """The link, or end that came late, which is to be looked at again next: its run, and what is told of it."""
        return self._linkage.doubt or self.endings.unconfirmed

    def let_go(self) -> None:
        """Do not look at that one again."""
        if self._linkage.doubt is not None:
            self._linkage.let_go()
        else:
            self.endings.let_go()

    def postpone(self) -> None:
        """Look at all others before that one: it comes back, behind them, with `resume`."""
        if self._linkage.doubt is not None:
            self._linkage.postpone()
        else:
            self.endings.postpone()

    def resume(self) -> None:
        """What was postponed is to be looked at again."""
        self._linkage.resume()
        self.endings.resume()

    def look_again(self) -> None:
        """Put right what others have made meanwhile of those links and ends. Raises StoreError, and may be repeated then."""
        self._linkage.look_again()
        self.endings.confirm()

    def _resolved_tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """The tags with the server's ids.

        A link to a run that nobody has delivered yet keeps the id that was given out; a run that needs another one,
        as its parent, waits for that, unless it was refused for good.
        """
        resolved = {}
        for key, value in tags.items():
            name, text = key, value
            if key.startswith(UPSTREAM_TAG):
                name = upstream_tag(self._ids.resolved(key.removeprefix(UPSTREAM_TAG)))
            elif is_provisional(value) and not self._ids.is_refused(value):
                text = self._ids.resolved(value) if key == ROOT_TAG else self._ids.resolve(value)
            resolved[name] = text
        return resolved


_ACTIONS: Final[Mapping[type, Callable[[Courier, Any], None]]] = {
    Begin: Courier.begin,
    Create: Courier.create,
    GivenOut: Courier.given_out,
    DeleteTag: Courier.delete_tag,
    Linked: Courier.described,
    Rename: Courier.rename,
    End: lambda courier, operation: courier.endings.end(operation),
    Lost: lambda courier, operation: courier.endings.lost(operation),
    NewExperiment: Courier.new_experiment,
    Artifact: Courier.artifact,
    CreateModel: Courier.create_model,
    ChangeModel: Courier.change_model,
    Register: Courier.register,
}
