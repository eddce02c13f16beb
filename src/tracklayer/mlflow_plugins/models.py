# mypy: disable-error-code="no-untyped-call"
"""What a tracking store does otherwise inside a stage with MLflow's logged models: they come to be without waiting.

A model is created at once where the server answers in time. Else it gets a provisional id, and is created on delivery
with all that was said of it; its files are kept as those of runs are (see `tracklayer.mlflow_plugins.artifacts`).
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Final

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException

from tracklayer.exceptions import StoreError
from tracklayer.journal.operations import ChangeModel, CreateModel, Outputs
from tracklayer.journal.pending import pending_uri
from tracklayer.mlflow_plugins import callers
from tracklayer.mlflow_plugins.experiment_calls import ExperimentCalls
from tracklayer.mlflow_plugins.store_calls import NOT_THERE
from tracklayer.provisional import is_provisional, provisional_model_id
from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlflow.entities import LoggedModelParameter, LoggedModelTag

    from tracklayer.journal.recorder import Recorder
    from tracklayer.mlflow_plugins.stages import StageState

STATUSES: Final = {"READY": "READY", "FAILED": "UPLOAD_FAILED", "PENDING": "PENDING"}
"""What MLflow's entity calls a status, and how it goes over the wire."""

VERSIONS_TAG: Final = "mlflow.modelVersions"
"""MLflow's tag of a logged model that says which versions of registered models it became."""

WAITED: Final = 5.0
"""So long, in seconds, what was logged is waited for before a model is read; then it is told from memory."""

REMEMBERED: Final = 1_000
"""So many models are known in a process; a long-lived worker makes more of them."""


