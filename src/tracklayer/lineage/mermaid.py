"""The graph as a Mermaid flowchart, for Markdown pages that render it (GitHub, GitLab, MkDocs).

Names come from outside. Everything in them that is not a letter, a digit or harmless punctuation is written as a
character code (``#34;``), so that no name can end a label, start a tag, or carry a directive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from tracklayer.lineage.label import dataset_title, digest, edge_label, printable, run_facts, run_title
from tracklayer.lineage.picture import compose

if TYPE_CHECKING:
    from tracklayer.lineage.graph import Graph, RunNode

_HARMLESS = frozenset(" .,:@_-/+=·…")


def render(graph: Graph) -> str:
    """Mermaid source, ending with a newline."""
    picture = compose(graph)
    names: dict[str, str] = {}
    lines = ["flowchart LR"]
    lines += [f"%% {_comment(notice)}" for notice in graph.notices]
    clicks = []
    for number, group in enumerate(picture.groups):
        if group.title is not None:
            lines.append(f'  subgraph w{number}["{escape(group.title)}"]')
        for run in group.runs:
            names[run.id] = name = f"r{len(names)}"
            lines.append(f'    {name}["{_run_text(run)}"]')
            address = _address(run.url)
            if address:
                clicks.append(f'  click {name} href "{address}" _blank')
        if group.title is not None:
            lines.append("  end")
    for dataset in picture.datasets:
        names[dataset.id] = name = f"d{len(names)}"
        version = f"<br/>{escape(digest(dataset.digest))}" if dataset.digest else ""
        lines.append(f'  {name}[("{escape(dataset_title(dataset))}{version}")]')
    for edge in picture.edges:
        arrow = "-.->" if edge.kind in ("input", "output") else "-->"
        lines.append(f'  {names[edge.source]} {arrow}|"{escape(edge_label(edge))}"| {names[edge.target]}')
    lines += clicks
    lines += [
        "  classDef asked stroke-width:3px",
        "  classDef gone stroke-dasharray:4 3",
        "  classDef failed stroke:#c0392b",
    ]
    classes = {
        "asked": [graph.root] if graph.root in names else list(graph.members),
        "gone": [run.id for run in graph.runs if run.state != "active" and run.id in names],
        "failed": [run.id for run in graph.runs if run.status in ("FAILED", "KILLED") and run.id in names],
    }
    lines += [f"  class {','.join(names[node] for node in nodes)} {name}" for name, nodes in classes.items() if nodes]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`text` for a quoted label.

    >>> escape('a"] --> b')
    'a#34;#93; --#62; b'
    """
    return "".join(
        character if character.isalnum() or character in _HARMLESS else f"#{ord(character)};"
        for character in printable(text)
    )


def _run_text(run: RunNode) -> str:
    facts = " · ".join(run_facts(run))
    return escape(run_title(run)) + (f"<br/>{escape(facts)}" if facts else "")


def _address(url: str | None) -> str | None:
    """A run's page if it is a web address, with everything encoded that could end the quoted text."""
    if url is None or urlsplit(url).scheme not in ("http", "https"):
        return None
    return quote(url, safe=":/?&=%#@+,~!.-_")


def _comment(text: str) -> str:
    return printable(text).replace("{", "(").replace("}", ")")
