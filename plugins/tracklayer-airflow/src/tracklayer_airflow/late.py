"""Links of a run to what feeds it, where Airflow could not be asked for that while the run was opened."""

from __future__ import annotations

import threading
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from tracklayer_airflow.supervisor import put_off

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.stage import StageRun


class _Owing(threading.local):
    """Whether links are owed to the run that this thread opens; plugins are asked and told of a run in one thread."""

    links = False


@lru_cache(maxsize=1)
def _owing() -> _Owing:
    return _Owing()


def owe_links() -> None:
    """The run that is about to be opened in this thread does not learn now what feeds it."""
    _owing().links = True


def link(task: Mapping[str, Any]) -> None:
    """Have the run that was just opened linked at the end of the task, if links are owed to it; its block is left by then.

    Args:
        task: Airflow's task context.
    """
    owing = _owing()
    if not owing.links:
        return
    owing.links = False
    from tracklayer.current import run_being_opened

    run = run_being_opened()
    if run is not None:
        put_off(task["ti"], partial(_link, run, task))


def _link(run: StageRun, task: Mapping[str, Any]) -> None:
    from tracklayer_airflow import place

    for upstream in place.upstream_of(task):
        run.link(upstream)
