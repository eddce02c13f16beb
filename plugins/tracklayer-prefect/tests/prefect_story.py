"""What a test's flows have left in MLflow, read by MLflow's own client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracklayer.identity import UPSTREAM_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass
class Story:
    """What one test's flows have left in MLflow: an experiment of its own."""

    uri: str
    experiment: str

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            return []
        return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], max_results=1000))

    def parents(self) -> list[Run]:
        """The runs that stand for flow runs."""
        return [run for run in self.runs() if "mlflow.parentRunId" not in run.data.tags]

    def parent(self) -> Run:
        """The only parent."""
        (found,) = self.parents()
        return found

    def stages(self, stage: str | None = None) -> list[Run]:
        """The stage runs, of one stage or all."""
        found = [run for run in self.runs() if "mlflow.parentRunId" in run.data.tags]
        return [run for run in found if stage in (None, run.data.tags.get("tracklayer.stage"))]

    def stage(self, stage: str) -> Run:
        """The only run of a stage."""
        (found,) = self.stages(stage)
        return found


def links(run: Run) -> set[str]:
    """Ids of the runs that `run` is linked to."""
    return {name.removeprefix(UPSTREAM_TAG) for name in run.data.tags if name.startswith(UPSTREAM_TAG)}
