"""``tracklayer reconcile``: MLflow is made to agree with what really happened."""

from __future__ import annotations

import json
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import typer
from rich.console import Group
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from tracklayer.cli import terminal as terminals
from tracklayer.cli.duration import pause, seconds, wrong
from tracklayer.cli.terminal import Once
from tracklayer.cli.tracking import open_backend, read_settings
from tracklayer.cli.watching import repeated
from tracklayer.exceptions import StoreError
from tracklayer.lineage.label import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from tracklayer.cli.terminal import Terminal
    from tracklayer.context import RunRef
    from tracklayer.journal.bell import Latch
    from tracklayer.reconcile import Finding, Findings, Repair, Scope

SOMETHING_TO_DO: Final = 3
"""Exit code of a dry run that found something to repair."""

NOT_DONE: Final = 1
"""Exit code: something could not be done, or nobody could be asked whether there is anything to do."""

SHOWN: Final = 50
"""So many findings of a kind are listed in the text; JSON has them all."""

EXAMPLES: Final = (
    "tracklayer reconcile",
    "tracklayer reconcile --apply",
    "tracklayer reconcile --orchestrator airflow --since 7d --format json | jq '.findings[].run_id'",
    "tracklayer reconcile --orchestrator script --older-than 2d --apply",
    "tracklayer reconcile --apply --watch --interval 5m",
)


class Format(StrEnum):
    """How the findings are written."""

    TEXT = "text"
    JSON = "json"


def _age(text: str | None, option: str) -> timedelta | None:
    """How long ago. A number alone is none: ``--older-than 2``, meant as days and taken for seconds, would end what runs."""
    if text is None:
        return None
    if text.strip().replace(".", "", 1).isdecimal():
        raise wrong(f"{text!r} of what? Say it with s, m, h, d or w, as in 12h or 7d", option)
    return timedelta(seconds=seconds(text, option))


def reconcile(
    context: typer.Context,
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Change what was found; without it nothing is changed.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Do it again and again, until it is interrupted (SIGINT, SIGTERM).")
    ] = False,
    interval: Annotated[
        str, typer.Option("--interval", help="With --watch: the pause between two rounds (90s, 5m, 1h).")
    ] = "5m",
    form: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.TEXT,
    orchestrator: Annotated[
        list[str] | None, typer.Option("--orchestrator", help="Only runs of this one; may be given several times.")
    ] = None,
    workflow: Annotated[
        list[str] | None, typer.Option("--workflow", help="Only runs of this workflow; may be given several times.")
    ] = None,
    experiment: Annotated[
        list[str] | None, typer.Option("--experiment", help="Only this experiment, by its name; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only runs that started in this time before now (12h, 7d).")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            help="Also end runs that started longer ago than this (2d) if their machine cannot be seen from here, or "
            "their orchestrator has deleted them.",
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Look at this server, instead of that of the settings.")
    ] = None,
) -> None:
    """Compare MLflow with what really happened, and repair what differs.

    Found are runs that are open though their task, workflow run or process has ended; parents left open; second
    parents of one workflow run; runs below a parent that was deleted; links that were made while the server was away
    and never resolved. Orchestrators are asked through their plugins, so run it where they can be reached.

    Changes nothing unless told to --apply. Exit code 0: there is nothing to do, or all of it was done; 3: there is
    something to do; 1: something could not be done, or an orchestrator could not be asked. With --watch: that of the
    last round. It can be repeated at will, also beside running pipelines. Runs that tracklayer did not make are never
    touched, nor those of which nobody can say what has become of them.
    """
    from tracklayer.reconcile import Scope

    terminal = terminals.of(context)
    scope = Scope(
        orchestrators=frozenset(orchestrator or ()),
        workflows=frozenset(workflow or ()),
        experiments=frozenset(experiment or ()),
        since=_age(since, "--since"),
        older_than=_age(older_than, "--older-than"),
    )
    between = pause(interval)

    def watched(stop: Latch) -> int:
        try:
            return _round(terminal, scope, tracking_uri, form, apply=apply, stop=stop)
        except StoreError as error:
            terminal.error(f"{error}; trying again in {between:g} s")
            return NOT_DONE

    code = repeated(watched, between) if watch else _round(terminal, scope, tracking_uri, form, apply=apply)
    if code:
        raise typer.Exit(code)


def _round(
    terminal: Terminal,
    scope: Scope,
    tracking_uri: str | None,
    form: Format,
    *,
    apply: bool,
    stop: Latch | None = None,
) -> int:
    """Examine, and repair if asked to, until there is nothing more; the exit code.

    Args:
        terminal: what to write to.
        scope: which runs are looked at.
        tracking_uri: the server, if not that of the settings.
        form: how it is written.
        apply: whether to repair.
        stop: where this is one of many rounds: open as soon as it is the last one. None for the only one.

    Raises:
        StoreError: the server cannot be reached; what was done until then is told.
    """
    from tracklayer.reconcile import examine, repair

    settings = read_settings(tracking_uri)
    backend = open_backend(settings)
    code = 0
    while True:
        done: list[Repair] | None = [] if apply else None
        failed = None
        with Once(), _Progress(terminal) as tell:
            findings = examine(backend, settings, scope, progress=tell.looking)
            if done is not None:
                try:
                    repair(findings.found, backend, settings, progress=tell.repairing, done=done)
                except StoreError as error:  # what was changed until then is told all the same
                    failed = error
        _tell(terminal, form, findings, done, watched=stop is not None)
        if failed is not None:
            raise failed
        if findings.unasked:  # whatever else was found or done: nobody knows whether that is all
            code = NOT_DONE
        if done is None:
            return code or (SOMETHING_TO_DO if findings.found else 0)
        if any(item.error for item in done):
            code = NOT_DONE
        if not findings.more or not any(item.changed for item in done) or (stop is not None and stop.is_open):
            return code


