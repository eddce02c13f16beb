"""``tracklayer journal``: what was logged on this machine, and whether it is delivered."""

from __future__ import annotations

import contextlib
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from tracklayer.cli import operation
from tracklayer.cli import terminal as terminals
from tracklayer.cli.tracking import read_settings
from tracklayer.exceptions import NotFound
from tracklayer.lineage.label import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tracklayer.cli.terminal import Terminal
    from tracklayer.journal.folder import JournalFolder
    from tracklayer.journal.inspection import JournalInfo
    from tracklayer.journal.record import Damage

HELP: Final = """What was logged on this machine, and whether it is delivered.

These commands only look, also at the journals of processes that live; `tracklayer flush` delivers."""

EXAMPLES: Final[Mapping[str, Sequence[str]]] = {
    "journal": ("tracklayer journal ls", "tracklayer journal show 20261121T06", "tracklayer journal verify"),
    "ls": (
        "tracklayer journal ls",
        "tracklayer journal ls --folder /mnt/volume/tracklayer/journal",
        "tracklayer journal ls --format json | jq '.journals[] | select(.left > 0) | .name'",
    ),
    "show": (
        "tracklayer journal show 20261121T06",
        "tracklayer journal show 20261121T06 --left",
        "tracklayer journal show 20261121T06 --format json | jq 'select(.operation == \"log\") | .params'",
    ),
    "verify": ("tracklayer journal verify", "tracklayer journal verify 20261121T06 --format json | jq .ok"),
}
"""Examples of the group and of each command."""

_STYLES: Final = {"live": "green", "left": "yellow", "damaged": "bold red", "delivered": "dim"}


_WIDE: Final = 120
"""Columns from which on a journal's name stays on one line, which it needs to be copied: it takes more than fifty."""


class Format(StrEnum):
    """How it is written."""

    TEXT = "text"
    JSON = "json"


Form = Annotated[Format, typer.Option("--format", "-f", help="How to write it.")]
Where = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        help="Look at the journals in this folder, instead of where the settings say.",
        readable=False,  # one that is not is told of as any other is
    ),
]
Which = "A journal's name or how it begins, or the path of its folder."


def group(described: Callable[[str, Sequence[str]], str]) -> typer.Typer:
    """The group of commands.

    Args:
        described: makes a help text of a text and examples.
    """
    made = typer.Typer(name="journal", help=described(HELP, EXAMPLES["journal"]), no_args_is_help=True)
    for command in (ls, show, verify):
        made.command(help=described(command.__doc__ or "", EXAMPLES[command.__name__]))(command)
    return made


def ls(context: typer.Context, form: Form = Format.TEXT, folder: Where = None) -> None:
    """List the journals: whose they are, whether their process lives, and what is left to deliver."""
    from tracklayer.journal.folder import missing

    terminal = terminals.of(context)
    folders = _folders(folder)
    troubles = _troubles(folder, folders)
    infos = [info for each in folders for info in each.journals()]
    if form is Format.JSON:
        told = {
            "schema": "tracklayer.journals/1",
            "folders": [str(each.path) for each in folders],
            "journals": [_document(info) for info in infos],
        }
        terminal.write(json.dumps(told, indent=2) + "\n")
    elif infos:
        terminal.out.print(_table(infos, terminal.out.width))
    elif not troubles:
        where = " in that folder." if folder else ": everything that was logged here is delivered."
        terminal.out.print(Text(f"No journals{where}"))
    for each in folders if form is Format.TEXT else ():
        terminal.err.print(Text(f"In {each.path}", "dim"))
        if others := each.others():
            terminal.err.print(
                Text(
                    f"{others} {'journal of another user is' if others == 1 else 'journals of other users are'} passed over.",
                    "yellow",
                )
            )
    if folder is None and (wanted := missing(read_settings())) is not None:
        terminal.say(
            f"There is no folder {wanted}, where journals are by the setting journal: nothing was logged to it yet"
        )
    for why in troubles:
        terminal.error(why)
    if troubles:
        raise typer.Exit(1)


