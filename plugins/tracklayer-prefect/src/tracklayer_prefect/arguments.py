"""What is told about the arguments of flows and tasks: plain values as they are, data objects by type and shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from tracklayer_prefect.carrier import TOKEN_PARAMETER

LONGEST: Final = 10_000
"""Longest text that is told whole, in characters."""

WIDEST: Final = 50
"""Most items of a collection that are told."""

MOST: Final = 200
"""So many single values are told of one argument."""

DEEPEST: Final = 5

_PLAIN = (bool, int, float, complex, Decimal, date, time, timedelta, UUID, PurePath)


def told(parameters: Mapping[str, Any] | None, *, handed_over: Collection[str] = ()) -> dict[str, object]:
    """Parameters as they are worth a param in MLflow.

    A model, a table or an array is told by its type and shape (``DataFrame(1000, 12)``); looking at it costs nothing
    and copies nothing. The token parameter is left out: it becomes a link.

    Args:
        parameters: names and values.
        handed_over: names of those that another task made: data rather than configuration. Of such only plain
            values and shapes are told.

    >>> told({"lr": 0.1, "model": {"depth": 3}, "rows": list(range(1000)), "tracklayer_token": "tl1.x"})
    {'lr': 0.1, 'model': {'depth': 3}, 'rows': 'list of 1000 items'}
    >>> told({"lr": 0.1, "prepared": {"path": "a.parquet", "rows": 7}}, handed_over={"prepared"})
    {'lr': 0.1}
    """
    return {
        name: _told(value, 0, [MOST])
        for name, value in (parameters or {}).items()
        if name != TOKEN_PARAMETER and (name not in handed_over or _is_plain(value) or _shape(value))
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (*_PLAIN, str))


def _told(value: Any, depth: int, room: list[int]) -> object:
    """`value` as it is told; `room` holds how many single values may still be told, and is counted down."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"str of {len(value)} characters"
    if _is_secret(value):
        return value  # masked before it leaves the process, by its type
    collection = isinstance(value, (Mapping, list, tuple, set, frozenset))
    parts = value if collection else dict(islice(_fields(value), WIDEST + 1))
    room[0] -= len(parts)
    if len(parts) > WIDEST or depth >= DEEPEST or room[0] < 0:
        return f"{type(value).__name__} of {len(parts)} items" if collection else _summary(value)
    if isinstance(parts, Mapping) and (parts or collection):
        return {str(name): _told(item, depth + 1, room) for name, item in parts.items()}
    return [_told(item, depth + 1, room) for item in parts] if collection else _summary(value)


def _is_secret(value: object) -> bool:
    return hasattr(type(value), "get_secret_value")


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Fields of a dataclass or pydantic model; nothing for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.repr:
                yield field.name, getattr(value, field.name, None)
    elif isinstance(getattr(type(value), "model_fields", None), Mapping):
        for name in type(value).model_fields:
            yield name, getattr(value, name, None)


def _summary(value: object) -> str:
    name = type(value).__qualname__
    if shape := _shape(value):
        return f"{name}({shape})"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{name} of {len(value)} bytes"
    return name if isinstance(value, type) is False else f"type {value!r}"


def _shape(value: object) -> str | None:
    """The sizes of a table or array, None for what has none."""
    shape = None if isinstance(value, type) else getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape and all(isinstance(size, int) for size in shape):
        return ", ".join(str(size) for size in shape)
    return None
