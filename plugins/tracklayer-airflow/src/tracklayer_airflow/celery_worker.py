"""Celery workers: what is killed on their machines is ended there.

The scheduler hears of no task that dies on a worker which lives on: its supervisor tells the API server, and no listener
is called. So each worker has the process beside it that the scheduler has (`tracklayer_airflow.closing`). It delivers
what a killed task has left behind, while the DAG run goes on. And the worker imports what its tasks would each import.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracklayer_airflow.closer import Closer

log = logging.getLogger("tracklayer")


def prepare(argv: Sequence[str]) -> None:
    """Have that process started once a worker is ready, if this is one; anywhere else nothing is imported.

    Args:
        argv: how this process was called.
    """
    if list(argv[1:3]) != ["celery", "worker"]:
        return
    from celery.signals import worker_init, worker_ready

    worker_init.connect(_import_ahead, weak=False, dispatch_uid=f"{__name__}:ahead")
    worker_ready.connect(_begin, weak=False, dispatch_uid=__name__)


def _import_ahead(**_: Any) -> None:
    """Before the worker forks the processes that its tasks run in. Never raises, as `_begin`."""
    try:
        from tracklayer_airflow.switch import is_listening

        if is_listening():
            from tracklayer_airflow.ahead import import_ahead

            import_ahead()
    except Exception as error:
        log.warning("tracking: each task imports what it needs itself: %s", error)


def _begin(**_: Any) -> None:
    """Never raises: Celery would log it as its own."""
    try:
        from tracklayer_airflow.switch import is_listening

        if is_listening():
            _closer().begin()
    except Exception as error:
        log.warning("tracking: tasks that are killed here are ended with their DAG runs: %s", error)


@cache
def _closer() -> Closer:
    from tracklayer_airflow.closer import Closer

    return Closer()
