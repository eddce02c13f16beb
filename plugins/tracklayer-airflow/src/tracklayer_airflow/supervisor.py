"""Speaking to Airflow's supervisor from a task: whatever this plugin asks it for, or tells it, goes by here.

A task speaks to its supervisor by one socket, one request after the other. In a task that is a coroutine (Airflow 3.2 and
newer) a request may be under way, with its answer read by the event loop, while other code of that loop's thread uses
MLflow for the first time. Who then asks in the usual way, which is to wait, waits for ever: the request before it
needs the loop (3.2). Or Airflow raises `DeadlockImminentError` (3.3), no `Exception`, past whatever keeps tracking's
failures from the task. So nothing is asked then; what was to be told is told before Airflow learns that the task has ended.

Imports nothing of tracklayer's core, for macros come here where nothing is tracked.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

log = logging.getLogger("tracklayer")


@lru_cache(maxsize=1)
def _waiting() -> deque[tuple[Any, Callable[[], object]]]:
    """What is put off to the end of the task that runs in this process, with its task instance."""
    return deque()


class SupervisorBusy(Exception):
    """Airflow cannot be asked now: a request of the task's own is under way, and waiting for its answer might never end."""


def ask(ti: Any, question: Callable[[], T]) -> T:
    """What Airflow answers.

    Args:
        ti: the task instance that runs here.
        question: asks.

    Raises:
        SupervisorBusy: it is not asked.
        Exception: what `question` raises.
    """
    if _is_busy(ti):
        raise SupervisorBusy("a request of the task's own is under way")
    try:
        return question()
    except BaseException as error:  # Airflow's own is none that `Exception` catches; everything else goes on
        if type(error).__name__ == "DeadlockImminentError":  # another thread asks at this moment
            raise SupervisorBusy("Airflow says that waiting for its answer would never end") from None
        raise


def tell(ti: Any, what: Callable[[], object]) -> None:
    """Tell Airflow something: now, or at the end of the task if it cannot be told now.

    Args:
        ti: the task instance that runs here.
        what: tells it; may be called twice, if the first time came to nothing.

    Raises:
        Exception: what `what` raises now.
    """
    try:
        ask(ti, what)
    except SupervisorBusy:
        put_off(ti, what)


def put_off(ti: Any, what: Callable[[], object]) -> None:
    """Have something done when the task's code is over.

    After a success that is before its end is told to Airflow, so that whatever comes next finds what is handed over; where
    the operator has something of its own to be done then, and after a failure, it is as soon as listeners hear of the end.

    Args:
        ti: the task instance that runs here.
        what: is done then, in the thread that the task has begun in; what it raises is logged.
    """
    log.info("tracking: Airflow is busy with a request of the task's own; it is asked when the task's code is over")
    _waiting().append((ti, what))
    if getattr(ti.task, "_post_execute_hook", catch_up) is None:
        vars(ti.task)["_post_execute_hook"] = catch_up


def catch_up(context: Any = None, result: Any = None) -> None:  # noqa: ARG001  # Airflow's signature of the operator's hook
    """Do what was put off. The arguments are there for Airflow, which calls this as the operator's `post_execute`."""
    waiting = _waiting()
    for _ in range(len(waiting)):
        ti, what = waiting.popleft()
        try:
            ask(ti, what)
        except SupervisorBusy:  # the code has left a request under way; listeners try once more
            waiting.append((ti, what))
        except Exception as error:
            _let_through(error)
            log.warning("tracking: something that was put off to the end of the task failed", exc_info=True)


def _is_busy(ti: Any) -> bool:
    """Whether who asks now in this thread could wait for ever.

    In the loop's own thread Airflow's lock for coroutines tells exactly: nothing but that thread takes it or leaves it, and
    whoever is about to send has taken it. (Its other lock, for threads, is taken a moment later, in another thread.)

    Another thread of such a task cannot tell: what it waits for in here needs the loop, whose thread may be waiting
    just then for the lock under which this one opens the run. And while it asks, code in the loop's thread that
    asks for itself, as it may, would be refused by Airflow (3.3).
    """
    module = sys.modules.get("airflow.sdk.execution_time.task_runner")
    comms = getattr(module, "SUPERVISOR_COMMS", None)
    line = getattr(comms, "_async_lock", None)
    if line is None:  # Airflow 3.1, `dag.test()`: every request is over before the next line of code
        return False
    if line.locked():
        return True
    if asyncio._get_running_loop() is not None or threading.current_thread() is threading.main_thread():  # noqa: SLF001  # it raises nothing
        return False
    loops = getattr(comms, "_loop_thread_id", None)  # of the thread from which a coroutine has asked before (3.3)
    return bool(getattr(ti.task, "is_async", False)) or loops not in {None, threading.get_ident()}


def _let_through(error: BaseException) -> None:
    from tracklayer.interruption import let_through

    let_through(error)
