"""How a task ended, as Airflow sees it, as the status of its run."""

from __future__ import annotations

from typing import Final

from tracklayer.outcome import ELSEWHERE, Outcome, of_exception

SKIPPED: Final = "skipped"
"""Value of the tag ``tracklayer.outcome`` on the run of a try that Airflow shows as skipped."""

_OUTCOMES: Final = {
    "AirflowSkipException": Outcome("FINISHED", SKIPPED),
    "DownstreamTasksSkipped": Outcome("FINISHED", "skipped downstream"),
    "DagRunTriggerException": Outcome("FINISHED", "triggered a DAG run"),
    "TaskDeferred": Outcome("RUNNING"),
    "TaskAwaitingInput": Outcome("RUNNING"),
    "AirflowRescheduleException": Outcome("RUNNING"),
    "AirflowTaskTimeout": Outcome("FAILED", "timed out"),
    "AirflowSensorTimeout": Outcome("FAILED", "timed out"),
    "AirflowTaskTerminated": Outcome("KILLED", "terminated"),
}
"""What Airflow's own exceptions mean. They are told by name, because their home differs between Airflow's versions
and not every version has all of them."""

FROM_TRIGGER: Final = Outcome("RUNNING", ELSEWHERE)
"""A task that is deferred for good: its trigger ends it (``end_from_trigger=True``); see `tracklayer_airflow.deferred`."""


def of_task(error: BaseException) -> Outcome:
    """What an exception that leaves a task's ``execute`` says about the task.

    Airflow fails a task for every ``SystemExit``, also for ``sys.exit(0)``, and so does the run.

    >>> of_task(ValueError("no data")).status, of_task(SystemExit(0)).status, of_task(KeyboardInterrupt()).status
    ('FAILED', 'FAILED', 'KILLED')
    """
    for kind in type(error).__mro__:
        outcome = _OUTCOMES.get(kind.__name__) if kind.__module__.partition(".")[0] == "airflow" else None
        if outcome is not None:
            # What a trigger ends comes back to no process of ours, and no listener hears of it: with the DAG run it is told.
            return FROM_TRIGGER if getattr(getattr(error, "trigger", None), "end_from_trigger", False) else outcome
    return Outcome("FAILED") if isinstance(error, SystemExit) else of_exception(error)