def show(
    context: typer.Context,
    journal: Annotated[str, typer.Argument(metavar="JOURNAL", help=Which, show_default=False)],
    form: Form = Format.TEXT,
    folder: Where = None,
    left: Annotated[bool, typer.Option("--left", help="Only what is left to deliver.")] = False,
    run: Annotated[
        str | None, typer.Option("--run", help="Only what is about this run or model, by its id or how that begins.")
    ] = None,
) -> None:
    """Show what was logged, operation by operation, in the order in which it was.

    In JSON each operation is an object on a line of its own. Secrets were masked before anything was written.
    """
    from tracklayer.journal.inspection import followed
    from tracklayer.journal.operations import Header
    from tracklayer.journal.progress import Progress
    from tracklayer.journal.record import Record

    terminal = terminals.of(context)
    path = _find(journal, _folders(folder))
    progress = Progress(path, writable=False)
    headed = False
    for item in followed(path):
        if not isinstance(item, Record):
            _show_damage(terminal, item, form)
            continue
        delivered = not progress.is_left(item)
        if isinstance(item.operation, Header):
            if headed:
                continue
            headed = True
        elif (left and delivered) or (run and not operation.is_about(item, run)):
            continue
        if form is Format.JSON:
            terminal.write(json.dumps(operation.plain(item, delivered=delivered)) + "\n")
        else:
            terminal.out.print(operation.line(item, delivered=delivered), soft_wrap=True)


def verify(
    context: typer.Context,
    journal: Annotated[
        str | None, typer.Argument(metavar="JOURNAL", help=f"{Which} Without it: all of them.", show_default=False)
    ] = None,
    form: Form = Format.TEXT,
    folder: Where = None,
) -> None:
    """Read every byte and say what cannot be read, where, and why.

    A tail that is torn off is no damage: a process was killed, or the machine lost power, in the middle of a write,
    and nothing of it had been acknowledged. Ends with exit code 1 if a journal is damaged, or a copy of an artifact
    that is not delivered is missing.
    """
    from tracklayer.journal.inspection import inspect

    terminal = terminals.of(context)
    folders = _folders(folder)
    paths = [_find(journal, folders)] if journal else [path for each in folders for path in each.paths()]
    infos = [info for path in paths if (info := inspect(path)) is not None]
    troubles = [] if journal else _troubles(folder, folders)
    for why in troubles:
        terminal.error(why)
    ok = all(info.sound for info in infos) and not troubles
    if form is Format.JSON:
        told = {
            "schema": "tracklayer.journal-verification/1",
            "ok": ok,
            "journals": [{**_document(info), "ok": info.sound} for info in infos],
        }
        terminal.write(json.dumps(told, indent=2) + "\n")
    else:
        for info in infos:
            for line in _verdict(info):
                terminal.out.print(line, soft_wrap=True)
        if not infos and not troubles:
            terminal.out.print(Text("No journals."))
    if not ok:
        raise typer.Exit(1)


def _folders(folder: Path | None) -> list[JournalFolder]:
    from tracklayer.journal.folder import JournalFolder, absolute, is_folder, no_folder

    if folder is None:
        return JournalFolder.every(read_settings())
    folder = absolute(folder)
    if not is_folder(folder):
        raise NotFound(no_folder(folder))
    named = JournalFolder(folder)
    if not named.trouble and any(folder.glob("*.seg")):
        raise NotFound(f"{folder} is a journal, not a folder of journals: that is {folder.parent}")
    return [named]


def _troubles(folder: Path | None, folders: Sequence[JournalFolder]) -> list[str]:
    """Why nobody can say which journals there are; empty if all of them were found."""
    from tracklayer.journal.folder import AS_WHOM, misplaced

    troubles = [f"{why}; {AS_WHOM}" for each in folders if (why := each.trouble)]
    if folder is None and (why := misplaced(read_settings())):
        troubles.append(f"{why}, and journals are there by the setting journal: correct it")
    return troubles