class ModelCalls(ExperimentCalls):
    """Stands before a stock store's class, of which the rest is."""

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: Any = None,
        params: Any = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        """Create a model; the stage run is the source of one that would have none."""
        state = self._stage()
        recorder = None if state is None else state.recorder
        if state is None or recorder is None:
            plain: LoggedModel = self._stock.create_logged_model(
                experiment_id,
                name,
                source_run_id and self._server_id(None, source_run_id),
                tags,
                params,
                model_type,
            )
            return plain
        from mlflow.utils.name_utils import _generate_random_name

        self.tracklayer_refusals.model(experiment_id, name, source_run_id, model_type)
        name = name or _generate_random_name()
        run_id = source_run_id or state.run_id
        asked = CreateModel(
            provisional_model_id(),
            str(experiment_id),
            name,
            run_id,
            pairs(tags),
            pairs(params),
            model_type and str(model_type),
        )
        try:
            named = recorder.create_model(asked, wait=0 if recorder.away else state.stage.settings.patience)
        except StoreError:  # MLflow says why, in its own words
            refused: LoggedModel = self._asked(
                state,
                lambda: self._stock.create_logged_model(
                    experiment_id, name, self._server_id(state, run_id), tags, params, model_type
                ),
                once=True,
            )
            return refused
        now = time.time_ns() // 1_000_000
        model = LoggedModel(
            asked.experiment_id,
            named.model_id,
            name,
            named.artifact_location or pending_uri(named.model_id),
            now,
            now,
            asked.model_type or ("" if self.tracklayer_refusals.rest else None),
            run_id,
            LoggedModelStatus.PENDING,
            tags=dict(asked.tags),
            params=dict(asked.params),
        )
        _remember(model)
        if source_run_id is None and callers.logs_model():  # MLflow does it itself, but only where it knows of a run
            self._made(recorder, run_id, [LoggedModelOutput(named.model_id, step=0)])
        return copy.copy(model)

    def get_logged_model(self, model_id: str, *arguments: Any, **keywords: Any) -> LoggedModel:
        """The model; while the server is away, as this process knows it."""
        state, recorder, model = self._own(model_id)
        if recorder is not None and model is not None:
            there = not recorder.away and recorder.flush(WAITED)
            if not there or is_provisional(self._real(state, model_id)):
                return copy.copy(model)
        try:
            told: LoggedModel = self._read(
                state, lambda: self._stock.get_logged_model(self._real(state, model_id), *arguments, **keywords)
            )
        except MlflowException as error:
            if model is None or error.error_code == NOT_THERE:
                raise
            return copy.copy(model)
        return told

    def search_logged_models(
        self, experiment_ids: list[str], filter_string: str | None = None, *arguments: Any, **keywords: Any
    ) -> Any:
        """The models that were found, with all that was logged before."""
        state = self._stage()

        def search() -> Any:
            ids = [self._experiment_id(state, experiment_id) for experiment_id in experiment_ids]
            return self._stock.search_logged_models(ids, self._told(filter_string, state), *arguments, **keywords)

        return self._read(state, search)

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        """Give the model its status."""
        state, recorder, model = self._own(model_id)
        if recorder is None or model is None or status.value not in STATUSES:
            told: LoggedModel = self._read(
                state, lambda: self._stock.finalize_logged_model(self._real(state, model_id), status)
            )
            return told
        recorder.append(ChangeModel(model.model_id, status=STATUSES[status.value]))
        model.status = status
        model.last_updated_timestamp = time.time_ns() // 1_000_000
        return copy.copy(model)

    def set_logged_model_tags(self, model_id: str, tags: list[LoggedModelTag]) -> None:
        """Set tags of the model."""
        state, recorder, model = self._own(model_id)
        if recorder is None or model is None:
            self._read(state, lambda: self._stock.set_logged_model_tags(self._real(state, model_id), tags))
            return
        told = pairs(tags)
        if recorder.away:  # which version it became says the registry when it has registered it
            told.pop(VERSIONS_TAG, None)
        if told:
            recorder.append(ChangeModel(model.model_id, tags=told))
            model.tags.update(told)

    def log_logged_model_params(self, model_id: str, params: list[LoggedModelParameter]) -> None:
        """Log params of the model; MLflow refuses those that it has."""
        state, recorder, model = self._own(model_id)
        told = pairs(params)
        if recorder is None or model is None or not model.params.keys().isdisjoint(told):
            self._read(
                state, lambda: self._stock.log_logged_model_params(self._real(state, model_id), params), once=True
            )
            return
        recorder.append(ChangeModel(model.model_id, params=told))
        model.params.update(told)

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        """Take a tag of the model away; that is asked of the server itself."""
        state, _, model = self._own(model_id)
        self._read(state, lambda: self._stock.delete_logged_model_tag(self._real(state, model_id), key), once=True)
        if model is not None:
            model.tags.pop(key, None)

    def delete_logged_model(self, model_id: str) -> None:
        """Delete the model; that is asked of the server itself."""
        state = self._stage()
        self._read(state, lambda: self._stock.delete_logged_model(self._real(state, model_id)), once=True)
        _known().pop(model_id, None)

    def log_outputs(self, run_id: str, models: Sequence[LoggedModelOutput]) -> None:
        """Log models that a run made."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.log_outputs(self._server_id(None, run_id), self._real_outputs(None, models))
            return
        made = self.tracklayer_refusals.outputs(run, models)
        self.tracklayer_refusals.active(run)
        ids = [model.model_id for model in made]
        if len({*ids, *(model.model_id for model in run.output_models)}) < len(ids) + len(run.output_models):
            self._read(  # which refuses what a run has made already
                run.state,
                lambda: self._stock.log_outputs(self._now(run), self._real_outputs(run.state, made)),
            )
            return
        self._made(run.recorder, run_id, made)

    # ------------------------------------------------------------------------------------------------ what is done here

    def _real_outputs(self, state: StageState | None, models: Sequence[LoggedModelOutput]) -> list[LoggedModelOutput]:
        """The models by the server's ids."""
        return [LoggedModelOutput(self._real(state, model.model_id), model.step) for model in models]

    def _made(self, recorder: Recorder, run_id: str, models: Sequence[LoggedModelOutput]) -> None:
        """Write that a run made models."""
        run = self._run_here(run_id)
        local = run_id if run is None else run.run_id
        recorder.append(Outputs(local, tuple((model.model_id, model.step) for model in models)))
        if run is not None:
            run.output_models.extend(models)

    def _own(self, model_id: str) -> tuple[StageState | None, Recorder | None, LoggedModel | None]:
        """The current stage, what writes for it, and the model, if it was created in this process."""
        state = self._stage()
        recorder = None if state is None else state.recorder
        return state, recorder, None if recorder is None else known_model(model_id, recorder)


def known_model(model_id: str, recorder: Recorder) -> LoggedModel | None:
    """The model, if it was created in this process; it may be called by the id that the server gave it later."""
    known = _known()
    if model_id in known:
        return known[model_id]
    return next(
        (model for own, model in known.items() if is_provisional(own) and recorder.resolve(own) == model_id), None
    )


def known_model_of(run_ids: Collection[str], name: str) -> LoggedModel | None:
    """The last model of this name that a run made in this process.

    Args:
        run_ids: the ids of the run.
        name: the model's name.
    """
    found = [model for model in _known().values() if model.name == name and model.source_run_id in run_ids]
    return found[-1] if found else None


def pairs(items: Any) -> dict[str, str]:
    """MLflow's tags or params, in a list or a mapping, by name."""
    if items is None:
        return {}
    if isinstance(items, dict):
        return {str(key): str(value) for key, value in items.items()}
    return {str(item.key): str(item.value) for item in items}


@singleton
def _known() -> dict[str, LoggedModel]:
    """The models that were created in this process inside stages, by the id that was given out."""
    return {}


def _remember(model: LoggedModel) -> None:
    known = _known()
    known[model.model_id] = model
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
