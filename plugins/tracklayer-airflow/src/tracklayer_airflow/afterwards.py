"""Tasks of tracked operators that fail when their run has ended: after ``execute`` Airflow still has things to do.

A result that cannot be stored, a ``post_execute`` that raises, a DAG run that was waited for and failed: the task fails,
and so does its run then. This is heard in the task's own process.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import pluggy

hookimpl = pluggy.HookimplMarker("airflow")

log = logging.getLogger("tracklayer")


class AfterwardsListener:
    """Lets the run of a task that failed after its code had returned end as the task."""

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:  # noqa: ARG002
        """A try of a task has failed; in the task's process it is the one whose run was open here last."""
        execution = sys.modules.get("tracklayer_airflow.execution")
        if execution is None:  # nothing was tracked here
            return
        try:
            execution.fail_last(task_instance, error or "the task failed")
        except Exception:
            log.warning("tracking: the run of a task that failed at its end says that it finished", exc_info=True)