def _find(name: str, folders: Sequence[JournalFolder]) -> Path:
    """The journal that is meant. Raises NotFound."""
    from tracklayer.journal.folder import AS_WHOM
    from tracklayer.journal.segments import load

    if "/" in name or name.startswith("."):
        path = Path(name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                if load(path):
                    return path
            except PermissionError as error:
                if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises where this says False
                    return path
                raise NotFound(f"{name} cannot be read: {error.strerror}; {AS_WHOM}") from None
        raise NotFound(f"there is no journal in {name}")
    paths = [path for each in folders for path in each.paths() if path.name.startswith(name)]
    exact = [path for path in paths if path.name == name]
    if len(found := exact or paths) == 1:
        return found[0]
    if found:
        raise NotFound(f"{len(found)} journals begin with {name!r}: {', '.join(path.name for path in found[:10])}")
    where = ", ".join(str(each.path) for each in folders) or "the journal folder: there is none yet"
    raise NotFound(f"there is no journal {name!r} in {where}")


def _table(infos: Sequence[JournalInfo], width: int) -> Table:
    """The list. In a narrow terminal whatever does not fit goes on in the next line: half an address is none."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("journal", style="bold", no_wrap=width >= _WIDE, overflow="fold")
    for name in ("state", "server", "left to deliver", "refused", "size", "last written"):
        table.add_column(name, justify="right" if name in {"refused", "size"} else "left", overflow="fold")
    for info in infos:
        table.add_row(
            Text(printable(info.name)),
            Text(info.state, _STYLES[info.state]),
            Text(printable(info.header.tracking_uri) if info.header else "unknown"),
            Text(_left(info)),
            Text(str(info.refused), "red" if info.refused else "dim"),
            Text(_size(info.size)),
            Text(operation.moment(info.newest)),
        )
    return table


def _left(info: JournalInfo) -> str:
    if not info.left and info.state == "left":
        return "the end of its runs"  # its process died before it could say that all is done
    if not info.left:
        return "nothing"
    counts = ((info.left, "operation"), (info.files, "file"))
    return ", ".join(f"{count:,} {what}{'s' if count > 1 else ''}" for count, what in counts if count)


def _document(info: JournalInfo) -> dict[str, Any]:
    import msgspec

    told: dict[str, Any] = {name: getattr(info, name) for name in info.__slots__}
    header = info.header
    told["path"] = str(info.path)
    told["header"] = None if header is None else msgspec.structs.asdict(header)
    told["tracking_uri"] = None if header is None else header.tracking_uri
    told["damages"] = [damage._asdict() for damage in info.damages]
    told["missing"] = list(info.missing)
    return told


def _verdict(info: JournalInfo) -> Iterator[Text]:
    style = "green" if info.sound else "bold red"
    told = "whole" if info.sound else "CANNOT BE READ" if info.forbidden else "DAMAGED"
    yield Text.assemble(
        (f"{printable(info.name)}: ", "bold"), (told, style), f", {info.records:,} operations, {_size(info.size)}"
    )
    for damage in info.damages:
        yield _damage(damage)
    if info.forbidden:
        yield Text("  let this user read it, or run this as the user of the pipelines: it may be whole", "red")
    elif info.header is None and info.state != "live" and not any(damage.errno for damage in info.damages):
        yield Text(
            "  it does not say for which server it is, and cannot be delivered: remove it, if you do not want it", "red"
        )
    for name in info.missing:
        yield Text(f"  the copy of the artifact {printable(name)} is missing", "red")


def _damage(damage: Damage) -> Text:
    what, style = ("torn tail", "yellow") if damage.torn else ("cannot be read", "red")
    size = damage.next - damage.position
    return Text(f"  {what} from position {damage.position} on, {size} bytes: {printable(damage.why)}", style)


def _show_damage(terminal: Terminal, damage: Damage, form: Format) -> None:
    if form is Format.JSON:
        terminal.write(json.dumps({"operation": None, **damage._asdict()}) + "\n")
    else:
        terminal.out.print(_damage(damage), soft_wrap=True)


def _size(size: int) -> str:
    """A number of bytes, short.

    >>> _size(999), _size(1_500_000)
    ('999 B', '1.5 MB')
    """
    amount, units = float(size), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while amount >= 1000 and unit != "TB":
        amount, unit = amount / 1000, next(units)
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
