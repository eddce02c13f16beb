"""A plugin of Airflow's, for tests: each call of listeners in the scheduler's process is written down with its duration.

To be copied into a home's folder of plugins; ``TEST_HOOK_TIMES`` names the file. A line is the hook's name, the seconds
that the call took, and those in which it waited for something else than a CPU.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pluggy
from airflow.plugins_manager import AirflowPlugin

hookimpl = pluggy.HookimplMarker("airflow")


def now() -> tuple[float, float]:
    """The time, and the part of it in which this thread neither had a CPU nor stood in the queue for one."""
    at = time.monotonic()
    try:
        ran, queued = Path("/proc/thread-self/schedstat").read_text().split()[:2]
    except OSError:
        return at, at - time.thread_time()
    return at, at - (int(ran) + int(queued)) / 1e9


class Watch:
    """Begins to watch when the scheduler starts."""

    def __init__(self) -> None:
        self._since: list[tuple[float, float]] = []
        self._pid = 0

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """A component starts. The processes of tasks are forked from the scheduler's, and their hooks may take time."""
        if type(component).__name__ == "Job" and sys.argv[1:2] == ["scheduler"]:
            from airflow.listeners.listener import get_listener_manager

            self._pid = os.getpid()
            get_listener_manager().pm.add_hookcall_monitoring(self._before, self._after)

    def _before(self, hook_name: str, hook_impls: Any, kwargs: Any) -> None:
        self._since.append(now())

    def _after(self, outcome: Any, hook_name: str, hook_impls: Any, kwargs: Any) -> None:
        took, waited = (now - before for now, before in zip(now(), self._since.pop(), strict=True))
        if os.getpid() != self._pid:
            return
        with Path(os.environ["TEST_HOOK_TIMES"]).open("a") as file:
            file.write(f"{hook_name} {took} {waited}\n")


class HookTimes(AirflowPlugin):
    """The plugin."""

    name = "hook_times"
    listeners = [Watch()]  # noqa: RUF012  # Airflow's own
