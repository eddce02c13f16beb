"""Lengths of time on the command line: ``90s``, ``5m``, ``12h``, ``7d``."""

from __future__ import annotations

import re
from typing import Final

import typer

_FORM: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

SHORTEST: Final = 0.1
"""Least pause between two rounds, in seconds: none at all would ask the server without end."""

LONGEST: Final = 100 * 365 * 86_400.0
"""Longest time that is taken for one, in seconds; far longer ones no clock of the system can wait for."""


def seconds(text: str, option: str) -> float:
    """A length of time, in seconds; a number alone is seconds.

    >>> seconds("5m", "--interval")
    300.0

    Args:
        text: the length.
        option: what it was given to, for the message.

    Raises:
        typer.BadParameter: it is none, or longer than `LONGEST`.
    """
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        raise wrong(f"{text!r} is no length of time: a number with s, m, h, d or w, as 90s, 12h or 7d", option)
    length = float(found[1]) * _SECONDS[found[2]]
    if length > LONGEST:
        raise wrong(f"{text!r} is too long: a hundred years is the most", option)
    return length


def pause(text: str, option: str = "--interval") -> float:
    """The pause between two rounds of a command that watches, in seconds.

    Args:
        text: how long it is.
        option: what it was given to, for the message.

    Raises:
        typer.BadParameter: it is no length of time, or shorter than `SHORTEST`.
    """
    length = seconds(text, option)
    if length < SHORTEST:
        raise wrong(f"{text!r} is too short for the pause between two rounds: at least {SHORTEST} s", option)
    return length


def wrong(why: str, option: str) -> typer.BadParameter:
    """The error about a value that an option was given, which names the option."""
    return typer.BadParameter(why, param_hint=f"'{option}'")
