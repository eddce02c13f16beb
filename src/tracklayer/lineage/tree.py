"""The graph as trees for a terminal: towards the data, and towards what uses it. Needs rich (extra ``cli``).

A run is one line; above it stands its workflow run wherever that changes, below it the dataset that made the link.
A run that was shown already is named again without what hangs below it, so circles end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from tracklayer.lineage.label import dataset_title, digest, edge_label, group_title, printable, run_facts, run_title
from tracklayer.lineage.picture import drawn_edges

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tracklayer.lineage.graph import Edge, Graph, RunNode

Direction = Literal["upstream", "downstream"]

_DATE: Final = re.compile(r"\d{4}-?\d\d-?\d\d")
_STATUS_STYLES: Final = {
    "FINISHED": "green",
    "FAILED": "bold red",
    "KILLED": "red",
    "RUNNING": "yellow",
    "SCHEDULED": "yellow",
}


def render(graph: Graph, directions: tuple[Direction, ...] = ("upstream", "downstream")) -> RenderableType:
    """What rich prints for `graph`: one tree for each direction, and the notices."""
    parts: list[RenderableType] = []
    name = run_title(graph.run(graph.root))
    for direction in directions:
        meaning = "what it was made from" if direction == "upstream" else "what was made from it"
        parts.append(Text.assemble((f"{direction.capitalize()} of {name}", "bold"), (f": {meaning}", "dim")))
        parts.append(_Drawing(graph, direction).tree())
        parts.append(Text())
    parts += [Text(f"Note: {printable(notice, 400)}", "yellow") for notice in graph.notices]
    if not graph.notices:
        parts.pop()
    return Group(*parts)


class _Drawing:
    """The drawing of one tree; remembers which runs were drawn with all that hangs below them."""

    def __init__(self, graph: Graph, direction: Direction) -> None:
        self._graph = graph
        self._up = direction == "upstream"
        self._drawn: set[str] = set()
        self._branches: dict[str, list[Edge]] = {}
        for edge in drawn_edges(graph):
            self._branches.setdefault(edge.target if self._up else edge.source, []).append(edge)

    def tree(self) -> Tree:
        root = self._graph.run(self._graph.root)
        tree = Tree(self._label(root, None, None), guide_style="dim")
        self._hang(tree, root)
        members = self._outermost() if self._graph.members else []
        for member in members:
            self._add(tree, self._graph.run(member), None, root.group)
        if not tree.children:
            tree.add(Text("no dataset and no other run" if self._up else "nothing yet", "dim italic"))
        return tree

    def _outermost(self) -> list[str]:
        """The stage runs of the asked workflow run that hang below no other of them."""
        members = set(self._graph.members)
        inner = {
            edge.source if self._up else edge.target
            for run_id in self._graph.members
            for edge in self._branches.get(run_id, ())
        }
        return [run_id for run_id in self._graph.members if run_id not in inner] or sorted(members)

    def _hang(self, tree: Tree, run: RunNode) -> None:
        self._drawn.add(run.id)
        for edge in self._branches.get(run.id, ()):
            other = edge.source if self._up else edge.target
            if self._graph.is_run(other):
                self._add(tree, self._graph.run(other), edge, run.group)
            else:
                dataset = self._graph.dataset(other)
                line = Text.assemble(("read " if self._up else "made ", "dim"), (dataset_title(dataset), "magenta"))
                if dataset.digest:
                    line.append(f" {digest(dataset.digest)}", "dim")
                if (edge.kind == "input") == self._up:
                    tree.add(line)

    def _add(self, tree: Tree, run: RunNode, edge: Edge | None, group: str | None) -> None:
        if run.id in self._drawn:
            tree.add(Text.assemble(_title(run), ("  shown above", "dim italic")))
            return
        self._hang(tree.add(self._label(run, edge, group)), run)

    def _label(self, run: RunNode, edge: Edge | None, group: str | None) -> Text:
        lines = []
        heading = group_title(run)
        if heading is not None and (run.group is None or run.group != group):
            lines.append(Text.assemble((heading, "cyan"), (_when(run), "dim"), (self._experiment(run), "dim")))
        if edge is not None and edge.dataset:
            lines.append(Text(edge_label(edge), "dim"))
        line = _title(run)
        for fact in run_facts(run):
            line.append("  ")
            line.append(fact, _STATUS_STYLES.get(fact, "red" if fact == "DELETED" else ""))
        line.append(f"  {run.id[:8]}", "dim")
        if edge is not None and not edge.dataset:
            line.append(f"  {edge_label(edge)}", "dim")
        return Text("\n").join([*lines, line])

    def _experiment(self, run: RunNode) -> str:
        """The experiment where its name is not the workflow's anyway."""
        if run.experiment is None or run.experiment == run.workflow:
            return ""
        return f"  experiment {printable(run.experiment)}"


def _when(run: RunNode) -> str:
    """The day on which it started here, unless the workflow run's own name says so."""
    if run.started_at is None or _DATE.search(run.workflow_run or ""):
        return ""
    return f"  {run.started_at.astimezone():%Y-%m-%d}"


def _is_named_after_itself(run: RunNode) -> bool:
    """Whether a parent's name says nothing more than the heading above it."""
    return run.is_workflow_run and run.name == run.workflow_run


def _title(run: RunNode) -> Text:
    """Its name, a link to its page where the terminal can do that."""
    style = f"bold link {run.url}" if run.url and _is_plain(run.url) else "bold"
    return Text.assemble(("workflow run" if _is_named_after_itself(run) else run_title(run), style))


def _is_plain(url: str) -> bool:
    return url.startswith(("http://", "https://")) and url.isprintable() and " " not in url
