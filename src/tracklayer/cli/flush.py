"""``tracklayer flush``: what was logged and is not at the tracking server yet is delivered now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from tracklayer.cli import terminal as terminals
from tracklayer.cli.duration import pause
from tracklayer.cli.tracking import read_settings
from tracklayer.cli.watching import in_order_when_terminated, repeated

if TYPE_CHECKING:
    from tracklayer.cli.flushing import Flusher, Outcome

LEFT: Final = 1
"""Exit code: something is left to deliver."""

REFUSED: Final = 3
"""Exit code: everything is delivered, but for values that the server refused."""

EXAMPLES: Final = (
    "tracklayer flush",
    "tracklayer flush --watch --interval 30s",
    "tracklayer flush --from s3://bucket/journals",
    "tracklayer flush --tracking-uri https://mlflow.example.com --instead-of http://mlflow:5000",
)


def flush(
    context: typer.Context,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Do it again and again, until it is interrupted (SIGINT, SIGTERM).")
    ] = False,
    interval: Annotated[
        str, typer.Option("--interval", help="With --watch: the pause between two rounds (30s, 5m).")
    ] = "30s",
    source: Annotated[
        str | None,
        typer.Option("--from", help="Deliver what was carried to this folder (the setting carry), any fsspec URL."),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Only what is for this server; with --from, to this server.")
    ] = None,
    instead_of: Annotated[
        str | None,
        typer.Option("--instead-of", help="The server of the settings (or --tracking-uri) had this address before."),
    ] = None,
) -> None:
    """Deliver what processes of this machine logged while the tracking server was away, or before they were killed.

    Journals of processes that still run are theirs to deliver and are left alone. Runs whose process died are ended
    as KILLED, at the time of its last sign of life. It can be repeated at will, also beside running pipelines.

    Exit code 0: nothing is left; 1: something is left, the messages say why; 3: everything is delivered but values
    that the server refused, which `tracklayer doctor` shows. With --watch: that of the last round.
    """
    from tracklayer.cli.flushing import Flusher

    terminal, between = terminals.of(context), pause(interval)
    if source is not None:
        from tracklayer.journal.carrying import shelf

        shelf(source)  # what is missing to get there at all is missing in every round
    flusher = Flusher(
        terminal,
        read_settings(tracking_uri),
        source=source,
        only_here=tracking_uri is not None,
        watching=watch,
        instead_of=instead_of,
    )
    outcome = _flush(flusher, between if watch else None)
    if outcome.left or outcome.unknown:
        raise typer.Exit(LEFT)
    if outcome.refused:
        raise typer.Exit(REFUSED)


def _flush(flusher: Flusher, pause: float | None) -> Outcome:
    """One round, or, with a pause between them, as many as it takes to be told to stop."""
    with terminals.Once():
        if pause is not None:
            return repeated(flusher.round, pause)
        with in_order_when_terminated():
            return flusher.round()
