"""``tracklayer lineage``: what a run was made from, and what was made from it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tracklayer.cli import terminal as terminals
from tracklayer.cli.tracking import open_store, read_settings
from tracklayer.exceptions import NotFound

if TYPE_CHECKING:
    from tracklayer.lineage.tree import Direction

EXAMPLES: Final = (
    "tracklayer lineage 4f1c9a0d",
    "tracklayer lineage models:/flights@champion --upstream",
    "tracklayer lineage airflow:default/flights/manual__1/train#1",
    "tracklayer lineage 4f1c9a0d --format json | jq '.nodes[].name'",
    "tracklayer lineage 4f1c9a0d --format dot | dot -Tsvg > lineage.svg",
)


class Format(StrEnum):
    """How the graph is written."""

    TREE = "tree"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


def lineage(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run id or its first digits, a tracklayer key, a token, the address of a run's page, or a model "
            "(models:/name/3, models:/name@champion, m-…).",
            show_default=False,
        ),
    ],
    form: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.TREE,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Where to read, instead of where the settings say.")
    ] = None,
    upstream: Annotated[bool, typer.Option("--upstream", help="Only what the run was made from.")] = False,
    downstream: Annotated[bool, typer.Option("--downstream", help="Only what was made from the run.")] = False,
    depth: Annotated[int, typer.Option(min=0, max=100, help="How many links to follow in each direction.")] = 20,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many runs to read at most.")] = 500,
) -> None:
    """Show what a run was made from, and what was made from it.

    Links are followed across experiments and orchestrators: upstream towards the data, downstream towards what uses
    the run. The parent run of a workflow run stands for all its stages.
    """
    from tracklayer.backend import page_url
    from tracklayer.lineage import document, dot, mermaid, query, reading, tree

    terminal = terminals.of(context)
    settings = read_settings(tracking_uri)
    store = open_store(settings)
    both = upstream == downstream
    try:
        graph = reading.read(
            store,
            query.find_run(store, run),
            upstream=upstream or both,
            downstream=downstream or both,
            depth=depth,
            limit=limit,
            page=lambda ref: page_url(settings, store.uri, ref),
        )
    except NotFound as error:
        if query.FORMS in str(error):
            raise
        store.ping()  # where the back end itself is wrong, no other name of a run helps
        raise NotFound(f"{error}\nA run is named by {query.FORMS}.") from error
    if form is Format.TREE:
        directions: tuple[Direction, ...] = ("upstream", "downstream")
        if not both:
            directions = ("upstream",) if upstream else ("downstream",)
        terminal.out.print(tree.render(graph, directions))
    else:
        renders = {Format.MERMAID: mermaid.render, Format.DOT: dot.render, Format.JSON: document.render}
        terminal.write(renders[form](graph))
