"""A value that somebody set, turned into the type that is asked for, or into a message that helps."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from tracklayer.exceptions import SettingsError
from tracklayer.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_SEPARATOR: Final = re.compile(r"[,\r\n]")
_TABLE: Final = "a table"
_BOUNDS: Final = (("gt", "greater than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most"))


@dataclass(frozen=True, slots=True)
class Found:
    """One value that somebody set.

    Attributes:
        key: the setting's name, with a dot before a plugin's own (``airflow.connection``).
        value: as it was found.
        where: where it stands, as it reads in a message (``in /srv/tracklayer.toml``).
        is_text: whether it comes from a place that knows only text (the environment).
    """

    key: str
    value: object
    where: str
    is_text: bool = False

    @property
    def shown(self) -> str:
        """The value for a message: short, and never a secret."""
        masked = repr(Redaction().mask(self.key, self.value))
        return masked if len(masked) <= 80 else f"{masked[:79]}…"


def convert(found: Found, kind: Any) -> Any:
    """The value as `kind`, any type that msgspec knows.

    Text is read leniently: ``yes`` and ``on`` for booleans, ``a, b`` (or a line for each) for lists, JSON for tables.

    Raises:
        SettingsError: it is not of that type; the message names the key, where it stands, the value and what is allowed.
    """
    try:
        value = _from_text(str(found.value), kind) if found.is_text else found.value
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError):
        wanted = allowed(kind)
        # What was to be a table may hold secrets, and nobody knows where in a text that cannot be read.
        shown = found.shown if wanted != _TABLE or isinstance(found.value, dict) else "what it is"
        raise SettingsError(f"setting {found.key!r} {found.where} must be {wanted}, not {shown}") from None


def unknown(found: Found, known: Iterable[str]) -> str:
    """The message about a key that does not exist."""
    from difflib import get_close_matches

    known = list(known)
    near = get_close_matches(found.key.lower().replace("-", "_"), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    # A misspelt name of a secret is none that masking knows.
    masked = Redaction().mask(found.key, found.value)
    shown = Found(near[0] if near else found.key, masked, found.where).shown
    return f"unknown setting {found.key!r} {found.where} (value: {shown}){hint} allowed: {', '.join(known) or 'none'}"


def allowed(kind: Any) -> str:
    """What a value of `kind` may be, in words.

    >>> from typing import Literal
    >>> allowed(Literal["log", "raise"]), allowed(tuple[str, ...]), allowed(float | None)
    ("'log' or 'raise'", 'a list of text', 'a number')
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [
            f"{word} {getattr(meta, bound)}"
            for meta in arguments[1:]
            for bound, word in _BOUNDS
            if getattr(meta, bound, None) is not None
        ]
        return " ".join([allowed(arguments[0]), " and ".join(bounds)]).strip()
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(allowed(choice) for choice in arguments if choice is not type(None))
    if origin in {list, tuple, set, frozenset}:
        return f"a list of {allowed(arguments[0])}" if arguments else "a list"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(repr(choice.value) for choice in kind)
    return _NAMES.get(kind, _TABLE)


_NAMES: Final[dict[Any, str]] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _from_text(text: str, kind: Any) -> object:
    """Text as what msgspec converts to `kind`; the text itself where it does not look like that."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _from_text(text, arguments[0])
    if origin in {Union, types.UnionType}:
        choices = [choice for choice in arguments if choice is not type(None)]
        return text if str in choices else _from_text(text, choices[0])
    if kind is bool:
        return _WORDS.get(text.strip().lower(), text)
    if kind is int or kind is float:
        return kind(text)
    items = (arguments or (str,))[0] if (origin or kind) in {list, tuple, set, frozenset} else None
    if items is not None:
        return [_from_text(part.strip(), items) for part in _SEPARATOR.split(text) if part.strip()]
    is_table = (origin or kind) is dict or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))
    return msgspec.json.decode(text) if is_table else text
