# mypy: disable-error-code="no-untyped-call"
"""MLflow's entities, made of what this process knows of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    LifecycleStage,
    LoggedModelInput,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunTag,
)

from tracklayer.store import Dataset as StoredDataset

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.journal.operations import Point
    from tracklayer.mlflow_plugins.known_runs import KnownRun

CONTEXT_TAG = "mlflow.data.context"


class KnownRunInfo(RunInfo):
    """MLflow's ``RunInfo``, which finds out where the artifacts are when it is first asked for that."""

    def __init__(self, *arguments: Any, find: Callable[[], str], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._find = find

    @property
    def artifact_uri(self) -> str:
        """Where the run's artifacts are."""
        if not self._artifact_uri:
            self._artifact_uri = self._find()
        return self._artifact_uri

    @classmethod
    def _properties(cls) -> list[str]:
        """What MLflow shows of it, and puts into a dictionary: all that it shows of its own."""
        names: list[str] = RunInfo._properties()  # noqa: SLF001 - which looks at one class only
        return names

    def __reduce__(self) -> Any:
        """Pickled, it is MLflow's own."""
        names = ("run_id", "experiment_id", "user_id", "status", "start_time", "end_time", "lifecycle_stage")
        return RunInfo, (*(getattr(self, name) for name in names), self.artifact_uri, self.run_name)


def run_info(run: KnownRun, find: Callable[[], str]) -> RunInfo:
    """MLflow's info of a run.

    Args:
        run: the run.
        find: finds out where its artifacts are.
    """
    return KnownRunInfo(
        run.run_id,
        run.experiment_id,
        run.user_id,
        run.status,
        run.start_time,
        run.end_time,
        LifecycleStage.DELETED if run.deleted else LifecycleStage.ACTIVE,
        artifact_uri=run.artifact_uri,
        run_name=run.name,
        find=find,
    )


def whole_run(run: KnownRun, find: Callable[[], str]) -> Run:
    """MLflow's entity of a run, with all that was logged on it here."""
    data = RunData(
        metrics=[metric(point) for point in run.latest.values()],
        params=[Param(key, value) for key, value in run.params.items()],
        tags=[RunTag(key, value) for key, value in run.tags.items()],
    )
    inputs = RunInputs(list(run.inputs), [LoggedModelInput(model_id) for model_id in run.input_models])
    return Run(run_info(run, find), data, inputs, RunOutputs(list(run.output_models)))


def metric(point: Point) -> Metric:
    """MLflow's entity of a point."""
    return Metric(
        point.key,
        point.value,
        point.timestamp,
        point.step,
        model_id=point.model_id,
        dataset_name=point.dataset_name,
        dataset_digest=point.dataset_digest,
    )


def stored_dataset(told: DatasetInput) -> StoredDataset:
    """A dataset input as it is written to the journal."""
    dataset: Dataset = told.dataset
    tags = {str(tag.key): str(tag.value) for tag in told.tags or []}
    return StoredDataset(
        name=str(dataset.name),
        digest=str(dataset.digest),
        source_type=str(dataset.source_type),
        source=str(dataset.source),
        context=tags.pop(CONTEXT_TAG, None),
        schema=None if dataset.schema is None else str(dataset.schema),
        profile=None if dataset.profile is None else str(dataset.profile),
        tags=tags,
    )
