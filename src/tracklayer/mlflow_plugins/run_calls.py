# mypy: disable-error-code="no-untyped-call"
"""Runs that are created, ended, renamed and deleted inside a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlflow.entities import Run, RunInfo, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.name_utils import _generate_random_name

from tracklayer.exceptions import NotFound, Refused
from tracklayer.identity import PARENT_TAG
from tracklayer.journal.operations import Create, End, Named, Rename
from tracklayer.mlflow_plugins.active_runs import install
from tracklayer.mlflow_plugins.adoption import ADOPTED_TAG, RUN_NAME_TAG, Creation, creation
from tracklayer.mlflow_plugins.ending import end_with_process
from tracklayer.mlflow_plugins.entities import run_info, whole_run
from tracklayer.mlflow_plugins.experiment_calls import ExperimentCalls
from tracklayer.mlflow_plugins.known_runs import KnownRun, known_run, remember
from tracklayer.mlflow_plugins.log_calls import USERS, LogCalls
from tracklayer.mlflow_plugins.observing import awaiting, open_observed, prospective_state, users_tags
from tracklayer.mlflow_plugins.stages import StageState, guard, report_failure, states, tracked_in
from tracklayer.mlflow_plugins.store_calls import is_away
from tracklayer.provisional import PENDING, provisional_id
from tracklayer.store.calling import is_own_call

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TAGS: Final = 100
"""MLflow's limit for one batch; a new run may have more of them."""

DEFAULT: Final = "0"
"""Id of MLflow's own experiment, into which runs go for which nobody chose one."""

WRITTEN: Final = frozenset({"RUNNING", "FINISHED", "FAILED", "KILLED"})
"""The statuses that a journal holds."""


