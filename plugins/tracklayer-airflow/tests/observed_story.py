"""What the tests of observed tasks look at: their runs are in whatever experiments the code chose."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow_story import Story

from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from tracklayer.store import Run


class ObservedStory(Story):
    """One DAG run whose runs may be in any experiment."""

    @cached_property
    def all_runs(self) -> list[Run]:
        """Every live run of the DAG run, also those below the runs of tasks; oldest first."""
        store = open_store(self.uri, connect_timeout=5, timeout=30)
        wanted = f"tags.`tracklayer.workflow_run` = '{self.told['run_id']}'"
        runs = store.search_runs([], wanted, limit=1_000)
        mine = [run for run in runs if run.tags["tracklayer.workflow"] == self.dag_id]
        return sorted(mine, key=lambda run: run.start_time or 0)

    @cached_property
    def runs(self) -> list[Run]:
        """The parent and the runs of tasks."""
        return [run for run in self.all_runs if "tracklayer.key" in run.tags]

    def below(self, run: Run) -> list[Run]:
        """The runs right below another one."""
        return [other for other in self.all_runs if other.tags.get("mlflow.parentRunId") == run.run_id]

    def experiment(self, run: Run) -> str:
        """The name of a run's experiment."""
        return open_store(self.uri, connect_timeout=5, timeout=30).get_experiment(run.experiment_id).name
