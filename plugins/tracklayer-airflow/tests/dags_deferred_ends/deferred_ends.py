"""Tasks that their triggers end, without a worker. For a scheduler with a triggerer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, BaseOperator
from ending_trigger import EndingTrigger

from tracklayer_airflow import tracked

PAUSE = 15
"""Seconds until a trigger ends a task. One that fails itself has a worker come back: see ``PAUSE`` in ``dags_scheduled``."""
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


class Waits(BaseOperator):
    """Is deferred for good: its trigger ends it in the state that is asked for."""

    end_from_trigger = True

    def __init__(self, *, ends: str, says: bool = True, **told: Any) -> None:
        super().__init__(**told)
        self.ends = ends
        self.says = says

    def execute(self, context: Any) -> None:
        self.defer(trigger=EndingTrigger(self.ends, PAUSE, end_from_trigger=self.says), method_name="never")


class Observed(Waits):
    """Starts a run of its own before that."""

    def execute(self, context: Any) -> None:
        import mlflow

        mlflow.set_experiment("ended")
        mlflow.start_run()
        super().execute(context)


with DAG("ended", schedule=None, start_date=BEGIN):
    for state in ("success", "failed", "skipped"):
        tracked(Waits)(task_id=state, ends=state)
    tracked(Waits)(task_id="unsaid", ends="failed", says=False)
    tracked(Waits)(task_id="retried", ends="failed", retries=1, retry_delay=timedelta(0))
    tracked(Waits)(task_id="crashed", ends="nothing")
    Observed(task_id="observed", ends="failed")
    tracked(TimeDeltaSensor)(task_id="marked", delta=timedelta(days=1), deferrable=True)

# Long enough for the trigger to have ended the first task on a busy machine, too.
for name, timeout in (("timed_out", timedelta(seconds=90)), ("marked_run", None)):
    with DAG(name, schedule=None, start_date=BEGIN, dagrun_timeout=timeout):
        tracked(Waits)(task_id="failed", ends="failed")
        tracked(TimeDeltaSensor)(task_id="endless", delta=timedelta(days=1), deferrable=True)
