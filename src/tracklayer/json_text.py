"""JSON that somebody else wrote: a tag, an answer, a token, a file."""

from __future__ import annotations

import json
from typing import Any


def decoded(text: str | bytes | bytearray) -> Any:
    """The value that the text stands for.

    Raises:
        ValueError: it is not JSON, or lists and tables are within each other deeper than Python reads them.

    >>> decoded('{"a": [1]}')
    {'a': [1]}
    >>> decoded("[" * 100_000)
    Traceback (most recent call last):
    ValueError: it is nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        # Python's own error for it is no ValueError, so whoever expects what cannot be read would not expect this.
        raise ValueError("it is nested too deeply") from None
