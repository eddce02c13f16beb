"""``tracklayer plugins``: which plugins there are, and whether they work."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from tracklayer import registry
from tracklayer.cli import terminal as terminals
from tracklayer.cli.terminal import Listener
from tracklayer.cli.tracking import read_settings
from tracklayer.lineage.label import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracklayer.registry import PluginInfo
    from tracklayer.settings import Settings

EXAMPLES: Final = (
    "tracklayer plugins",
    "tracklayer plugins --format json | jq -r '.[].name'",
)


class Format(StrEnum):
    """How the list is written."""

    TEXT = "text"
    JSON = "json"


def plugins(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.TEXT,
) -> None:
    """List the plugins, with their versions and the hooks that they implement.

    Ends with exit code 1 if one of them is broken.
    """
    terminal = terminals.of(context)
    settings = read_settings()
    infos = installed_plugins(settings)
    if form is Format.JSON:
        terminal.write(json.dumps([asdict(info) for info in infos], indent=2) + "\n")
    elif infos:
        terminal.out.print(_table(infos))
    else:
        terminal.out.print(
            Text("No plugins. Install one, for instance tracklayer-airflow, or name yours in the setting plugins.")
        )
    for name in unknown_names(settings, infos):
        terminal.say(f"disabled_plugins names {printable(name)}, and no plugin here is called so")
    if any(info.error for info in infos):
        raise typer.Exit(1)


def installed_plugins(settings: Settings) -> Sequence[PluginInfo]:
    """What the registry found, without its warnings: they stand in the list."""
    with Listener():
        return registry.installed(settings)


def unknown_names(settings: Settings, infos: Sequence[PluginInfo]) -> list[str]:
    """What ``disabled_plugins`` names and is not here: a plugin of another machine's, or a slip."""
    return sorted(set(settings.disabled_plugins).difference(info.name for info in infos))


def _table(infos: Sequence[PluginInfo]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("plugin", style="bold", no_wrap=True)
    table.add_column("from")
    table.add_column("hooks", overflow="fold")
    for info in infos:
        table.add_row(Text(printable(info.name)), Text(origin(info)), hooks(info))
    return table


def origin(info: PluginInfo) -> str:
    """The distribution that brings a plugin, or that the settings name it."""
    return printable(f"{info.distribution} {info.version}") if info.distribution else "settings"


def hooks(info: PluginInfo) -> Text:
    """Its hooks without their common prefix, or why it has none."""
    if info.error:
        return Text(printable(info.error, 1_000), "red")
    if info.disabled:
        return Text("disabled by the setting disabled_plugins", "dim")
    return Text(
        ", ".join(name.removeprefix("tracklayer_") for name in info.hooks) or "none", "" if info.hooks else "yellow"
    )
