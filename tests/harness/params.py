"""Params as tests encode them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from tracklayer.params import EncodedParams, encode
from tracklayer.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Mapping


def encoded(params: Mapping[str, object], *patterns: str) -> EncodedParams:
    """What is sent of params; `patterns` are names of secrets."""
    return encode(params, redact=Redaction(patterns))


def shown(value: object) -> str:
    """The text of one value."""
    (text,) = encoded({"x": value}).params.values()
    return text


class Color(enum.Enum):
    """Values and keys that are members of an enum."""

    RED = "red"
    BOTH = ("red", "blue")
