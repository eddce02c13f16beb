"""Objects of which a process has one, made when the first asks for it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def singleton(make: Callable[[], T]) -> Callable[[], T]:
    """Give everybody in the process the same object, also threads that ask for it first at the same moment.

    `functools.lru_cache` gives such threads an object each, and what the one writes into its own is lost. A fork has a
    copy of the object, as of everything.

    Args:
        make: makes the object; two threads may both call it, and then one of the results is thrown away unused.

    >>> @singleton
    ... def names() -> list[str]:
    ...     return []
    >>> names().append("training")
    >>> names()
    ['training']
    """
    made: dict[None, T] = {}

    @functools.wraps(make)
    def the_one() -> T:
        try:
            return made[None]
        except KeyError:
            return made.setdefault(None, make())  # one step of the interpreter: no lock, over which a fork could hang

    return the_one
