"""What commands write to: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    import typer

_WIDE: Final = 160
"""Columns where standard output is no terminal: a file or a pipe has no edge at which lines would have to be broken."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else _WIDE
    # Names from outside must never be taken for markup, emoji codes or things to highlight.
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


@dataclass
class Terminal:
    """Both streams, and whether the user asked for tracebacks.

    Attributes:
        debug: True if failures are to be shown with everything that is known about them.
        out: for results.
        err: for messages.
    """

    debug: bool = False
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))

    def write(self, text: str) -> None:
        """Write a result to the letter and in UTF-8, neither wrapped nor coloured (JSON, DOT, Mermaid)."""
        stream = self.out.file
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
        stream.write(text)
        stream.flush()

    def error(self, message: str) -> None:
        """Tell the user what went wrong."""
        self.err.print(Text.assemble(("Error: ", "bold red"), message))


def of(context: typer.Context) -> Terminal:
    """The terminal of a command."""
    terminal = context.obj
    assert isinstance(terminal, Terminal)
    return terminal


class _Ear(logging.Handler):
    """Gets tracklayer's log messages, alone, for as long as it is entered."""

    def __init__(self, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._log = logging.getLogger("tracklayer")
        self._before: tuple[list[logging.Handler], bool] = ([], True)

    def __enter__(self) -> Self:
        self._before = self._log.handlers, self._log.propagate
        self._log.handlers, self._log.propagate = [self], False
        return self

    def __exit__(self, *_: object) -> None:
        self._log.handlers, self._log.propagate = self._before


class Listener(_Ear):
    """Keeps tracklayer's warnings, and keeps them off the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: dict[str, None] = {}

    @property
    def messages(self) -> tuple[str, ...]:
        """What was said, each once."""
        return tuple(self._messages)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self._messages[record.getMessage()] = None


class Speaker(_Ear):
    """Shows tracklayer's warnings as lines on standard error."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Show one message, with its traceback if the user asked for those."""
        style = "bold red" if record.levelno >= logging.ERROR else "yellow"
        self._terminal.err.print(Text.assemble((f"{record.levelname.capitalize()}: ", style), record.getMessage()))
        if self._terminal.debug and record.exc_info:
            self._terminal.err.print(Text(logging.Formatter().formatException(record.exc_info)))
