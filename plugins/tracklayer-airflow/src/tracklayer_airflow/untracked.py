"""One try of a tracked operator's task where tracking is off: its work, and nothing of tracklayer's core."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from tracklayer_airflow.links import without_links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracklayer_airflow.operators import Tracked

log = logging.getLogger("tracklayer")

VARIABLE: Final = "TRACKLAYER_UNTRACKED"
"""With the id of this process in it, user code that asks core for its run gets one that does nothing, and not None:
core has this name too (`tracklayer.untracked`), and is imported by nobody but that code."""


def run_untracked(operator: Tracked, work: Callable[[], Any], *, on: bool) -> Any:
    """Do `work`, and return what it returns.

    Args:
        operator: the operator, of which no empty link is to be stored.
        work: what it does.
        on: True if it is tracked but for the address of a server; nobody is told of what was switched off on purpose.

    Raises:
        BaseException: whatever `work` raises, unchanged.
    """
    if on:
        _say_that_nothing_names_a_server()
    try:
        without_links(operator)
    except Exception:
        log.warning("tracking: the task's page has links that lead nowhere", exc_info=True)
    with _told():
        return work()


@contextmanager
def _told() -> Iterator[None]:
    before, os.environ[VARIABLE] = os.environ.get(VARIABLE), str(os.getpid())
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


@cache
def _say_that_nothing_names_a_server() -> None:
    log.warning(
        "tracking is off because there is no tracking URI: set MLFLOW_TRACKING_URI or TRACKLAYER_TRACKING_URI, tracking_uri "
        "in tracklayer.toml, or mlflow_conn_id in the section [tracklayer] of Airflow's configuration, where enabled = "
        "False turns it off on purpose"
    )