class RunCalls(LogCalls, ExperimentCalls):
    """Stands before a stock store's class, of which the rest is."""

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[RunTag], run_name: str | None
    ) -> Run:
        """Give out the stage run where a run of the stage is started, else create a run below it."""
        told = {tag.key: tag.value for tag in tags}
        state = self._stage() or self._stage_of_parent(told.get(PARENT_TAG))
        how: Creation | None = None
        if state is not None:
            with guard("placing a run below its stage"):
                install()
                how = creation(state, experiment_id, told)
        elif not is_own_call():
            with guard("opening the run of an observed task"):
                state, how = self._observed(experiment_id, start_time, told, run_name)
            experiment_id = DEFAULT if how is None and experiment_id == PENDING else experiment_id
        if state is None or how is None:
            place = self._experiment_id(state, experiment_id)
            plain: Run = self._asked(
                state,
                lambda: self._stock.create_run(
                    place, user_id, start_time, self._with_server_ids(state, tags), run_name
                ),
                once=True,
            )
            return plain
        if how.adopt:
            adopted = self._adopt(state, how, tags)
            if adopted is not None:
                return adopted
        all_tags = [*tags, *(RunTag(name, value) for name, value in how.tags.items())]
        run = self._create(state, how.experiment_id, user_id, start_time, all_tags, run_name)
        with guard("remembering a run below its stage"):
            state.children[run.info.run_id] = None
            if state.forked:
                end_with_process(state)
        return run

    def update_run_info(self, run_id: str, run_status: Any, end_time: int | None, run_name: str | None) -> RunInfo:
        """End any run but a stage's: that one is ended by whoever opened it, and goes on until then."""
        run = self._run_here(run_id)
        info: RunInfo
        if run is None:
            info = self._plain_update(run_id, run_status, end_time, run_name)
            return info
        try:
            self.tracklayer_refusals.active(run)
            status = self.tracklayer_refusals.change(run, run_status, end_time, run_name)
            if status is not None and status not in WRITTEN:
                info = self._read(
                    run.state,
                    lambda: self._stock.update_run_info(self._now(run), run_status, end_time, run_name),
                )
                return info
            self._change(run, status, None if end_time is None else int(end_time), run_name)
        except USERS:
            raise
        except Exception as error:
            report_failure("writing a run's end to the journal", error)
            info = self._plain_update(run_id, run_status, end_time, run_name)
            return info
        return run_info(run, lambda: self._place(run))

    def delete_run(self, run_id: str) -> None:
        """Delete a run, after what was logged on it."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.delete_run(self._server_id(None, run_id))
            return
        self._read(run.state, lambda: self._stock.delete_run(self._now(run)))
        run.deleted = True
        run.state.children.pop(run.run_id, None)

    def restore_run(self, run_id: str) -> None:
        """Restore a deleted run."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.restore_run(self._server_id(None, run_id))
            return
        self._read(run.state, lambda: self._stock.restore_run(self._now(run)))
        run.deleted = False

    # ------------------------------------------------------------------------------------------------ how it is done

    def _observed(
        self, experiment_id: str, start_time: int, tags: dict[str, str], run_name: str | None
    ) -> tuple[StageState | None, Creation | None]:
        """Open the stage of an observed task whose first run this is; neither where there is no such task.

        A run to which the code gave a parent of its own is left where it belongs.
        """
        observation = awaiting(self.tracklayer_uri) if PARENT_TAG not in tags else None
        if observation is None:
            return None, None
        name: str | None = None
        prospect = prospective_state(self.tracklayer_uri)
        if experiment_id != PENDING:
            try:
                name = self._experiment_name(prospect, experiment_id)
            except MlflowException:  # there is none of this id: the stock call says so
                return None, None
        if prospect is not None and prospect.recorder is not None and is_away(prospect):
            prospect.recorder.unanswered()  # the first wait of an outage is the last one
        state = open_observed(
            observation,
            experiment=name,
            run_name=run_name or tags.get(RUN_NAME_TAG),
            start_time=start_time,
            tags=tags,
        )
        if state is None:  # another thread was faster
            state = self._stage()
            return state, creation(state, experiment_id, tags) if state is not None else None
        install()
        home = state.stage.experiment_id or PENDING
        return state, Creation(adopt=True, claim=False, experiment_id=home, tags={}, users=users_tags(tags))

    def _stage_of_parent(self, parent_id: str | None) -> StageState | None:
        """The stage of a run's parent, where code that creates it runs in a thread of which nothing else is known."""
        if is_own_call() or not parent_id:
            return None
        run = known_run(parent_id)
        return run.state if run is not None and tracked_in(run.state.stage, self.tracklayer_uri) else None

    def _create(
        self,
        state: StageState,
        experiment_id: str,
        user_id: str,
        start_time: int,
        tags: Sequence[RunTag],
        run_name: str | None,
    ) -> Run:
        """A run below a stage: the server's if that answers in time, else one that will be created."""
        place = self._experiment_id(state, experiment_id)
        recorder = state.recorder
        started, told, name = self.tracklayer_refusals.creation(place, user_id, start_time, tags, run_name)
        named: Named | None = None
        if recorder is not None:
            name = name or _generate_random_name()
            told.setdefault(RUN_NAME_TAG, name)
            create = Create(provisional_id(), str(place), name, started, told, state.run_id)
            try:
                named = recorder.create(create, wait=state.stage.settings.patience)
            except (NotFound, Refused):  # the stock call says why, in MLflow's words
                named = None
            except Exception as error:
                report_failure("writing a new run to the journal", error)
        if recorder is None or named is None:
            run: Run = self._asked(
                state,
                lambda: self._stock.create_run(
                    place, user_id, start_time, self._with_server_ids(state, tags), run_name
                ),
                once=True,
            )
            if recorder is not None:
                remember(_known(state, run.info, dict(run.data.tags)))
            return run
        known = KnownRun(
            state,
            named.run_id,
            own=True,
            complete=True,
            experiment_id=named.experiment_id or str(place),
            name=name or "",
            start_time=started,
            tags=told,
            user_id=user_id,
            artifact_uri=named.artifact_uri,
        )
        remember(known)
        return whole_run(known, lambda: self._place(known))

    def _adopt(self, state: StageState, how: Creation, tags: Sequence[RunTag]) -> Run | None:
        """The stage run, with the user's tags, name and description.

        None if it was deleted, another process took it, or it cannot have those tags: the run is one below it then.
        """
        told = [tag for tag in tags if tag.key in how.users] + ([RunTag(ADOPTED_TAG, "1")] if how.claim else [])
        run = self._run_here(state.run_id)
        if run is None:
            return self._plain_adopt(state, how, told)
        if run.deleted or (how.claim and self._is_claimed(run)):
            return None
        if told and not self._takes(run.run_id, told):
            return None
        if how.claim:
            self._flushed(state)
        return whole_run(run, lambda: self._place(run))

    def _plain_adopt(self, state: StageState, how: Creation, told: Sequence[RunTag]) -> Run | None:
        """See `_adopt`, where nothing is journaled."""
        try:
            run: Run = self._stock.get_run(state.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if run.info.lifecycle_stage != "active" or (how.claim and ADOPTED_TAG in run.data.tags):
            return None
        if not told:
            return run
        if not self._takes(state.run_id, told):
            return None
        again: Run = self._stock.get_run(state.run_id)
        return again

    def _is_claimed(self, run: KnownRun) -> bool:
        """Whether another process took the stage run for its own; unknown while the server is away."""
        try:
            entity = self._read(run.state, lambda: self._stock.get_run(self._now(run)))
        except MlflowException:
            return False
        run.deleted = entity.info.lifecycle_stage != "active"
        return run.deleted or ADOPTED_TAG in entity.data.tags

    def _takes(self, run_id: str, tags: Sequence[RunTag]) -> bool:
        """Set tags; False if MLflow refuses them here. ``create_run`` may take them, and says itself what it refuses."""
        try:
            for start in range(0, len(tags), MAX_TAGS):
                self.log_batch(run_id, [], [], tags[start : start + MAX_TAGS])
        except (TypeError, ValueError):
            return False
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            return False
        return True

    def _change(self, run: KnownRun, status: str | None, end_time: int | None, name: str | None) -> None:
        """Write down a change of status, end or name."""
        ends = status is not None and RunStatus.is_terminated(RunStatus.from_string(status))
        if ends and run.is_stage_run:
            run.state.asked_status = status
            status = None
        if name and name != run.name:
            run.recorder.append(Rename(run.run_id, name))
            run.saw_tags({RUN_NAME_TAG: name})
        if status is not None and (ends or status != run.status):
            run.recorder.append(End(run.run_id, status, end_time if ends else None))  # type: ignore[arg-type]
            run.status = status
            run.end_time = end_time if end_time is not None else run.end_time
            if not ends and run.own and not run.is_stage_run:
                run.state.children[run.run_id] = None  # open again: the stage ends it, if nobody else does
        if ends:
            for other in states():
                other.children.pop(run.run_id, None)

    def _plain_update(self, run_id: str, run_status: Any, end_time: int | None, run_name: str | None) -> Any:
        """See `update_run_info`, where nothing is journaled."""
        ends = run_status is not None and RunStatus.is_terminated(run_status)
        state = self._stage_of_run(run_id) if ends else None
        if state is not None:
            state.asked_status = RunStatus.to_string(run_status)
            run_status, end_time = RunStatus.RUNNING, None
        told = self._stock.update_run_info(self._server_id(None, run_id), run_status, end_time, run_name)
        if ends:
            for other in states():
                other.children.pop(run_id, None)
        return told


def _known(state: StageState, info: RunInfo, tags: dict[str, str]) -> KnownRun:
    """A run that the stock store has created."""
    return KnownRun(
        state,
        info.run_id,
        own=True,
        complete=True,
        experiment_id=info.experiment_id,
        name=info.run_name or "",
        start_time=info.start_time,
        tags=tags,
        user_id=info.user_id or "",
        artifact_uri=info.artifact_uri or "",
    )
