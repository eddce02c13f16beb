"""MLflow's JSON and tracklayer's values, from the one to the other and back."""

from __future__ import annotations

import json
import math
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from tracklayer.exceptions import Refused
from tracklayer.store import Dataset, Experiment, LoggedModel, Metric, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CONTEXT_TAG: Final = "mlflow.data.context"
MODEL_STATUS: Final = "LOGGED_MODEL_"
"""How the names of a logged model's statuses begin on the wire."""
_INT64: Final = 2**63
_FEW: Final = 100
"""So many points are not worth another order."""

T = TypeVar("T")
_Point = dict[str, Any]


class PairWire(msgspec.Struct):
    """A tag or a param."""

    key: str = ""
    value: str | None = ""


class MetricWire(msgspec.Struct):
    """The latest point of a metric; values that JSON has no number for come as text."""

    key: str = ""
    value: float | str = 0.0


class DatasetWire(msgspec.Struct):
    """A dataset."""

    name: str = ""
    digest: str = ""
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None


class DatasetInputWire(msgspec.Struct):
    """A dataset and the tags of its use by one run."""

    dataset: DatasetWire
    tags: list[PairWire] = []


class RunInfoWire(msgspec.Struct):
    """What a run is."""

    run_id: str = ""
    experiment_id: str = ""
    run_name: str | None = None
    status: str = "RUNNING"
    start_time: int | None = None
    end_time: int | None = None
    artifact_uri: str | None = None
    lifecycle_stage: str = "active"


class RunDataWire(msgspec.Struct):
    """What was logged to a run."""

    metrics: list[MetricWire] = []
    params: list[PairWire] = []
    tags: list[PairWire] = []


class RunInputsWire(msgspec.Struct):
    """What a run read."""

    dataset_inputs: list[DatasetInputWire] = []


class ModelOutputWire(msgspec.Struct):
    """A model that a run made."""

    model_id: str = ""
    step: int = 0


class RunOutputsWire(msgspec.Struct):
    """What a run made."""

    model_outputs: list[ModelOutputWire] = []


class RunWire(msgspec.Struct):
    """A run."""

    info: RunInfoWire
    data: RunDataWire = msgspec.field(default_factory=RunDataWire)
    inputs: RunInputsWire = msgspec.field(default_factory=RunInputsWire)
    outputs: RunOutputsWire = msgspec.field(default_factory=RunOutputsWire)

    def value(self) -> Run:
        """The run as tracklayer knows it."""
        info = self.info
        return Run(
            run_id=info.run_id,
            experiment_id=info.experiment_id,
            name=info.run_name or "",
            status=info.status,
            start_time=info.start_time,
            end_time=info.end_time or None,
            artifact_uri=info.artifact_uri or "",
            deleted=info.lifecycle_stage == "deleted",
            tags=_mapping(self.data.tags),
            params=_mapping(self.data.params),
            metrics={metric.key: float(metric.value) for metric in self.data.metrics},
            datasets=tuple(_dataset(item) for item in self.inputs.dataset_inputs),
            outputs=tuple((item.model_id, item.step) for item in self.outputs.model_outputs),
        )


class ExperimentWire(msgspec.Struct):
    """An experiment."""

    experiment_id: str = ""
    name: str = ""
    lifecycle_stage: str = "active"
    tags: list[PairWire] = []

    def value(self) -> Experiment:
        """The experiment as tracklayer knows it."""
        return Experiment(
            experiment_id=self.experiment_id,
            name=self.name,
            deleted=self.lifecycle_stage == "deleted",
            tags=_mapping(self.tags),
        )


class FileWire(msgspec.Struct):
    """An artifact in a folder, by its name there."""

    path: str
    is_dir: bool = False


class FilesAnswer(msgspec.Struct):
    """What is in a folder of artifacts."""

    files: list[FileWire] = []


