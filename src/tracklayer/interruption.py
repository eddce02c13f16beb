"""What a signal handler of the pipeline's raises: a time-out, a soft limit, the order to end. It is never ours to keep.

Python runs a handler wherever the main thread is, which may be in the middle of tracklayer's own code. Whatever keeps
failures of tracking from the pipeline would swallow such an exception, and the time-out with it: it strikes once.
"""

from __future__ import annotations

from inspect import CO_VARARGS
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def is_interruption(error: BaseException) -> bool:
    """Whether a signal handler raised this. It is told by how Python calls one: with a number and the frame that it interrupts.

    Args:
        error: as it was caught.
    """
    trace = error.__traceback__
    while trace is not None:
        if _is_handler(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def let_through(error: BaseException) -> None:
    """Raise it again if a signal handler raised it; called where it is caught."""
    if is_interruption(error):
        raise error


def _is_handler(frame: FrameType) -> bool:
    """Whether its arguments are those of a handler, behind others perhaps: code that looks at its callers has frames, too."""
    code, interrupted = frame.f_code, frame.f_back
    if interrupted is None:
        return False
    named = code.co_argcount + code.co_kwonlyargcount
    told = [frame.f_locals.get(name) for name in code.co_varnames[:named]]
    if code.co_flags & CO_VARARGS:
        more = frame.f_locals.get(code.co_varnames[named], ())
        told += more if type(more) is tuple else ()
    return any(value is interrupted and isinstance(number, int) for number, value in pairwise(told))
