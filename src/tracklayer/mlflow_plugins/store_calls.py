"""What all calls of a store inside a stage are made of: which run is meant, whose it is, and how the server is asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlflow.entities import LifecycleStage, RunTag
from mlflow.exceptions import MlflowException

from tracklayer.exceptions import SettingsError, StoreError
from tracklayer.identity import PARENT_TAG
from tracklayer.journal.pending import pending_uri
from tracklayer.mlflow_plugins import waiting
from tracklayer.mlflow_plugins.known_runs import KnownRun, known_run, known_under_another_id, remember, remember_as
from tracklayer.mlflow_plugins.provisional_ids import found_model, found_run, is_model, with_ids
from tracklayer.mlflow_plugins.refusals import Refusals
from tracklayer.mlflow_plugins.stages import (
    StageState,
    child_tags,
    current_stage,
    guard,
    opening_of,
    other_ids,
    report_failure,
    state_of,
    state_of_run,
    tracked_in,
)
from tracklayer.provisional import PENDING, is_provisional
from tracklayer.store.calling import is_own_call
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracklayer.settings import Settings

T = TypeVar("T")

NO_ANSWER: Final = "INTERNAL_ERROR"
"""How MLflow calls it if no answer came; a server that fails may call it so, too."""

UNANSWERED: Final = 5.0
"""Seconds for which a server that did not answer is not waited for again."""

NOT_THERE: Final = "RESOURCE_DOES_NOT_EXIST"


class StoreCalls:
    """The last of what stands before a stock store's class, of which the rest is.

    Attributes:
        tracklayer_uri: the tracking URI for which the store was built.
        tracklayer_refusals: what a store of this kind refuses.
    """

    tracklayer_uri: str = ""
    tracklayer_refusals: Refusals = Refusals(rest=True)

    @property
    def _stock(self) -> Any:
        """This store's methods as the stock class has them."""
        return super()

    # ------------------------------------------------------------------------------------------ stages and their runs

    def _stage(self) -> StageState | None:
        """The state of the current stage, if this store is where it is tracked."""
        if is_own_call():
            return None
        with guard("finding the stage of an MLflow call"):
            stage = current_stage()
            if stage is not None and tracked_in(stage, self.tracklayer_uri):
                return state_of(stage)
        return None

    def _stage_of_run(self, run_id: str) -> StageState | None:
        """The state of the open stage whose run this is; None for any other run."""
        if is_own_call():
            return None
        with guard("finding the stage of a run"):
            stage = current_stage()
            own = stage is not None and stage.run_id == run_id
            state = state_of(stage) if stage is not None and own else state_of_run(run_id)
            if state is not None and tracked_in(state.stage, self.tracklayer_uri):
                return state
        return None

    def _run_here(self, run_id: str) -> KnownRun | None:
        """The run, if what is done to it goes through the journal; None: it is the stock store's business alone.

        Raises:
            MlflowException: the server says that there is no such run.
        """
        if is_own_call():
            return None
        run = known_run(run_id)
        if run is None:
            run = self._met(run_id)
        return run if run is not None and tracked_in(run.state.stage, self.tracklayer_uri) else None

    def _met(self, run_id: str) -> KnownRun | None:
        """A run that is not known yet: the stage's own, one that is known by another id, or one from before."""
        state = self._stage()
        if state is None or state.recorder is None or type(run_id) is not str:
            return None
        server, known = run_id, None
        with guard("finding a run of the stage"):
            remember(stage_run(state), *other_ids(state.stage))
            known = known_run(run_id) or known_under_another_id(run_id)
            if known is None:
                server = self._server_id(state, run_id)
                if server != run_id and (run := known_run(server)) is not None:
                    known = remember_as(run, run_id)
        if known is not None:
            return known
        entity: Any = None
        try:
            entity = self._asked(state, lambda: self._stock.get_run(server))
        except MlflowException as error:
            if error.error_code == NOT_THERE and not is_provisional(server):
                raise
        # By the server's id, if it has one: the journal of this process never met the id that was given out elsewhere.
        found = remember(_run_from_before(state, server, entity))
        return found if server == run_id else remember_as(found, run_id)

    def _server_id(self, state: StageState | None, run_id: str) -> str:
        """The server's id of a run; the given one if there is none, or if it is none of ours."""
        if type(run_id) is not str or not is_provisional(run_id) or is_own_call():
            return run_id
        resolved: str | None = None
        with guard("finding the run behind a provisional id"):
            recorder = state.recorder if state is not None else None
            resolved = recorder.resolve(run_id) if recorder is not None else None
            if resolved is None and (recorder is None or not recorder.away):
                resolved = self._looked_up(state, run_id)
        return resolved or run_id

    def _now(self, run: KnownRun) -> str:
        """The server's id of a run that is asked for now; the local one while there is none.

        A run that was met while the server was away, and that another process delivers, is looked for each time.
        """
        known = run.server_id
        if is_provisional(known):
            known = self._server_id(run.state, known)
            if known != run.run_id and run.state.stage.is_open:
                remember_as(run, known)
        return known

    def _looked_up(self, state: StageState | None, run_id: str) -> str | None:
        try:
            return found_run(self.tracklayer_uri, run_id)
        except StoreError:
            if state is not None:
                return None
            self._stock.search_experiments(max_results=1)  # as long as MLflow waits for its server, so do we
            return found_run(self.tracklayer_uri, run_id)

    def _real(self, state: StageState | None, model_id: str) -> str:
        """The server's id of the model, whoever gave out another one; the given id while there is none."""
        if is_own_call() or not is_provisional(model_id):
            return model_id
        with guard("finding the model behind a provisional id"):
            recorder = None if state is None else state.recorder
            if recorder is not None and (resolved := recorder.resolve(model_id)) is not None:
                return resolved
            if recorder is None or not recorder.away:
                return found_model(self.tracklayer_uri, model_id) or model_id
        return model_id

    def _with_server_ids(self, state: StageState | None, tags: Sequence[RunTag]) -> list[RunTag]:
        """Tags with the server's id of the parent, where that was given out before it existed."""
        return [RunTag(tag.key, self._server_id(state, tag.value)) if tag.key == PARENT_TAG else tag for tag in tags]

    def _told(self, text: str | None, state: StageState | None) -> str | None:
        """`text` (a filter) with the server's ids in place of provisional ones."""
        if not text or type(text) is not str:
            return text
        return with_ids(text, lambda told: (self._real if is_model(told) else self._server_id)(state, told))

    # ------------------------------------------------------------------------------------------ asking the server

    def _asked(self, state: StageState | None, action: Callable[[], T], *, once: bool = False) -> T:
        """The answer of the stock store, without waiting long for a server that is away; outside of a stage as ever.

        Args:
            state: of the stage; None outside of any.
            action: asks the stock store.
            once: true of what must not be asked again if no answer came: the server may have done it, and would do it twice, or
                refuse what is done already. So it is a read that finds out whether the server is there, and the call
                itself may take as long as MLflow lets it.
        """
        if state is None:
            return action()
        if once:
            self._hear(state)
        settings, away = state.stage.settings, is_away(state) and not once
        try:
            return waiting.shortly(
                action,
                connect=min(settings.connect_timeout, settings.patience) if away else settings.connect_timeout,
                answer=waiting.slowest() if once else settings.patience if away else settings.timeout,
                there=lambda: not once and _answers(self.tracklayer_uri, settings),
            )
        except MlflowException as error:
            if error.error_code == NO_ANSWER:
                state.unanswered_at = time.monotonic()
            raise

    def _hear(self, state: StageState) -> None:
        """Find out by a small read whether the server is there.

        Raises:
            MlflowException: it does not answer. What else it says to that read, it need not say to another call.
        """
        try:
            self._asked(state, lambda: self._stock.search_experiments(max_results=1))
        except MlflowException as error:
            if error.error_code == NO_ANSWER:
                raise

    def _read(self, state: StageState | None, action: Callable[[], T], *, once: bool = False) -> T:
        """The answer of the stock store after it has got what was logged before; see `_asked`."""
        self._flushed(state)
        return self._asked(state, action, once=once)

    def _flushed(self, state: StageState | None) -> bool:
        """Let the server have what was logged before, if it is there; False if it does not have all of it."""
        if state is None or state.recorder is None:
            return True
        try:
            return state.recorder.flush(0 if is_away(state) else None)
        except Exception as error:
            report_failure("sending what was logged", error)
            return False

    def _place(self, run: KnownRun) -> str:
        """Where the artifacts of a run are: as it was told, else asked for once; or where they wait for the server."""
        if not run.artifact_uri:
            named = run.recorder.named(run.run_id)
            run.artifact_uri = named.artifact_uri if named is not None else ""
        if not run.artifact_uri and not run.recorder.away and not is_provisional(server := self._now(run)):
            with guard("finding the artifacts of a run"):
                run.artifact_uri = self._asked(run.state, lambda: self._stock.get_run(server)).info.artifact_uri
        return run.artifact_uri or pending_uri(run.run_id)


