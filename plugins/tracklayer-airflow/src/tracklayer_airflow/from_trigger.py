"""DAGs with a task that its trigger ends (``end_from_trigger=True``), which Airflow loads only where nobody listens.

Airflow (3.3) refuses them because a task that a triggerer ends is told to no listener. Ours need not be told: how such
a task ended is seen when its DAG run ends (`tracklayer_airflow.deferred`). So they step aside while such a DAG is loaded,
between its policy and that of its last task, where Airflow looks whether there are any. Where there are others, too,
Airflow refuses the DAG as it would without us.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

OURS: Final = "tracklayer_airflow."
"""How the modules of our listeners begin."""


def step_aside(dag: Any) -> None:
    """Take the listeners away if they are all ours and the DAG, which is about to be loaded, has such a task."""
    _come_back()  # where a policy of somebody's has refused the last one in the middle
    if not any(getattr(task, "end_from_trigger", False) for task in dag.tasks):
        return
    from airflow.listeners.listener import get_listener_manager

    listeners = get_listener_manager().pm
    registered = listeners.get_plugins()
    if all(type(listener).__module__.startswith(OURS) for listener in registered):
        for listener in registered:
            listeners.unregister(listener)
            _aside().append(listener)


def come_back(task: Any) -> None:
    """Register again those that stepped aside, if this is the last task of its DAG: Airflow has looked at all of them."""
    if _aside() and task.dag.tasks[-1] is task:
        _come_back()


def _come_back() -> None:
    if _aside():
        from airflow.listeners.listener import get_listener_manager

        while _aside():
            get_listener_manager().pm.register(_aside().pop())


@lru_cache(maxsize=1)
def _aside() -> list[object]:
    """Those of this process, which loads one DAG after the other."""
    return []
