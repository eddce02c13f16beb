"""What the tests look at: the runs that a DAG run has left on the MLflow server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tracklayer.linking import read_links
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.store import Run

AIRFLOW = tuple(map(int, version("apache-airflow-core").split(".")[:2]))
"""Airflow's version: ``(3, 3)``."""

PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Story:
    """One DAG run, as Airflow and as MLflow tell it.

    Attributes:
        uri: the MLflow server.
        dag_id: the DAG, whose name the experiment has.
        told: what `AirflowHome.test` says about it; at least its ``run_id``.
    """

    uri: str
    dag_id: str
    told: Mapping[str, Any]

    @cached_property
    def runs(self) -> list[Run]:
        """All live runs of the DAG run, oldest first; asked for once."""
        store = open_store(self.uri, connect_timeout=5, timeout=30)
        experiment = store.get_experiment_by_name(self.dag_id)
        if experiment is None:
            return []
        runs = store.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"], limit=1_000)
        return [run for run in runs if run.tags["tracklayer.workflow_run"] == self.told["run_id"]]

    @property
    def parent(self) -> Run:
        """The run of the DAG run; there has to be exactly one."""
        (parent,) = (run for run in self.runs if PARENT not in run.tags)
        return parent

    def tries(self, task: str) -> list[Run]:
        """The runs of a task's tries in their order; `task` with its map index: ``train[2]``."""
        (prefix,) = {run.tags["tracklayer.key"] for run in self.runs if PARENT not in run.tags}
        mine = [run for run in self.runs if run.tags["tracklayer.key"].rpartition("#")[0] == f"{prefix}/{task}"]
        return sorted(mine, key=lambda run: int(run.tags["tracklayer.key"].rpartition("#")[2]))

    def run(self, task: str) -> Run:
        """The run of a task's only try."""
        (run,) = self.tries(task)
        return run

    def upstream(self, task: str) -> list[str]:
        """What a task's last try is linked to: tasks of this DAG run by name, other runs by run id."""
        names = {run.run_id: name(run) for run in self.runs}
        return sorted(names.get(link.run.run_id, link.run.run_id) for link in read_links(self.tries(task)[-1].tags))

    @staticmethod
    def moment(text: str) -> int:
        """A moment as Airflow's API tells it, in MLflow's milliseconds."""
        return int(datetime.fromisoformat(text).timestamp() * 1_000)

    def xcom(self, key: str) -> Any:
        """What a task has pushed: ``task.key``."""
        return self.told["xcoms"].get(key)


def name(run: Run) -> str:
    """The task that a run is of, with its map index; ``""`` for a parent."""
    return run.tags["tracklayer.key"].rpartition("/")[2].rpartition("#")[0] if PARENT in run.tags else ""


def without_tracking(xcoms: Mapping[str, Any], also: Sequence[str] = ()) -> dict[str, Any]:
    """The XComs that are not tracking's."""
    ours = ("tracklayer", "tracklayer_url", "tracklayer_parent_url", *also)
    return {key: value for key, value in xcoms.items() if key.rpartition(".")[2] not in ours}
