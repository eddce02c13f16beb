"""The graph in Graphviz's language: ``tracklayer lineage RUN --format dot | dot -Tsvg > lineage.svg``."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tracklayer.lineage.label import dataset_title, digest, edge_label, printable, run_facts, run_title
from tracklayer.lineage.picture import compose

if TYPE_CHECKING:
    from tracklayer.lineage.graph import Graph, RunNode


def render(graph: Graph) -> str:
    """DOT source, ending with a newline."""
    picture = compose(graph)
    names: dict[str, str] = {}
    lines = ["digraph lineage {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="Helvetica"];']
    lines += [f"  // {printable(notice)}" for notice in graph.notices]
    for number, group in enumerate(picture.groups):
        if group.title is not None:
            lines += [f"  subgraph cluster_{number} {{", f"    label={quoted(group.title)};"]
        for run in group.runs:
            names[run.id] = name = f"r{len(names)}"
            asked = run.id == graph.root or run.id in graph.members
            lines.append(f"    {name} [{_run_attributes(run, asked=asked)}];")
        if group.title is not None:
            lines.append("  }")
    for dataset in picture.datasets:
        names[dataset.id] = name = f"d{len(names)}"
        text = [dataset_title(dataset), *([digest(dataset.digest)] if dataset.digest else [])]
        lines.append(f"  {name} [label={quoted(*text)}, shape=cylinder, style=solid];")
    for edge in picture.edges:
        style = ", style=dashed" if edge.kind in ("input", "output") else ""
        lines.append(f"  {names[edge.source]} -> {names[edge.target]} [label={quoted(edge_label(edge))}{style}];")
    return "\n".join([*lines, "}"]) + "\n"


def quoted(*lines: str) -> str:
    r"""A quoted string of these lines; nothing in them can end it or act as an escape or an HTML entity.

    >>> print(quoted('say "hi"', "a\\b"))
    "say \"hi\"\na\\b"
    """
    escaped = (printable(line).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _run_attributes(run: RunNode, *, asked: bool) -> str:
    attributes = [f"label={quoted(run_title(run), ' · '.join(run_facts(run)))}"]
    if asked:
        attributes.append("penwidth=2.5")
    if run.state != "active":
        attributes.append('style="rounded,dashed"')
    if run.status in ("FAILED", "KILLED"):
        attributes.append('color="#c0392b"')
    if run.url and urlsplit(run.url).scheme in ("http", "https"):
        attributes.append(f"URL={quoted(run.url)}")
    return ", ".join(attributes)
