"""What commands write to: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    import typer
    from rich.console import ConsoleOptions, RenderableType
    from rich.segment import Segment

_WIDE: Final = 160
"""Columns where standard output is no terminal: a file or a pipe has no edge at which lines would have to be broken."""

_STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What is no text: controls of a terminal, of the direction of writing, and halves of characters; not tab and newline."""

_REMEMBERED: Final = 10_000
"""Messages that are known to have been said."""

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def harmless(text: str) -> str:
    r"""The text without what steers a terminal; whatever it holds was named by somebody, somewhere.

    >>> harmless("a\x1b[31m\tred\n")
    'a?[31m\tred\n'
    """
    return _STEERING.sub("?", text)


def open_closed_streams() -> None:
    """Let the standard streams that whoever started us has closed lead nowhere.

    Else the next file that is opened, a journal's perhaps, takes the place of one, and gets what is meant for that.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is not None:
            continue
        descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if descriptor != number and not _is_open(number):
            os.dup2(descriptor, number)
            os.close(descriptor)
            descriptor = number
        setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", errors="backslashreplace"))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class _Console(Console):
    """Shows nothing that comes from outside and steers a terminal, whichever command shows it, and within what."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's: what it makes of something, piece by piece; what rich itself steers by are pieces of their own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors in {
        "strict",
        "surrogateescape",
    }:  # the latter in locale C
        stream.reconfigure(errors="replace")  # a locale that lacks a character is no reason to say nothing
    width = None if stream.isatty() or os.environ.get("COLUMNS") else _WIDE
    # Names from outside must never be taken for markup, emoji codes or things to highlight.
    return _Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


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
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # which JSON reads, too
        stream.write(text)
        stream.flush()

    def error(self, message: str) -> None:
        """Tell the user what went wrong."""
        self.say(Text.assemble(("Error: ", "bold red"), message))

    def say(self, message: str | Text) -> None:
        """Tell the user something that is no result: on one line where it goes to a file or a pipe, for whoever searches it."""
        self.err.print(message, soft_wrap=not self.err.is_terminal)


def of(context: typer.Context) -> Terminal:
    """The terminal of a command."""
    terminal = context.obj
    assert isinstance(terminal, Terminal)
    return terminal


class Once(logging.Filter):
    """Says each of tracklayer's warnings once, as long as it is entered: what is away is so for everybody who asks."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()
        self._log = logging.getLogger("tracklayer")

    def __enter__(self) -> Self:
        self._log.addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._log.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """False for what was said before."""
        message = record.getMessage()
        is_new = message not in self._said
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said.add(message)
        return is_new


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
        self._terminal.say(Text.assemble((f"{record.levelname.capitalize()}: ", style), record.getMessage()))
        if self._terminal.debug and record.exc_info:
            self._terminal.err.print(Text(logging.Formatter().formatException(record.exc_info)))
