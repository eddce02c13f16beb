"""The application: core's commands and those that plugins add, and how failures are told."""

from __future__ import annotations

import errno
import inspect
import logging
import traceback
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

import tracklayer
from tracklayer import dispatch, registry, settings
from tracklayer.cli import doctor, flush, journal, lineage, plugins, reconcile
from tracklayer.cli.terminal import Listener, Speaker, Terminal, of, open_closed_streams
from tracklayer.exceptions import TracklayerError

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP: Final = "Pipelines of Airflow, Prefect and Kubeflow as one linked story in MLflow."

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a standard stream says whose disk takes no more."""

EXAMPLES: Final = (
    "tracklayer doctor",
    "tracklayer lineage models:/flights@champion",
    "tracklayer plugins --format json",
)


def run(arguments: Sequence[str]) -> None:
    """Run the command line and exit."""
    open_closed_streams()
    # Whoever meets a failure adds --debug at the end of the line that they just typed, so it may stand anywhere.
    terminal = Terminal(debug="--debug" in arguments)
    arguments = [argument for argument in arguments if argument != "--debug"]
    for noisy in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        with Speaker(terminal):
            application()(args=arguments, obj=terminal, prog_name="tracklayer")
    except TracklayerError as error:
        terminal.error(str(error))
        _show_traceback(terminal)
        raise SystemExit(1) from None
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL and error.filename is None
        terminal.error(f"the output cannot be written: {error}" if full else f"{type(error).__name__}: {error}")
        if not terminal.debug and not full:
            terminal.err.print(Text("This should not have happened. The same command with --debug says where it did."))
        _show_traceback(terminal)
        raise SystemExit(1) from None


def application() -> typer.Typer:
    """The typer application, with the commands of every plugin that works."""
    app = typer.Typer(
        help=_help(HELP, EXAMPLES),
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for module, command in (
        (doctor, doctor.doctor),
        (plugins, plugins.plugins),
        (lineage, lineage.lineage),
        (flush, flush.flush),
        (reconcile, reconcile.reconcile),
    ):
        app.command(help=_help(inspect.getdoc(command) or "", module.EXAMPLES))(command)
    app.add_typer(journal.group(_help))
    for group in _of_plugins():
        app.add_typer(group)
    return app


def _help(text: str, examples: Sequence[str]) -> str:
    """A help text with its examples: paragraphs are wrapped to the terminal, the lines behind a backspace are not."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join([*paragraphs, "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)])


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tracklayer {tracklayer.__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and details of failures.")] = False,
) -> None:
    del version
    terminal = of(context)
    terminal.debug = terminal.debug or debug


def _of_plugins() -> list[typer.Typer]:
    """Command groups of plugins. A plugin that is broken is passed over here: `plugins` and `doctor` say why."""
    with Listener() as listener:
        try:
            found = dispatch.commands(registry.load(settings.load({"on_error": "log"})))
        except TracklayerError:  # wrong settings: whichever command needs them says so, and --help works
            return []
    named = [group for group in found if isinstance(group.info.name, str)]
    for message in listener.messages:
        if "tracklayer_commands" in message:
            logging.getLogger("tracklayer").warning(message)
    if len(named) < len(found):
        logging.getLogger("tracklayer").warning(
            "%d command groups of plugins are left out: each must be a typer.Typer(name=…)", len(found) - len(named)
        )
    return named


def _show_traceback(terminal: Terminal) -> None:
    if terminal.debug:
        terminal.err.print(Text(traceback.format_exc()))
