"""The mlflow library's objects and tracklayer's values, from the one to the other and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracklayer.store import Dataset, Experiment, LoggedModel, Metric, Run, wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def text_of(values: Mapping[str, str] | None) -> dict[str, str]:
    """Tags or params with text that every database takes."""
    return {wire.text(key): wire.text(value) for key, value in (values or {}).items()}


def batch(
    metrics: Sequence[Metric], params: Mapping[str, str] | None, tags: Mapping[str, str] | None
) -> dict[str, list[Any]]:
    """Arguments of MLflow's ``log_batch``; empty if there is nothing to log.

    Raises:
        Refused: a metric is none; see `tracklayer.store.wire.metrics`.
    """
    points: list[dict[str, Any]] = wire.metrics(metrics)
    if not (points or params or tags):
        return {}
    from mlflow import entities

    return {
        "metrics": [entities.Metric(**{**point, "value": float(point["value"])}) for point in points],
        "params": [entities.Param(key, value) for key, value in text_of(params).items()],
        "tags": [entities.RunTag(key, value) for key, value in text_of(tags).items()],
    }


def inputs(datasets: Sequence[Dataset]) -> list[Any]:
    """Datasets as MLflow's ``log_inputs`` takes them."""
    from mlflow import entities

    told: list[dict[str, Any]] = wire.datasets(datasets)
    return [
        entities.DatasetInput(
            dataset=entities.Dataset(**item["dataset"]), tags=[entities.InputTag(**tag) for tag in item["tags"]]
        )
        for item in told
    ]


def log_inputs(run_id: str, datasets: Sequence[Dataset], models: Sequence[str], client: Any) -> None:
    """Log datasets and models as inputs of a run."""
    from mlflow import entities

    told = [entities.LoggedModelInput(model_id=model) for model in models]
    client.log_inputs(run_id, datasets=inputs(datasets) or None, models=told or None)


def log_outputs(run_id: str, models: Mapping[str, int], client: Any) -> None:
    """Log models that a run made, by their ids, each with its step."""
    from mlflow import entities

    client.log_outputs(run_id, [entities.LoggedModelOutput(model_id=model, step=models[model]) for model in models])


def experiment(found: Any) -> Experiment:
    """The experiment as tracklayer knows it."""
    return Experiment(
        experiment_id=str(found.experiment_id),
        name=found.name,
        deleted=found.lifecycle_stage == "deleted",
        tags=dict(found.tags or {}),
    )


def run(found: Any) -> Run:
    """The run as tracklayer knows it."""
    info, data = found.info, found.data
    return Run(
        run_id=info.run_id,
        experiment_id=str(info.experiment_id),
        name=info.run_name or "",
        status=info.status,
        start_time=info.start_time,
        end_time=info.end_time or None,
        artifact_uri=info.artifact_uri or "",
        deleted=info.lifecycle_stage == "deleted",
        tags=dict(data.tags),
        params=dict(data.params),
        metrics=dict(data.metrics),
        datasets=tuple(_dataset(item) for item in getattr(found.inputs, "dataset_inputs", None) or ()),
        outputs=tuple(
            (item.model_id, item.step) for item in getattr(getattr(found, "outputs", None), "model_outputs", None) or ()
        ),
    )


def logged_model(found: Any) -> LoggedModel:
    """The logged model as tracklayer knows it."""
    return LoggedModel(
        model_id=found.model_id,
        experiment_id=str(found.experiment_id),
        name=found.name or "",
        artifact_uri=found.artifact_location or "",
        status=getattr(found.status, "value", str(found.status)),
        run_id=found.source_run_id or None,
        tags=dict(found.tags or {}),
        params=dict(found.params or {}),
    )


def _dataset(found: Any) -> Dataset:
    dataset, tags = found.dataset, {tag.key: tag.value for tag in found.tags}
    return Dataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type=dataset.source_type,
        source=dataset.source,
        context=tags.pop(wire.CONTEXT_TAG, None),
        schema=dataset.schema,
        profile=dataset.profile,
        tags=tags,
    )
