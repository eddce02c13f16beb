"""What of a graph is worth drawing: the same for every kind of picture.

A graph says everything that is known, and some of it twice: a workflow run is linked by the token that its first
stage is linked by, and a dataset that connects two runs stands on the link as well as in both runs' datasets. A
picture shows each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracklayer.lineage.label import group_title

if TYPE_CHECKING:
    from tracklayer.lineage.graph import DatasetNode, Edge, Graph, RunNode


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one workflow run that are drawn, in the order in which they were found.

    Attributes:
        title: the workflow run; None for runs that tracklayer did not make, which stand alone.
        runs: at least one.
    """

    title: str | None
    runs: tuple[RunNode, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn: groups of runs, datasets, edges. Ids of nodes are those of the graph."""

    groups: tuple[Group, ...]
    datasets: tuple[DatasetNode, ...]
    edges: tuple[Edge, ...]


def compose(graph: Graph) -> Picture:
    """The picture of `graph`."""
    edges = drawn_edges(graph)
    ends = {node for edge in edges for node in (edge.source, edge.target)}
    shown = {graph.root, *graph.members, *ends} if not graph.members else {*graph.members, *ends}
    groups: dict[str, list[RunNode]] = {}
    for run in graph.runs:
        if run.id in shown:
            groups.setdefault(run.group or run.id, []).append(run)
    return Picture(
        groups=tuple(Group(group_title(runs[0]), tuple(runs)) for runs in groups.values()),
        datasets=tuple(dataset for dataset in graph.datasets if dataset.id in ends),
        edges=edges,
    )


def drawn_edges(graph: Graph) -> tuple[Edge, ...]:
    """The edges of `graph` without those that say again what others say."""
    links = [edge for edge in graph.edges if edge.kind not in ("input", "output")]
    by_data = {(node, edge.dataset) for edge in links if edge.dataset for node in (edge.source, edge.target)}
    direct = {(edge.source, edge.target) for edge in links}
    stages: dict[str, set[str]] = {}
    for run in graph.runs:
        if run.group is not None and not run.is_workflow_run:
            stages.setdefault(run.group, set()).add(run.id)

    def is_told(edge: Edge) -> bool:
        if edge.kind in ("input", "output"):
            run, dataset = (edge.target, edge.source) if edge.kind == "input" else (edge.source, edge.target)
            return (run, graph.dataset(dataset).uri) in by_data
        source, target = graph.run(edge.source), graph.run(edge.target)
        if target.is_workflow_run and any((source.id, stage) in direct for stage in stages.get(target.group or "", ())):
            return True
        return source.is_workflow_run and any(
            (stage, target.id) in direct for stage in stages.get(source.group or "", ())
        )

    return tuple(edge for edge in graph.edges if not is_told(edge))
