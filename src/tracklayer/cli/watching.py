"""Commands that do their work again and again (``--watch``), until somebody tells them to stop."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from tracklayer.journal.bell import Latch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

STOPPING: Final = (signal.SIGINT, signal.SIGTERM)
"""By these one is told to stop: by whoever sits there, and by systemd or a container's runtime."""


def repeated(once: Callable[[Latch], T], pause: float) -> T:
    """Do something in rounds, until SIGINT or SIGTERM comes: then the round that is under way is the last one.

    Told a second time, the process ends as it would have without this: in the middle of a round, if need be.

    Args:
        once: one round. It is given what is open as soon as it is the last one: it may come to an end before all is
            done.
        pause: seconds between two of them.

    Returns:
        What the last round has returned.
    """
    with _stopped_by_signals() as stop:
        while True:
            outcome = once(stop)
            if stop.wait(pause):
                return outcome


@contextmanager
def in_order_when_terminated() -> Iterator[None]:
    """Let SIGTERM end the process as Ctrl-C does, with everything undone that has to be; else it ends where it is."""

    def handle(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def _stopped_by_signals() -> Iterator[Latch]:
    stop = Latch()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's

    def handle(*_: object) -> None:
        stop.open()
        restore()

    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
