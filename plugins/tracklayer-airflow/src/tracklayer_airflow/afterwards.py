"""Tasks of tracked operators that fail when their run has ended, or before it has begun. Heard in the task's own process.

After ``execute`` Airflow still has things to do: a result that cannot be stored, a ``post_execute`` that raises, a DAG run
that was waited for and failed: the task fails, and so does its run then. And before: a template that cannot be rendered, a
``pre_execute`` that raises or skips the task. Then there is no run yet, and it gets one.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import pluggy

hookimpl = pluggy.HookimplMarker("airflow")

log = logging.getLogger("tracklayer")

RUNNER: Final = "TaskRunnerMarker"
"""By what Airflow says that it is a task's process that is about to stop."""


class AfterwardsListener:
    """Lets the run of a task end as the task, if that was decided before or after its operator's work."""

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:  # noqa: ARG002
        """A try of a task has failed; in the task's process it is the one whose run was open here last."""
        _catch_up()
        error = error or "the task failed"
        if not _ended_before(task_instance, error):
            _tell_execution("fail_last", task_instance, error)
        _tried_out(task_instance, error)

    @hookimpl
    def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:  # noqa: ARG002  # Airflow's
        """A task has skipped itself."""
        _catch_up()
        if not _ended_before(task_instance, None):
            _tell_execution("skip_last", task_instance)
        _tried_out(task_instance, None)

    @hookimpl
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:  # noqa: ARG002  # Airflow's
        """A task has succeeded."""
        _catch_up()
        _tried_out(task_instance, None)

    @hookimpl
    def before_stopping(self, component: Any) -> None:
        """The task's process is about to end; with ``dag.test()`` the same one may go on with the same try."""
        if type(component).__name__ != RUNNER:
            return
        _catch_up()
        if working := sys.modules.get("tracklayer_airflow.working"):
            working.forget()


def _catch_up() -> None:
    """Have done what tracking has put off in this process, also for a task that is not observed and opens a stage by itself."""
    supervisor = sys.modules.get("tracklayer_airflow.supervisor")
    if supervisor is not None:
        supervisor.catch_up()


def _tell_execution(what: str, *told: Any) -> None:
    """Have something done to the run that was open in this process last, if there was one."""
    execution = sys.modules.get("tracklayer_airflow.execution")
    if execution is None:  # nothing was tracked here
        return
    try:
        getattr(execution, what)(*told)
    except Exception:
        log.warning(
            "tracking: the run of a task that ended otherwise than its code says that it finished", exc_info=True
        )


def _tried_out(ti: Any, error: Any) -> None:
    """Have nothing left open of ``airflow tasks test``."""
    if type(ti).__module__.startswith("airflow.models"):
        return
    try:
        from tracklayer_airflow import trial

        trial.end(ti, error)
    except Exception:
        log.warning("tracking: the parent of a task that was tried out stays open", exc_info=True)


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
