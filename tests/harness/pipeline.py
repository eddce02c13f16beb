"""A tracked pipeline as MLflow shows it: for the tests of what MLflow's own calls do inside stages."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import tracklayer
from harness.patience import patient
from tracklayer import RunContext, TaskRun, WorkflowRun

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mlflow.entities import Run


PLUGINS = ("airflow", "git", "kubeflow", "prefect")
"""What may be installed beside core and has no part in these tests."""


class Pipeline:
    """One workflow run of a workflow of its own, so of an experiment of its own.

    Attributes:
        uri: where it is tracked.
        workflow: its name, and that of its experiment.
        client: asks MLflow what is there.
        settings: those of its stages, beside the place and the journal; for a test to change.
    """

    def __init__(self, uri: str, **settings: Any) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        self.settings: dict[str, Any] = {"on_error": "raise", "disabled_plugins": PLUGINS, **settings}
        self.workflow = f"pipeline-{uuid.uuid4().hex[:8]}"
        self.client = MlflowClient(uri)

    def context(self, task: str) -> RunContext:
        return RunContext(
            workflow_run=WorkflowRun(orchestrator="test", workflow=self.workflow, run_id="r1"),
            task_run=TaskRun(task=task),
            owns_workflow_run=True,
        )

    def stage(self, name: str = "training", **options: Any) -> AbstractContextManager[tracklayer.StageRun]:
        journal = os.environ.get("TRACKLAYER_JOURNAL")  # of this test alone
        settings = patient(self.uri, journal=journal, **self.settings)
        return tracklayer.track(name, context=self.context(name), settings=settings, **options)

    def run(self, run_id: str | None) -> Run:
        assert run_id is not None
        return self.client.get_run(run_id)

    def below(self, run_id: str | None) -> list[Run]:
        """The runs whose parent it is, in whatever experiment, oldest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        runs = self.client.search_runs(
            experiments, f"tags.mlflow.parentRunId = '{run_id}'", order_by=["attributes.start_time ASC"]
        )
        return list(runs)

    def all_runs(self) -> list[Run]:
        """All runs of its experiment but the workflow run's parent."""
        experiment = self.client.get_experiment_by_name(self.workflow)
        assert experiment is not None
        return [
            run for run in self.client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in run.data.tags
        ]

    def in_default(self) -> int:
        """How many runs are in the experiment into which MLflow puts what belongs nowhere."""
        return len(self.client.search_runs(["0"]))