class ExperimentAnswer(msgspec.Struct):
    """Answer with one experiment."""

    experiment: ExperimentWire


class ExperimentsAnswer(msgspec.Struct):
    """Answer with a page of experiments."""

    experiments: list[ExperimentWire] = []
    next_page_token: str | None = None


class CreatedExperimentAnswer(msgspec.Struct):
    """Answer to the creation of an experiment."""

    experiment_id: str


class RunAnswer(msgspec.Struct):
    """Answer with one run."""

    run: RunWire


class RunsAnswer(msgspec.Struct):
    """Answer with a page of runs."""

    runs: list[RunWire] = []
    next_page_token: str | None = None


class ModelVersionWire(msgspec.Struct):
    """A version of a registered model."""

    version: str = ""
    run_id: str | None = None
    model_id: str | None = None
    source: str | None = None


class ModelVersionAnswer(msgspec.Struct):
    """Answer with one version of a model."""

    model_version: ModelVersionWire


class ModelVersionsAnswer(msgspec.Struct):
    """Answer with a page of versions."""

    model_versions: list[ModelVersionWire] = []


class LoggedModelInfoWire(msgspec.Struct):
    """What a logged model is."""

    model_id: str = ""
    experiment_id: str = ""
    name: str | None = None
    artifact_uri: str | None = None
    status: str = "LOGGED_MODEL_PENDING"
    source_run_id: str | None = None
    tags: list[PairWire] = []


class LoggedModelDataWire(msgspec.Struct):
    """What was logged to a logged model."""

    params: list[PairWire] = []


class LoggedModelWire(msgspec.Struct):
    """A logged model."""

    info: LoggedModelInfoWire
    data: LoggedModelDataWire = msgspec.field(default_factory=LoggedModelDataWire)

    def value(self) -> LoggedModel:
        """The logged model as tracklayer knows it."""
        info = self.info
        return LoggedModel(
            model_id=info.model_id,
            experiment_id=info.experiment_id,
            name=info.name or "",
            artifact_uri=info.artifact_uri or "",
            status=info.status.removeprefix(MODEL_STATUS),
            run_id=info.source_run_id or None,
            tags=_mapping(info.tags),
            params=_mapping(self.data.params),
        )


class LoggedModelAnswer(msgspec.Struct):
    """Answer with one logged model."""

    model: LoggedModelWire


class LoggedModelsAnswer(msgspec.Struct):
    """Answer with a page of logged models."""

    models: list[LoggedModelWire] = []
    next_page_token: str | None = None


def quoted(text: str) -> str:
    r"""A text in one of MLflow's filters, in whichever quotes it does not hold itself.

    >>> quoted("delays"), quoted("Bob's")
    ("'delays'", '"Bob\'s"')
    """
    return f'"{text}"' if "'" in text else f"'{text}'"


def decoded(body: bytes, answer: type[T]) -> T:
    """Read the body of an answer; fields that it does not know are skipped, numbers may come as text.

    Raises:
        ValueError: it is no JSON, or not of this shape.
    """
    try:
        return msgspec.json.decode(body, type=answer, strict=False)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def encoded(payload: Mapping[str, Any]) -> bytes:
    """The body of a request. A bare NaN, which MLflow's server answers with silent corruption, cannot get in."""
    return json.dumps(payload, allow_nan=False, separators=(",", ":")).encode()


def encoded_batch(payload: Mapping[str, Any]) -> bytes:
    """The body of a batch; faster than `encoded`, and only for numbers that `metrics` has seen to."""
    return msgspec.json.encode(payload)


def text(value: str) -> str:
    r"""The text as every back end stores it.

    A NUL character, and half of a surrogate pair (as in a file name that is not UTF-8), would be answered with an
    internal error; they are shown as ␀ and �.

    >>> text("a\0b\udc80")
    'a␀b�'
    """
    if value.isascii():
        return value.replace("\0", "␀") if "\0" in value else value
    value = value.replace("\0", "␀")
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def pairs(values: Mapping[str, str] | None) -> list[dict[str, str]]:
    """Tags or params as MLflow's list of keys and values."""
    return [{"key": text(key), "value": text(value)} for key, value in (values or {}).items()]


