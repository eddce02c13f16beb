"""Tasks of tracked operators that fail when their run has ended, or before it has begun. Heard in the task's own process.

After ``execute`` Airflow still has things to do: a result that cannot be stored, a ``post_execute`` that raises, a DAG run
that was waited for and failed: the task fails, and so does its run then. And before: a template that cannot be rendered, a
``pre_execute`` that raises or skips the task. Then there is no run yet, and it gets one.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import pluggy

hookimpl = pluggy.HookimplMarker("airflow")

log = logging.getLogger("tracklayer")


class AfterwardsListener:
    """Lets the run of a task end as the task, if that was decided before or after its operator's work."""

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:  # noqa: ARG002
        """A try of a task has failed; in the task's process it is the one whose run was open here last."""
        if _ended_before(task_instance, error or "the task failed"):
            return
        execution = sys.modules.get("tracklayer_airflow.execution")
        if execution is None:  # nothing was tracked here
            return
        try:
            execution.fail_last(task_instance, error or "the task failed")
        except Exception:
            log.warning("tracking: the run of a task that failed at its end says that it finished", exc_info=True)

    @hookimpl
    def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:  # noqa: ARG002  # Airflow's
        """A task has skipped itself."""
        _ended_before(task_instance, None)


def _ended_before(ti: Any, error: Any) -> bool:
    """Give the try a run that ends as it did, if it was over before its operator's work began.

    Args:
        ti: the task instance.
        error: what it failed with; None: it was skipped.

    Returns:
        Whether that was so.
    """
    # The same hooks are called in the scheduler and in the API server, with what stands in the database.
    if type(ti).__module__.startswith("airflow.models"):
        return False
    try:
        from tracklayer_airflow.workflow import is_tracked_operator
        from tracklayer_airflow.working import has_begun

        if not is_tracked_operator(ti.task) or has_begun(ti):
            return False
        from tracklayer_airflow.switch import is_on, is_spoken_of_in_task

        if is_on() and is_spoken_of_in_task():
            from tracklayer_airflow.execution import end_before

            end_before(ti, error)
    except Exception:
        log.warning("tracking: a task that ended before its code began has no run", exc_info=True)
        return False
    return True
