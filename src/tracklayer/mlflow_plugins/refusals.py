# mypy: disable-error-code="no-untyped-call"
"""What MLflow's server would refuse is refused at the call, before it is written to the journal, with MLflow's words.

The checks are MLflow's own, those of its protocol buffers, of its server's request handlers and of its stores, in the
order in which an untracked call meets them. What the server would cut or convert is cut and converted here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mlflow.entities import LoggedModelOutput, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.protos.service_pb2 import (
    CreateExperiment,
    CreateLoggedModel,
    CreateRun,
    DeleteTag,
    LogBatch,
    LogInputs,
    LogMetric,
    LogOutputs,
    LogParam,
    SetTag,
    UpdateRun,
)
from mlflow.utils.validation import (
    _validate_batch_log_data,
    _validate_batch_log_limits,
    _validate_dataset_inputs,
    _validate_experiment_name,
    _validate_logged_model_name,
    _validate_metric,
    _validate_param,
    _validate_param_keys_unique,
    _validate_tag,
)

from tracklayer.journal.operations import Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tracklayer.mlflow_plugins.known_runs import KnownRun

LIMIT: Final = 2**63
"""Steps and times are integers of 64 bits."""

MORE: Final = " See the API docs for more information about request parameters."


class Refusals:
    """The checks for one kind of store.

    Attributes:
        rest: True for a store behind MLflow's REST API: then its own checks come first, and what the server refuses is
            raised as what the client makes of its answer.
    """

    def __init__(self, *, rest: bool) -> None:
        self.rest = rest

    # What is logged

    def point(self, run: KnownRun, metric: Metric) -> Point:
        """One metric point, as ``log_metric`` takes it."""
        key, value, timestamp, step = metric.key, metric.value, metric.timestamp, metric.step
        if not (
            type(value) is float
            and type(timestamp) is int
            and type(step) is int
            and 0 <= timestamp < LIMIT
            and -LIMIT <= step < LIMIT
            and type(key) is str
            and key in run.latest  # so its name is valid
        ):
            key, value, timestamp, step = self._converted(run, metric)
        return Point(key, value, timestamp, step, metric.model_id, metric.dataset_name, metric.dataset_digest)

    def param(self, run: KnownRun, param: Param) -> Param:
        """A param, as ``log_param`` takes it."""
        if self.rest:
            told = LogParam(run_uuid=run.run_id, run_id=run.run_id, key=param.key, value=param.value)
            self._required("key", told.key)
            param = Param(told.key, told.value)
        param = self._asked(_validate_param, param.key, param.value)
        param = Param(str(param.key), self._text(param.value))
        self.active(run)  # which MLflow looks at before the value
        before = run.params.get(param.key)
        if before is not None and before != param.value:
            self.refuse(
                f"Changing param values is not allowed. Param with key='{param.key}' was already logged with "
                f"value='{before}' for run ID='{run.run_id}'. Attempted logging new value '{param.value}'."
            )
        return param

    def tag(self, run: KnownRun, tag: RunTag) -> RunTag:
        """A tag, as ``set_tag`` takes it."""
        if self.rest:
            told = SetTag(run_uuid=run.run_id, run_id=run.run_id, key=tag.key, value=tag.value)
            self._required("key", told.key)
            tag = RunTag(told.key, told.value)
        tag = self._asked(_validate_tag, tag.key, tag.value)
        return RunTag(str(tag.key), self._text(tag.value))

    def batch(
        self, run: KnownRun, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> tuple[list[Point], list[Param], list[RunTag]]:
        """A batch, as ``log_batch`` takes it."""
        if self.rest:
            metrics, params, tags = self._told_batch(run, metrics, params, tags)
        metrics, params, tags = self._asked(_validate_batch_log_data, metrics, params, tags)
        self._asked(_validate_batch_log_limits, metrics, params, tags)
        self._asked(_validate_param_keys_unique, params)
        self.active(run)
        changed = [
            {"key": param.key, "old_value": run.params[param.key], "new_value": param.value}
            for param in params
            if run.params.get(param.key, param.value) != param.value
        ]
        if changed:
            self.refuse(
                "Changing param values is not allowed. Params were already "
                f"logged='{changed}' for run ID='{run.run_id}'."
            )
        points = [
            Point(
                str(metric.key),
                float(metric.value),
                int(metric.timestamp),
                int(metric.step),
                metric.model_id or None,
                metric.dataset_name or None,
                metric.dataset_digest or None,
            )
            for metric in metrics
        ]
        return (
            points,
            [Param(str(param.key), self._text(param.value)) for param in params],
            [RunTag(str(tag.key), self._text(tag.value)) for tag in tags],
        )

    def inputs(self, run: KnownRun, datasets: Any) -> None:
        """Dataset inputs, as ``log_inputs`` takes them."""
        if self.rest:
            LogInputs(run_id=run.run_id, datasets=[dataset.to_proto() for dataset in datasets or []])
        if datasets is not None:
            if not isinstance(datasets, list):
                raise TypeError(f"Argument 'datasets' should be a list, got '{type(datasets)}'")
            self._asked(_validate_dataset_inputs, datasets)

    def experiment(self, name: Any, parameter: str) -> None:
        """The name of an experiment that may have to be created.

        Args:
            name: the name.
            parameter: what the request calls it.
        """
        if self.rest:
            self._required(parameter, CreateExperiment(name=name).name)
        self._asked(_validate_experiment_name, name)

    def outputs(self, run: KnownRun, models: Sequence[LoggedModelOutput]) -> list[LoggedModelOutput]:
        """Models that a run made, as ``log_outputs`` takes them."""
        if self.rest:
            told = LogOutputs(run_id=run.run_id, models=[model.to_proto() for model in models])
            if not told.models:
                self._required("models", None)
            return [LoggedModelOutput.from_proto(model) for model in told.models]
        return [LoggedModelOutput(str(model.model_id), int(model.step or 0)) for model in models]

    def model(self, experiment_id: Any, name: Any, run_id: Any, model_type: Any) -> None:
        """A new logged model, as ``create_logged_model`` takes it."""
        if self.rest:
            told = CreateLoggedModel(
                experiment_id=experiment_id, name=name, source_run_id=run_id, model_type=model_type
            )
            self._required("experiment_id", told.experiment_id)
        self._asked(_validate_logged_model_name, name)

    # Runs

    def active(self, run: KnownRun) -> None:
        """Nothing is written to a deleted run."""
        if run.deleted:
            self.refuse(f"The run {run.run_id} must be in the 'active' state. Current state is deleted.")

    def untag(self, run: KnownRun, key: str) -> None:
        """A tag that is taken away must be there."""
        if self.rest:
            self._required("key", DeleteTag(run_id=run.run_id, key=key).key)
        if run.complete and key not in run.tags:
            self.refuse(f"No tag with name: {key} in run with id {run.run_id}", RESOURCE_DOES_NOT_EXIST)

    def change(self, run: KnownRun, status: Any, end_time: Any, name: Any) -> str | None:
        """A change of status, end or name, as ``update_run_info`` takes it; the status by name."""
        if self.rest:
            UpdateRun(run_uuid=run.run_id, run_id=run.run_id, status=status, end_time=end_time, run_name=name)
        return None if status is None else str(RunStatus.to_string(status))

    def creation(
        self, experiment_id: Any, user_id: Any, start_time: Any, tags: Iterable[RunTag], name: Any
    ) -> tuple[int, dict[str, str], str | None]:
        """A new run, as ``create_run`` takes it; its start, tags and name."""
        told = {tag.key: tag.value for tag in tags}
        if self.rest:
            request = CreateRun(
                experiment_id=str(experiment_id),
                user_id=user_id,
                start_time=start_time,
                tags=[tag.to_proto() for tag in tags],
                run_name=name,
            )
            start_time, told = request.start_time, {tag.key: tag.value for tag in request.tags}
        tagged = told.get("mlflow.runName")
        if name and tagged and name != tagged:
            self.refuse(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with "
                f"different values (run_name='{name}', mlflow.runName='{tagged}')."
            )
        named = name or tagged
        return (
            int(start_time),
            {str(key): self._text(value) for key, value in told.items()},
            str(named) if named else None,
        )

    # How it is said

    def refuse(self, message: str, code: int = INVALID_PARAMETER_VALUE) -> NoReturn:
        """Raise what the user of this kind of store gets for it."""
        raise self._as_told(MlflowException(message, code))

    def _as_told(self, error: MlflowException) -> MlflowException:
        return RestException(json.loads(error.serialize_as_json())) if self.rest else error

    def _asked(self, check: Any, *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except MlflowException as error:
            raise self._as_told(error) from None

    def _text(self, value: object) -> str:
        """A value as text; one that holds half a character is taken by no store."""
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if self.rest:
                raise
            raise MlflowException(str(error), INTERNAL_ERROR) from None
        return text

    def _required(self, name: str, value: object) -> None:
        """What the server's handlers ask of a request before anything else; an empty text is none."""
        if value is None or value == "":
            self.refuse(f"Missing value for required parameter '{name}'.{MORE}")

    def _converted(self, run: KnownRun, metric: Metric) -> tuple[str, float, int, int]:
        """A point whose name is new here, or whose values are of other types than usual."""
        key, value, timestamp, step = metric.key, metric.value, metric.timestamp, metric.step
        if self.rest:
            request = LogMetric(
                run_uuid=run.run_id,
                run_id=run.run_id,
                key=key,
                value=value,
                timestamp=timestamp,
                step=step,
                model_id=metric.model_id,
                dataset_name=metric.dataset_name,
                dataset_digest=metric.dataset_digest,
            )
            self._required("key", request.key)
            self._required("value", value)
            self._required("timestamp", timestamp)
            key, value, timestamp, step = request.key, request.value, request.timestamp, request.step
        self._asked(_validate_metric, key, value, timestamp, step)
        return str(key), float(value), int(timestamp), int(step)

    def _told_batch(
        self, run: KnownRun, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> tuple[list[Metric], list[Param], list[RunTag]]:
        """A batch as it comes out of a request at the server."""
        request = LogBatch(
            run_id=run.run_id,
            metrics=[metric.to_proto() for metric in metrics],
            params=[param.to_proto() for param in params],
            tags=[tag.to_proto() for tag in tags],
        )
        for name, items in (("metrics", request.metrics), ("params", request.params), ("tags", request.tags)):
            for index, item in enumerate(items):
                self._required(f"{name}[{index}].key", item.key)
        return (
            [Metric.from_proto(metric) for metric in request.metrics],
            [Param.from_proto(param) for param in request.params],
            [RunTag.from_proto(tag) for tag in request.tags],
        )
