# mypy: disable-error-code="no-untyped-call"
"""Experiments inside a stage: the server's while it is there, and by their names while it is away.

An experiment that user code chooses by name while nobody can be asked gets an id that is made of its name
(``name:flights``). Runs that are created in it go, when they are delivered, into the experiment of that name, which is
created then if need be. The same id in a later call, in whatever process, is resolved by that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from tracklayer.journal.operations import NewExperiment
from tracklayer.mlflow_plugins import callers
from tracklayer.mlflow_plugins.known_runs import runs_of
from tracklayer.mlflow_plugins.observing import prospective_state
from tracklayer.mlflow_plugins.stages import StageState, guard, home_name, is_home
from tracklayer.mlflow_plugins.store_calls import NOT_THERE, StoreCalls
from tracklayer.provisional import BY_NAME, PENDING
from tracklayer.singleton import singleton
from tracklayer.store.calling import is_own_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.mlflow_plugins.known_runs import KnownRun

REFUSED = frozenset({NOT_THERE, "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED"})
"""What a server says that is there."""


class ExperimentCalls(StoreCalls):
    """Stands before a stock store's class, of which the rest is."""

    def get_experiment(self, experiment_id: str) -> Any:
        """The experiment; the choice is remembered where ``mlflow.set_experiment`` asks."""
        state = self._stage_or_prospect()
        if state is None:
            return self._stock.get_experiment(self._experiment_id(None, experiment_id))
        found = self._found(
            state,
            lambda: self._stock.get_experiment(self._experiment_id(state, experiment_id)),
            lambda: _remembered(self.tracklayer_uri, state, experiment_id=experiment_id),
        )
        return self._chosen(state, found)

    def get_experiment_by_name(self, experiment_name: str) -> Any:
        """The experiment; the choice is remembered where ``mlflow.set_experiment`` asks."""
        state = self._stage_or_prospect()
        if state is None:
            found = self._stock.get_experiment_by_name(experiment_name)
            if found is not None:
                _met(self.tracklayer_uri, found)
            return found
        found = self._found(
            state,
            lambda: self._stock.get_experiment_by_name(experiment_name),
            lambda: (
                _remembered(self.tracklayer_uri, state, name=experiment_name) or self._to_come(state, experiment_name)
            ),
        )
        return self._chosen(state, found)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        """Create an experiment; while the server is away, one that has but a name is created on delivery."""
        state = self._stage_or_prospect()
        try:
            created: str = self._asked(
                state, lambda: self._stock.create_experiment(name, artifact_location, tags), once=True
            )
        except MlflowException as error:
            if state is None or state.recorder is None or artifact_location or tags or error.error_code in REFUSED:
                raise
            self.tracklayer_refusals.experiment(name, "name")
            state.recorder.append(NewExperiment(name))
            return f"{BY_NAME}{name}"
        return created

    def search_experiments(self, *arguments: Any, **keywords: Any) -> Any:
        """Search experiments."""
        return self._asked(self._stage(), lambda: self._stock.search_experiments(*arguments, **keywords))

    def set_experiment_tag(self, experiment_id: str, tag: Any) -> None:
        """Set a tag of an experiment."""
        state = self._stage()
        self._asked(state, lambda: self._stock.set_experiment_tag(self._experiment_id(state, experiment_id), tag))

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Take a tag of an experiment away."""
        state = self._stage()
        self._asked(
            state,
            lambda: self._stock.delete_experiment_tag(self._experiment_id(state, experiment_id), key),
            once=True,
        )

    def rename_experiment(self, experiment_id: str, new_name: str) -> None:
        """Give an experiment another name."""
        self._changed(experiment_id, lambda real: self._stock.rename_experiment(real, new_name))

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment and its runs, after what was logged to them."""
        for run in self._changed(experiment_id, self._stock.delete_experiment):
            run.deleted = True

    def restore_experiment(self, experiment_id: str) -> None:
        """Restore a deleted experiment and its runs."""
        for run in self._changed(experiment_id, self._stock.restore_experiment):
            run.deleted = False

    # ------------------------------------------------------------------------------------------------ how it is done

    def _changed(self, experiment_id: Any, change: Callable[[Any], object]) -> list[KnownRun]:
        """Have an experiment changed at the server, which has then all that was logged before.

        Returns:
            The runs of it that are known within the stage.
        """
        state = self._stage()
        told: list[Any] = []

        def asked() -> None:
            told[:] = [self._experiment_id(state, experiment_id)]
            change(told[0])

        self._read(state, asked, once=True)
        _forget(self.tracklayer_uri, told[0])
        runs = () if state is None else runs_of(state)
        return [run for run in runs if run.experiment_id == str(told[0])]

    def _to_come(self, state: StageState, name: str) -> Experiment:
        """An experiment of which nothing but its name is known.

        It is created, if need be, when runs come to it; and in any case where ``mlflow.set_experiment`` asks, which would do so.
        """
        self.tracklayer_refusals.experiment(name, "experiment_name")
        if state.recorder is not None and callers.sets_experiment():
            state.recorder.append(NewExperiment(name))
        return _by_name(name)

    def _stage_or_prospect(self) -> StageState | None:
        """The state of the current stage, or of the one that the next run of an observed task will open."""
        state = self._stage()
        if state is None and not is_own_call():
            with guard("finding the observed task of an MLflow call"):
                state = prospective_state(self.tracklayer_uri)
        return state

    def _experiment_name(self, state: StageState | None, experiment_id: str) -> str | None:
        """Name of the experiment that user code chose; None if it cannot be found out while the server is away.

        Raises:
            MlflowException: the server says that there is no such experiment, or that it is deleted.
        """
        if experiment_id.startswith(BY_NAME):
            return experiment_id.removeprefix(BY_NAME)
        for (uri, name), experiment in list(_experiments().items()):
            if uri == self.tracklayer_uri and experiment.experiment_id == experiment_id:
                return name
        try:
            found = self._asked(state, lambda: self._stock.get_experiment(experiment_id))
        except MlflowException as error:
            if error.error_code in REFUSED:
                raise
            return None
        if found.lifecycle_stage != LifecycleStage.ACTIVE:
            raise MlflowException(f"experiment {experiment_id} is deleted", INVALID_PARAMETER_VALUE)
        _met(self.tracklayer_uri, found)
        return str(found.name)

    def _experiment_id(self, state: StageState | None, experiment_id: Any) -> Any:
        """The server's id of an experiment, as far as it is known; the given one otherwise."""
        if not isinstance(experiment_id, str):
            return experiment_id
        if state is not None and experiment_id == PENDING:
            return state.stage.experiment_id or PENDING
        if not experiment_id.startswith(BY_NAME):
            return experiment_id
        name = experiment_id.removeprefix(BY_NAME)
        if (
            state is not None
            and is_home(state.stage, experiment_id)
            and state.stage.experiment_id not in {None, PENDING}
        ):
            return self._now_known(state, experiment_id, state.stage.experiment_id)
        if state is None:
            found = self._stock.get_experiment_by_name(name)
            return found.experiment_id if found is not None else self._stock.create_experiment(name)
        if state.recorder is None or state.recorder.away:
            return experiment_id
        try:
            found = self._asked(state, lambda: self._stock.get_experiment_by_name(name))
        except MlflowException:  # it is away, or does not let anybody in
            found = None
        if found is None:
            return experiment_id
        _met(self.tracklayer_uri, found)
        return self._now_known(state, experiment_id, found.experiment_id)

    def _now_known(self, state: StageState, before: str, now: Any) -> Any:
        """The server's id in place of one that was made of a name, also where MLflow remembers that."""
        if state.experiment_id == before:
            state.experiment_id = now
        _replace_active(before, now)
        return now

    def _found(self, state: StageState, ask: Callable[[], Any], known: Callable[[], Any]) -> Any:
        """What the server says, or what is known here while it is away."""
        if state.recorder is None:
            return ask()
        if not state.recorder.away:
            try:
                found = self._asked(state, ask)
            except MlflowException as error:
                if error.error_code in REFUSED:
                    raise
                found = known()
                if found is None:
                    raise
                return found
            if found is not None:
                _met(self.tracklayer_uri, found)
            return found
        found = known()
        return found if found is not None else self._asked(state, ask)

    def _chosen(self, state: StageState, experiment: Any) -> Any:
        """`experiment`, remembered as the stage's choice where ``mlflow.set_experiment`` asked for it."""
        if experiment is not None:
            with guard("remembering the chosen experiment"):
                if callers.sets_experiment():
                    state.experiment_id = experiment.experiment_id
        return experiment


