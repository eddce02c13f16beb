"""No fork in the middle of what a thread of ours imports.

A forked child has its parent's modules, and of its threads only the one that forked: what another was importing at that
moment stays half a module in the child, whatever is asked of it. Where a thread of ours imports, a fork waits for it.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 10.0
"""Seconds for which a fork waits. It would be for ever if the thread that forks were importing what ours waits for."""


@contextmanager
def importing() -> Iterator[None]:
    """While this is entered no other thread forks the process; for imports only, which end by themselves."""
    gate = _gate()
    with gate.lock:
        yield


class _Gate:
    """What whoever imports holds, and whoever forks."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.held = False  # only read and written by the thread that forks, which has the lock then

    def shut(self) -> None:
        self.held = self.lock.acquire(timeout=PATIENCE)

    def open(self) -> None:
        if self.held:
            self.held = False
            self.lock.release()

    def replace(self) -> None:
        """In the child, where nobody is left who would release it."""
        self.held = False
        self.lock = threading.RLock()


@lru_cache(maxsize=1)
def _gate() -> _Gate:
    gate = _Gate()
    os.register_at_fork(before=gate.shut, after_in_parent=gate.open, after_in_child=gate.replace)
    return gate
