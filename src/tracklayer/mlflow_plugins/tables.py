"""What ``mlflow.log_table`` stores: a table that it has read, with rows appended to it; perhaps not the whole of it.

While the server is away, MLflow is told of what is kept here, and reads that. What it stores then is in part what was
there, so it must not replace that: it is kept, and `tracklayer.journal.tables` appends to what is there the rows that
this call has brought.
"""

from __future__ import annotations

import threading

from tracklayer.mlflow_plugins.callers import LogTable, log_table
from tracklayer.singleton import singleton


class _Told(threading.local):
    """Of what a thread was told last."""

    in_part: bool = False


@singleton
def _told() -> _Told:
    return _Told()


def told(*, in_part: bool, owner: str | None = None) -> None:
    """The artifacts are listed. To be called for every list.

    Args:
        in_part: True if only what is known here is listed, which holds until the call of ``log_table`` is over: it asks
            more than once, and the server may come back meanwhile.
        owner: whose artifacts they are; models have lists of their own, which ``log_table`` asks for, too.
    """
    call = log_table()
    if call is None:
        return
    if in_part:
        _told().in_part = True
    elif call.begins and not (owner or "").startswith("m-"):
        _told().in_part = False


def being_logged() -> bool:
    """True inside of ``log_table``, where a table of which nothing is known may be begun."""
    return log_table() is not None


def in_part(path: str) -> bool:
    """True if what is stored at `path` just now is a table of which ``log_table`` may not have read everything."""
    return _told().in_part and rows_before(path) is not None


def rows_before(path: str) -> int | None:
    """How many rows of the table that is stored at `path` just now ``log_table`` has read; None if it stores no table there."""
    call: LogTable | None = log_table()
    return None if call is None or call.path != path else call.read
