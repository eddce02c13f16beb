# mypy: disable-error-code="no-untyped-call"
"""What a model registry's store does otherwise inside a stage.

A version is registered once the server has the model with all its files, under the ids that the server chose. What a
version is called only the registry can say. So where the server is away, a call of which that is the answer
(``mlflow.register_model``) fails at once as it would in the end; but ``log_model(registered_model_name=…)``, whose
answer is the model, is remembered, and the version is registered on delivery.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

from tracklayer.exceptions import StoreError
from tracklayer.journal.operations import Register
from tracklayer.journal.pending import pending_owner
from tracklayer.mlflow_plugins import callers, waiting
from tracklayer.mlflow_plugins.artifacts import is_unreachable
from tracklayer.mlflow_plugins.kept import refuse_to_ask
from tracklayer.mlflow_plugins.models import pairs
from tracklayer.mlflow_plugins.provisional_ids import found_any, is_model, with_ids
from tracklayer.mlflow_plugins.stages import current_stage, guard, same_store, tracked_in
from tracklayer.provisional import is_provisional
from tracklayer.store.calling import is_own_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.journal.recorder import Recorder
    from tracklayer.stage import StageRun

T = TypeVar("T")

log = logging.getLogger("tracklayer")

SLOWEST: Final = 30.0
"""So long, in seconds, the registry may take to answer what must not be asked twice."""


class RegistryCalls:
    """Stands before a stock registry store's class, of which the rest is.

    Attributes:
        tracklayer_uri: the URI of the registry.
        tracklayer_tracking_uri: the tracking URI that goes with it.
        tracklayer_later: names of registered models that are left to delivery, and so is what becomes one of them.
    """

    tracklayer_uri: str = ""
    tracklayer_tracking_uri: str = ""
    tracklayer_later: set[str]

    def create_registered_model(self, name: str, *arguments: Any, **keywords: Any) -> RegisteredModel:
        """Create a registered model; while a model is logged and the server is away, that is left to delivery."""

        def create() -> RegisteredModel:
            told: RegisteredModel = self._stock.create_registered_model(name, *arguments, **keywords)
            return told

        def later() -> RegisteredModel:
            from mlflow.utils.validation import _validate_model_name

            _validate_model_name(name)
            self.tracklayer_later.add(name)
            now = time.time_ns() // 1_000_000
            return RegisteredModel(name, creation_timestamp=now, last_updated_timestamp=now)

        return self._now_or_later(f"The registered model {name}", create, later)

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Any = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        """Register a model that the server has; while it is logged and the server is away, that is left to delivery."""
        stage = self._stage()
        recorder = None if stage is None else stage.recorder

        def create() -> ModelVersion:
            version: ModelVersion = self._stock.create_model_version(
                name,
                self._real_source(recorder, source),
                None if run_id is None else self._real(recorder, run_id),
                tags,
                run_link,
                description,
                local_model_path=local_model_path,
                model_id=None if model_id is None else self._real(recorder, model_id),
            )
            return version

        def later() -> ModelVersion:
            self.tracklayer_later.discard(name)
            return remembered(recorder, name, model_id, pairs(tags))

        if name in self.tracklayer_later and callers.logs_model():
            return later()
        return self._now_or_later(f"A version of the registered model {name}", create, later)

    def search_model_versions(self, filter_string: str | None = None, *arguments: Any, **keywords: Any) -> Any:
        """Search versions. Provisional ids in the filter are those of the runs and models that were given out by them."""
        told = filter_string
        if type(filter_string) is str:
            with guard("finding what provisional ids in a filter mean"):
                stage = self._stage()
                recorder = None if stage is None else stage.recorder
                told = with_ids(filter_string, lambda identifier: self._found(recorder, identifier) or identifier)
        return self._stock.search_model_versions(told, *arguments, **keywords)

    def _await_model_version_creation(self, mv: ModelVersion, await_creation_for: float) -> None:
        if mv.version is not None:
            self._stock._await_model_version_creation(mv, await_creation_for)  # noqa: SLF001 - MLflow's own name

    def _call_endpoint(self, api: Any, *arguments: Any, **keywords: Any) -> Any:
        """One request of a registry behind a server: inside a stage without waiting for one that is away."""
        stage = self._stage()
        if stage is None:
            return self._stock._call_endpoint(api, *arguments, **keywords)  # noqa: SLF001 - MLflow's own name
        if stage.recorder is not None and not stage.recorder.is_there():
            refuse_to_ask("The model registry")
        return waiting.shortly(
            lambda: self._stock._call_endpoint(api, *arguments, **keywords),  # noqa: SLF001 - the same
            connect=stage.settings.connect_timeout,
            answer=SLOWEST,
            there=lambda: False,  # what got no answer may have been done
        )

    # ------------------------------------------------------------------------------------------------ what is done here

    @property
    def _stock(self) -> Any:
        """This store's methods as the stock class has them."""
        return super()

    def _stage(self) -> StageRun | None:
        """The current stage, if the registry is that of the server where it is tracked."""
        if is_own_call() or not same_store(self.tracklayer_uri, self.tracklayer_tracking_uri):
            return None
        with guard("finding the stage of a registered model"):
            stage = current_stage()
            if stage is not None and tracked_in(stage, self.tracklayer_tracking_uri):
                return stage
        return None

    def _real(self, recorder: Recorder | None, identifier: str) -> str:
        """The server's id of a run or model; it may be another process that was given out this one.

        Raises:
            MlflowException: it is not there yet, or the server does not say.
        """
        if not is_provisional(identifier) or is_own_call():
            return identifier
        try:
            found = self._found(recorder, identifier)
        except StoreError:
            if recorder is not None:
                refuse_to_ask(f"What the server calls {identifier}")
            MlflowClient(self.tracklayer_tracking_uri).search_experiments(max_results=1)  # it waits for its server
            found = self._found(recorder, identifier)
        if found is None:
            if recorder is not None and recorder.away:
                refuse_to_ask(f"What the server calls {identifier}")
            raise MlflowException(
                f"Nothing is there yet that was given out as {identifier} while the tracking server was away. It is "
                "created when that is delivered: see `tracklayer doctor` on the machine that logged it.",
                RESOURCE_DOES_NOT_EXIST,
            )
        return found

    def _found(self, recorder: Recorder | None, identifier: str) -> str | None:
        """The server's id of a run or model, from this process's memory or the server's; None if neither has it.

        Raises:
            StoreError: the server cannot be reached.
        """
        known = None if recorder is None else recorder.resolve(identifier)
        if known is not None or is_own_call() or (recorder is not None and recorder.away):
            return known
        return found_any(self.tracklayer_tracking_uri, identifier)

    def _real_source(self, recorder: Recorder | None, source: str) -> str:
        """Where a model is, under the server's ids: MLflow takes the model's id from there.

        Elsewhere than in these forms, what looks like a provisional id is a name or a hash of the user's.
        """
        if is_own_call():
            return source
        owner = pending_owner(source)
        if owner is None:
            if not source.startswith(("models:/", "runs:/")):
                return source
            runs = source.startswith("runs:/")
            return with_ids(source, lambda told: self._real(recorder, told) if runs or is_model(told) else told)
        client = MlflowClient(self.tracklayer_tracking_uri)
        identifier = self._real(recorder, owner[0])
        place = (
            client.get_logged_model(identifier).artifact_location
            if is_model(identifier)
            else client.get_run(identifier).info.artifact_uri
        )
        return f"{str(place).rstrip('/')}/{owner[1]}".rstrip("/")

    def _now_or_later(self, what: str, action: Callable[[], T], later: Callable[[], T]) -> T:
        """Ask the registry, which has then all that was logged before; where it is away, do it on delivery.

        Raises:
            MlflowException: it is away, and somebody wants to know its answer.
        """
        stage = self._stage()
        recorder = None if stage is None else stage.recorder
        if recorder is None:
            return action()
        waits = callers.logs_model()
        if not recorder.is_there() or not recorder.flush():
            return later() if waits else refuse_to_ask(what)
        try:
            return action()
        except MlflowException as error:
            if not waits or not is_unreachable(error, credentials=True):
                raise
            return later()


def remembered(recorder: Recorder | None, name: str, model_id: str | None, tags: dict[str, str]) -> ModelVersion:
    """Leave a registration to delivery; the version that is returned has no number."""
    if recorder is None or model_id is None:
        refuse_to_ask(f"A version of the registered model {name}")
    recorder.append(Register(model=model_id, name=name, tags=tags))
    log.warning("the model %s is registered as %r when the tracking server is back", model_id, name)
    now = time.time_ns() // 1_000_000
    number: Any = None
    return ModelVersion(name, number, now, now, source=f"models:/{model_id}", model_id=model_id)
