"""``tracklayer doctor``: is everything as it should be, and if not, what to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tracklayer.cli import terminal as terminals
from tracklayer.cli.finding import problems, sections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from tracklayer.cli.finding import Finding

_MARKS = {"ok": ("ok", "green"), "info": ("", ""), "warning": ("note", "yellow"), "problem": ("FAIL", "bold red")}

EXAMPLES: Final = (
    "tracklayer doctor",
    "tracklayer doctor --tracking-uri https://mlflow.example.com",
    "tracklayer doctor --format json | jq '.findings[] | select(.level == \"problem\")'",
)


class Format(StrEnum):
    """How the findings are written."""

    TEXT = "text"
    JSON = "json"


def doctor(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.TEXT,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Look at this server, instead of that of the settings.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also settings that have their defaults, and the tags of a run.")
    ] = False,
) -> None:
    """Check the installation, the plugins, the settings and the server, and say what this place would be called.

    Run it where the pipeline runs (inside the container, with the same variables): then what it says is what a stage
    would meet. It changes nothing. Ends with exit code 1 if something is wrong.
    """
    from tracklayer.cli.examination import examine

    terminal = terminals.of(context)
    findings = examine(tracking_uri)
    wrong = problems(findings)
    if form is Format.JSON:
        told = {"schema": "tracklayer.doctor/1", "ok": not wrong, "findings": [asdict(finding) for finding in findings]}
        terminal.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    else:
        terminal.out.print(_page(sections(findings, details=verbose), wrong))
    if wrong:
        raise typer.Exit(1)


def _page(sections: dict[str, list[Finding]], wrong: int) -> RenderableType:
    parts: list[RenderableType] = []
    for title, findings in sections.items():
        parts += [Text(title, "bold"), Padding(_table(findings), (0, 0, 1, 2), expand=False)]
    notes = sum(finding.level == "warning" for findings in sections.values() for finding in findings)
    if wrong:
        verdict = Text(f"{wrong} problem{'s' if wrong > 1 else ''} found.", "bold red")
    elif notes:
        verdict = Text(
            f"Nothing is in the way of tracking, but see the note{'s' if notes > 1 else ''} above.", "bold yellow"
        )
    else:
        verdict = Text("Everything is as it should be.", "bold green")
    return Group(*parts, verdict)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=4)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        text = Text(finding.text, "" if finding.level != "problem" else "red")
        if finding.advice:
            text.append(f"\n→ {finding.advice}", "bold" if finding.level == "problem" else "dim")
        table.add_row(Text(mark, style), Text(finding.name, "cyan"), text)
    return table