def _tell(
    terminal: Terminal, form: Format, findings: Findings, done: Sequence[Repair] | None, *, watched: bool
) -> None:
    if form is Format.JSON:
        document = _document(findings, done)
        terminal.write(json.dumps(document, ensure_ascii=False, indent=None if watched else 2) + "\n")
    elif findings.found or findings.unknown or findings.unasked or not watched:
        terminal.out.print(_page(findings, done))


class _Progress:
    """Tells at a terminal how far it is; silent where nobody sits."""

    def __init__(self, terminal: Terminal) -> None:
        self._status: Status | None = None
        if terminal.err.is_terminal:
            self._status = Status("Looking at experiments", console=terminal.err)

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def looking(self, what: str, count: int) -> None:
        """So many runs have been looked at."""
        self._tell(f"Looking at {what}: {count} runs so far")

    def repairing(self, what: str, count: int) -> None:
        """So many findings have been repaired."""
        self._tell(f"Repairing: {what.lower()} ({count} done)")

    def _tell(self, text: str) -> None:
        if self._status is not None:
            self._status.update(Text(text))


def _page(findings: Findings, done: Sequence[Repair] | None) -> RenderableType:
    from tracklayer.reconcile.findings import KINDS

    outcomes = {id(item.finding): item for item in done or ()}
    parts: list[RenderableType] = []
    for kind in KINDS:
        found = findings.of(kind)
        if found:
            table = _table(
                (item.run, _change(item, outcomes.get(id(item)), applied=done is not None), item.because)
                for item in found[:SHOWN]
            )
            parts += _section(f"{kind.title}: {len(found)}", table, len(found))
    if findings.unknown:
        table = _table((item.run, Text("left alone", "yellow"), item.because) for item in findings.left_alone[:SHOWN])
        parts += _section(f"Left alone: {findings.unknown}", table, findings.unknown)
    return Group(*parts, _verdict(findings, done))


def _section(title: str, table: Table, count: int) -> Iterator[RenderableType]:
    yield Text(title, "bold")
    yield Padding(table, (0, 0, 0 if count > SHOWN else 1, 2), expand=False)
    if count > SHOWN:
        yield Padding(Text(f"… and {count - SHOWN} more (--format json has them all)", "dim"), (0, 0, 1, 2))


def _table(rows: Iterator[tuple[RunRef, Text, str]] | Any) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for run, change, because in rows:
        named = Text.assemble(
            (printable(run.name or "unnamed"), "cyan"), f"  {printable(run.key, 500)}" if run.key else ""
        )
        table.add_row(
            Text(run.run_id[:8], "dim"),
            Text.assemble(named, "\n  ", change, "\n  ", (printable(because, 1_000), "dim")),
        )
    return table


def _change(finding: Finding, done: Repair | None, *, applied: bool) -> Text:
    if done is None:
        return Text(f"{finding.change}: not tried" if applied else finding.change)
    if done.error:
        return Text.assemble((f"not repaired: {done.error}", "bold red"))
    if not done.changed:
        return Text("nothing was left to do", "dim")
    return Text(finding.change, "green")


def _verdict(findings: Findings, done: Sequence[Repair] | None) -> Text:
    looked = f"{findings.looked_at} runs were looked at."
    if findings.looked_at and not findings.covered:
        looked += " None of them is tracklayer's and of what was asked for."
    if findings.unasked:
        runs = "1 run" if findings.unasked == 1 else f"{findings.unasked} runs"
        looked += f" An orchestrator could not be asked about {runs}."
    count = len(findings.found)
    more = " There is more: it stopped here." if findings.more else ""
    if not count and findings.unasked:
        return Text(f"{looked} Nothing else is to be done.", "bold red")
    if not count:
        return Text(f"{looked} There is nothing to do.", "bold green")
    if done is None:
        what = "1 thing" if count == 1 else f"{count} things"
        return Text(f"{looked} {what} to do, nothing was changed.{more} Say --apply to change it.", "bold yellow")
    changed = sum(item.changed for item in done)
    failed = sum(bool(item.error) for item in done)
    untried = count - len(done)
    told = f"{looked} {changed} changed" + (f", {failed} could not be repaired" if failed else "")
    told += f", {untried} not tried: the server could not be reached any more." if untried else "."
    return Text(told + more, "bold red" if failed or untried or findings.unasked else "bold green")


def _document(findings: Findings, done: Sequence[Repair] | None) -> dict[str, Any]:
    outcomes = {id(item.finding): item for item in done or ()}

    def told(finding: Finding) -> dict[str, Any]:
        outcome = outcomes.get(id(finding))
        return {
            "kind": finding.kind,
            **_run(finding.run),
            "change": finding.change,
            "because": finding.because,
            "details": dict(finding.details),
            "changed": outcome.changed if outcome else False,
            "error": outcome.error if outcome else None,
        }

    return {
        "schema": "tracklayer.reconcile/1",
        "applied": done is not None,
        "looked_at": findings.looked_at,
        "covered": findings.covered,
        "more": findings.more,
        "findings": [told(finding) for finding in findings.found],
        "left_alone": [{**_run(item.run), "because": item.because} for item in findings.left_alone],
        "unknown": findings.unknown,
        "unasked": findings.unasked,
    }


def _run(run: RunRef) -> dict[str, str | None]:
    return {"run_id": run.run_id, "experiment_id": run.experiment_id, "name": run.name, "key": run.key}