def metrics(values: Iterable[Metric]) -> list[dict[str, Any]]:
    """Metrics as MLflow takes them: NaN and infinities as text.

    Raises:
        Refused: a value is no number, or a step or timestamp no 64-bit whole number.
    """
    told = []
    for metric in values:
        value, timestamp, step = metric.value, metric.timestamp, metric.step
        point: dict[str, Any] = {
            "key": text(metric.key),
            "value": value if type(value) is float and isfinite(value) else _number(metric),
            "timestamp": _whole(metric, "timestamp", timestamp),
            "step": _whole(metric, "step", step),
        }
        if metric.model_id is not None:
            point["model_id"] = metric.model_id
        if metric.dataset_name is not None and metric.dataset_digest is not None:
            point["dataset_name"] = text(metric.dataset_name)
            point["dataset_digest"] = text(metric.dataset_digest)
        told.append(point)
    return told


def last_first(points: Sequence[_Point]) -> Sequence[_Point]:
    """The points of a large batch with the last one of each key before all others.

    A server on a database compares each point, in the order of the batch, with the latest value of its metric, and
    changes that value, field by field, whenever the point is later (``_update_latest_metrics_if_necessary`` of MLflow's
    ``SqlAlchemyStore``): a thousand times for a thousand steps, but once if the last step comes first. That is some
    four per cent of the request. What is stored is the same, and histories are read in the order of their times.

    Args:
        points: what `metrics` returns; up to 100 stay as they are.

    Returns:
        The same points.

    >>> last_first([{"key": "loss", "step": step} for step in range(200)])[:3]
    [{'key': 'loss', 'step': 199}, {'key': 'loss', 'step': 0}, {'key': 'loss', 'step': 1}]
    """
    if len(points) <= _FEW:
        return points
    last = {point["key"]: index for index, point in enumerate(points)}
    ahead = set(last.values())
    return [points[index] for index in last.values()] + [
        point for index, point in enumerate(points) if index not in ahead
    ]


def datasets(values: Sequence[Dataset]) -> list[dict[str, Any]]:
    """Datasets as MLflow's dataset inputs."""
    return [
        {
            "tags": pairs(dataset.tags if dataset.context is None else {CONTEXT_TAG: dataset.context, **dataset.tags}),
            "dataset": {
                name: text(value)
                for name in ("name", "digest", "source_type", "source", "schema", "profile")
                if (value := getattr(dataset, name)) is not None
            },
        }
        for dataset in values
    ]


def number(metric: Metric) -> float:
    """The metric's value as a float.

    Raises:
        Refused: it is none.
    """
    try:
        return float(metric.value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(f"the value of metric {metric.key!r} is not a number that MLflow can store: {error}") from None


def _number(metric: Metric) -> float | str:
    value = number(metric)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _whole(metric: Metric, name: str, value: object) -> int:
    if type(value) is int and -_INT64 <= value < _INT64:
        return value
    try:
        whole = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or whole != value or not -_INT64 <= whole < _INT64:
        raise Refused(f"the {name} of metric {metric.key!r} is not a whole number of 64 bits")
    return int(whole)


def _mapping(items: Iterable[PairWire]) -> dict[str, str]:
    return {item.key: item.value or "" for item in items}


def _dataset(item: DatasetInputWire) -> Dataset:
    wire, tags = item.dataset, _mapping(item.tags)
    return Dataset(
        name=wire.name,
        digest=wire.digest,
        source_type=wire.source_type,
        source=wire.source,
        context=tags.pop(CONTEXT_TAG, None),
        schema=wire.schema,
        profile=wire.profile,
        tags=tags,
    )
