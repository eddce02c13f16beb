"""Telling tracklayer's own calls of the mlflow library from the user's.

Both go to the same store, before which `tracklayer.mlflow_plugins` stands: what user code logs goes from there into the
journal, what the journal's sender sends goes on to MLflow.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWN: ContextVar[bool] = ContextVar("tracklayer_own_call", default=False)

is_own_call = _OWN.get
"""True where tracklayer itself calls the mlflow library. It is asked at each of the user's calls: no frame for it."""


@contextmanager
def own_call() -> Iterator[None]:
    """Mark what is called in the block, in this thread, as tracklayer's own.

    >>> with own_call():
    ...     is_own_call()
    True
    >>> is_own_call()
    False
    """
    token = _OWN.set(True)
    try:
        yield
    finally:
        _OWN.reset(token)