def is_away(state: StageState) -> bool:
    """Whether the server is away as far as is known here, so that nobody waits for it."""
    recorder = state.recorder
    return recorder is not None and (recorder.away or time.monotonic() - state.unanswered_at < UNANSWERED)


def _answers(tracking_uri: str, settings: Settings) -> bool:
    """Whether the server answers the smallest of requests, if not at once, then soon."""
    try:
        open_store(
            tracking_uri, connect_timeout=settings.connect_timeout, timeout=max(2 * settings.patience, 1.0)
        ).ping()
    except (StoreError, SettingsError):
        return False
    return True


def stage_run(state: StageState) -> KnownRun:
    """The run of a stage as it is known from its opening."""
    stage = state.stage
    ref = stage.ref
    opening = opening_of(stage)
    return KnownRun(
        state,
        state.run_id,
        own=True,
        complete=False,
        experiment_id=stage.experiment_id or PENDING,
        name=opening.name if opening is not None else (ref.name or "" if ref is not None else ""),
        start_time=opening.start_time if opening is not None else state.since,
        tags={**(opening.tags if opening is not None else {}), **child_tags(stage)},
    )


def _run_from_before(state: StageState, run_id: str, entity: Any) -> KnownRun:
    """A run that was there before: as the server tells of it, or all but unknown while that is away."""
    if entity is None:
        return KnownRun(
            state, run_id, own=False, complete=False, experiment_id=PENDING, name="", start_time=state.since, tags={}
        )
    info, data = entity.info, entity.data
    run = KnownRun(
        state,
        run_id,
        own=False,
        complete=True,
        experiment_id=info.experiment_id,
        name=info.run_name or "",
        start_time=info.start_time,
        tags=data.tags,
        user_id=info.user_id or "",
        artifact_uri=info.artifact_uri or "",
    )
    run.params.update(data.params)
    run.status, run.end_time = info.status, info.end_time
    run.deleted = info.lifecycle_stage == LifecycleStage.DELETED
    run.points = None  # its history is the server's to tell
    return run