@singleton
def _experiments() -> dict[tuple[str, str], Any]:
    """MLflow's entities of experiments that this process has met, by tracking URI and name."""
    return {}


def _met(tracking_uri: str, experiment: Any) -> None:
    _experiments()[tracking_uri, experiment.name] = experiment


def _forget(tracking_uri: str, experiment_id: Any) -> None:
    """Ask the server for an experiment anew: it has another name or state than when it was met."""
    for place, experiment in list(_experiments().items()):
        if place[0] == tracking_uri and experiment.experiment_id == str(experiment_id):
            _experiments().pop(place, None)


def _remembered(
    tracking_uri: str, state: StageState, *, name: str | None = None, experiment_id: str | None = None
) -> Any:
    """An experiment as far as it is known here: one that was met before, or the stage's own."""
    for (uri, other), experiment in list(_experiments().items()):
        if uri == tracking_uri and (other == name or experiment.experiment_id == experiment_id):
            return experiment
    if experiment_id is not None and experiment_id.startswith(BY_NAME):
        return _by_name(experiment_id.removeprefix(BY_NAME))
    stage = state.stage
    own = home_name(stage)
    known = stage.experiment_id if stage.experiment_id != PENDING else None
    if name is not None and name == own and known is not None:
        return _entity(known, name)
    if experiment_id is not None and experiment_id in {PENDING, stage.experiment_id}:
        return _entity(experiment_id, own or experiment_id)
    return None


def _by_name(name: str) -> Experiment:
    return _entity(f"{BY_NAME}{name}", name)


def _entity(experiment_id: str, name: str) -> Experiment:
    return Experiment(experiment_id, name, "", LifecycleStage.ACTIVE)


def _replace_active(before: str, now: str) -> None:
    """Have MLflow call its active experiment by the server's id: it compares that with those of runs."""
    import os
    import sys

    fluent = sys.modules.get("mlflow.tracking.fluent")
    if getattr(fluent, "_active_experiment_id", None) == before:
        fluent._active_experiment_id = now  # type: ignore[union-attr]  # noqa: SLF001 - MLflow has no other way
    if os.environ.get("MLFLOW_EXPERIMENT_ID") == before:
        os.environ["MLFLOW_EXPERIMENT_ID"] = now
