"""Processes that multiprocessing starts inside a stage: how they get to know its run, and when they end.

A *forked* worker has its parent's memory, and the stage with it. One that is *spawned*, or comes from a fork server,
knows nothing of it. Two things reach it: the environment, and what each `multiprocessing.Process` inherits from the
process that makes it. The latter is the better word: a fork server's environment may be that of an earlier stage.
It can be given only where multiprocessing is loaded when a stage begins or ends; where it is not, the environment
tells, and is believed only by a process that multiprocessing started for the process of the stage.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESS_VARIABLE: Final = "TRACKLAYER_PROCESS"
"""Environment variable with the id of the process in which the stage is open whose token is there, too."""

TOKEN_VARIABLE: Final = "TRACKLAYER_PARENT"  # noqa: S105 - a name

_MARK: Final = "tracklayer"
_FIRST: Final = 100
_THEN: Final = 0
"""When multiprocessing calls something at the end of a process: the higher, the sooner."""


def mark_workers(token: str | None) -> None:
    """Tell the processes that multiprocessing starts from now on which stage's code they run.

    Args:
        token: that of the stage that is open here. None: no stage is, or nobody could say which; the workers of a
            worker then belong to the stage of that.
    """
    own = stage_of_worker()
    config = _config()
    if config is not None:
        process_id = os.getpid()
        if token is None and own is not None:
            token, process_id = own
        config[_MARK] = f"{process_id} {token}" if token else ""


def stage_of_worker() -> tuple[str, int] | None:
    """The stage whose code this process runs as a worker of multiprocessing.

    Returns:
        The stage's token and the id of its process. None in a process that multiprocessing did not start, or started
        outside of any stage.
    """
    process_id = os.getpid()
    found = _stages().get(process_id)
    if found is None:
        found = _stage_of_worker()
        if found is not None:
            _stages()[process_id] = found
    return found


def _stage_of_worker() -> tuple[str, int] | None:
    parent, config = starter(), _config()
    if parent is None or config is None:
        return None
    if _MARK not in config:
        token = os.environ.get(TOKEN_VARIABLE)
        told = token and os.environ.get(PROCESS_VARIABLE) == str(parent)
        config[_MARK] = f"{parent} {token}" if told else ""
    process_id, _, token = str(config[_MARK]).partition(" ")
    return (token, int(process_id)) if token and process_id.isdecimal() else None


@singleton
def _stages() -> dict[int, tuple[str, int]]:
    """The stage of this worker, by process id: a fork has its own."""
    return {}


def starter() -> int | None:
    """Id of the process for which multiprocessing started this one; None if it did not start it."""
    module = sys.modules.get("multiprocessing.process")
    parent = None if module is None else module.parent_process()
    return None if parent is None else parent.pid


def at_end(call: Callable[[], object], *, first: bool = False) -> None:
    """Have `call` called when this very process ends in order; not in what is forked from it.

    Most processes do then what is registered with atexit. A worker of multiprocessing skips that, and has finalizers in
    its place. What such a worker forks by itself does either, and nobody can tell which: the supervisor of an Airflow
    task, itself a worker of LocalExecutor, forks the task, whose end is atexit's alone. So it is registered both ways,
    and may be called twice.

    Args:
        call: what is called. What was registered later is called sooner.
        first: also where multiprocessing calls, sooner than what was registered later without this.
    """
    pid = os.getpid()

    def call_here() -> None:
        if os.getpid() == pid:
            call()

    atexit.register(call_here)
    if starter() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, call_here, exitpriority=_FIRST if first else _THEN)


def _config() -> dict[str, Any] | None:
    """What processes that are made here inherit, as far as multiprocessing is loaded; it has no public name."""
    module = sys.modules.get("multiprocessing.process")
    config = None if module is None else getattr(module.current_process(), "_config", None)
    return config if isinstance(config, dict) else None
