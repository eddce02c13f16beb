"""Lengths of time on the command line: ``90s``, ``5m``, ``12h``, ``7d``."""

from __future__ import annotations

import re
from typing import Final

import typer

_FORM: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> float:
    """A length of time, in seconds; a number alone is seconds.

    >>> seconds("5m")
    300.0

    Raises:
        typer.BadParameter: it is none.
    """
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time: a number with s, m, h, d or w, as 90s, 12h or 7d")
    return float(found[1]) * _SECONDS[found[2]]
