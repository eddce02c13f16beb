"""The end of what ``airflow tasks test`` runs: one task, in a DAG run that Airflow makes for it and deletes afterwards.

Nobody hears of the end of that DAG run, for it has none. So its parent ends with the task, in the task's own process.
"""

from __future__ import annotations

from typing import Any, Final

RUN_ID: Final = "__airflow_temporary_run_"
"""How the ids of such DAG runs begin (3.1 to 3.3)."""


def end(ti: Any, error: Any) -> None:
    """End the parent of the DAG run of a task that was tried out; does nothing for any other task.

    Args:
        ti: the task instance, whose own run has ended.
        error: what it failed with; None if it has not.
    """
    if not str(ti.run_id).startswith(RUN_ID):
        return
    from tracklayer_airflow import workflow
    from tracklayer_airflow.closing import close
    from tracklayer_airflow.switch import is_listening

    if not is_listening():
        return
    task = ti.get_template_context()
    tracked = workflow.is_tracked_operator(ti.task)
    close(
        {
            "facts": workflow.facts(task["dag_run"], task["dag"]),
            "status": "FINISHED" if error is None else "FAILED",
            "error": None if error is None else "the task failed",
            "tracked": tracked,
            "observed": not tracked,
        }
    )
