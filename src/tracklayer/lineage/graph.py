"""The lineage graph as plain values: runs, datasets, and what leads from one to the other.

Edges point the way data flows: from the run that made something to the run that used it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

State = Literal["active", "deleted", "hidden", "missing"]
"""``deleted``: in MLflow's trash; ``hidden``: the credentials do not let it be read; ``missing``: not (or no longer)
in this tracking back end, which is all that is known of it besides its id."""

EdgeKind = Literal["hand-over", "token", "data", "reused", "nested", "input", "output"]
"""Between runs: how the link was found (see `tracklayer.context.LinkKind`), or ``nested`` where a run has no links of
its own and what is known of its outer run or workflow run stands for it. With a dataset: ``input`` leads from the
dataset to the run that read it, ``output`` from the run to the dataset that it made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNode:
    """One run. Whatever is None is not known, as for every attribute of a run that is missing.

    Attributes:
        id: MLflow's run id.
        state: whether it can still be read.
        name: the run's name.
        experiment_id: id of its experiment.
        experiment: name of its experiment.
        stage: its stage; None for a workflow-run parent and for a run that tracklayer did not make.
        status: MLflow's status (``FINISHED``, …).
        outcome: the orchestrator's word for how it ended, where that says more (``skipped``).
        orchestrator: ``airflow``, ``prefect``, ``kubeflow``, ``script``, …
        workflow: DAG id, flow name, pipeline name.
        workflow_run: the orchestrator's id of the workflow run.
        key: tracklayer's key of it.
        parent: run id of its parent run.
        superseded_by: run id of the later try that took its place.
        started_at: aware, in UTC.
        ended_at: aware, in UTC; None also while it is running.
        url: its page on the MLflow server.
    """

    id: str
    state: State = "active"
    name: str | None = None
    experiment_id: str | None = None
    experiment: str | None = None
    stage: str | None = None
    status: str | None = None
    outcome: str | None = None
    orchestrator: str | None = None
    workflow: str | None = None
    workflow_run: str | None = None
    key: str | None = None
    parent: str | None = None
    superseded_by: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    url: str | None = None

    @property
    def is_workflow_run(self) -> bool:
        """True for the parent run of a workflow run, by its key."""
        return self.key is not None and self.key == self.group

    @property
    def group(self) -> str | None:
        """Key of the workflow run to which it belongs; None for a run that tracklayer did not make.

        >>> RunNode(id="1", key="airflow:default/flights/r1/train#1").group
        'airflow:default/flights/r1'
        """
        return None if self.key is None else "/".join(self.key.split("/")[:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetNode:
    """One version of a dataset.

    Attributes:
        id: derived from URI and digest, the same in every graph.
        name: its name on MLflow's pages.
        uri: where it is; None if MLflow knows only its name.
        digest: what tells this version from others, as MLflow has it; None if that is not known.
    """

    id: str
    name: str
    uri: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`source` feeds `target`; both are ids of nodes.

    Attributes:
        source: run or dataset.
        target: run or dataset.
        kind: how it is known.
        dataset: URI of the dataset that connects two runs, None if none is known.
        digest: digest of that dataset, None if none is known.
    """

    source: str
    target: str
    kind: EdgeKind
    dataset: str | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is linked to one run.

    Attributes:
        root: id of the run that was asked about.
        members: ids of the stage runs that the question includes because `root` is a workflow run; else empty.
        runs: runs in the order in which they were found, `root` first; parents of those shown are among them.
        datasets: datasets that those runs read and made.
        edges: each once.
        notices: what a reader must know: where reading stopped, and what could not be read.
    """

    root: str
    members: tuple[str, ...] = ()
    runs: tuple[RunNode, ...]
    datasets: tuple[DatasetNode, ...] = ()
    edges: tuple[Edge, ...] = ()
    notices: tuple[str, ...] = ()

    def run(self, run_id: str) -> RunNode:
        """The run with this id. Raises KeyError."""
        return self._runs[run_id]

    def dataset(self, dataset_id: str) -> DatasetNode:
        """The dataset with this id. Raises KeyError."""
        return self._datasets[dataset_id]

    def into(self, node_id: str) -> tuple[Edge, ...]:
        """The edges that feed a node."""
        return self._into.get(node_id, ())

    def out_of(self, node_id: str) -> tuple[Edge, ...]:
        """The edges that a node feeds."""
        return self._out_of.get(node_id, ())

    def is_run(self, node_id: str) -> bool:
        """True for a run's id, False for a dataset's."""
        return node_id in self._runs

    @cached_property
    def _runs(self) -> dict[str, RunNode]:
        return {run.id: run for run in self.runs}

    @cached_property
    def _datasets(self) -> dict[str, DatasetNode]:
        return {dataset.id: dataset for dataset in self.datasets}

    @cached_property
    def _into(self) -> dict[str, tuple[Edge, ...]]:
        found: dict[str, tuple[Edge, ...]] = {}
        for edge in self.edges:
            found[edge.target] = (*found.get(edge.target, ()), edge)
        return found

    @cached_property
    def _out_of(self) -> dict[str, tuple[Edge, ...]]:
        found: dict[str, tuple[Edge, ...]] = {}
        for edge in self.edges:
            found[edge.source] = (*found.get(edge.source, ()), edge)
        return found
