"""What a signal handler of the pipeline's raises: a time-out, a soft limit, the order to end. It is never ours to keep.

Python runs a handler wherever the main thread is, which may be in the middle of tracklayer's own code. Whatever keeps
failures of tracking from the pipeline would swallow such an exception, and the time-out with it: it strikes once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType


def is_interruption(error: BaseException) -> bool:
    """Whether a signal handler raised this. It is told by how Python calls one: with the frame that it interrupts.

    Args:
        error: as it was caught.
    """
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_back is not None and _holds(frame.f_locals.values(), frame.f_back):
            return True
        trace = trace.tb_next
    return False


def let_through(error: BaseException) -> None:
    """Raise it again if a signal handler raised it; called where it is caught."""
    if is_interruption(error):
        raise error


def _holds(values: Iterable[object], frame: FrameType) -> bool:
    """Whether a frame is among the values, or among the arguments that were taken as ``*args``."""
    return any(value is frame or (type(value) is tuple and any(item is frame for item in value)) for value in values)
