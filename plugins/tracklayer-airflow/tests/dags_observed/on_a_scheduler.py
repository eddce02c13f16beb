"""For a real scheduler: a task that can be held while it runs, others that wait outside of any process, or are killed."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, dag, get_current_context, task

PAUSE = timedelta(seconds=15)
"""See ``dags_scheduled``: longer than Airflow may take to hear of the end of a part of a try."""


class Waiting(BaseOperator):
    """Starts a run, defers, and does not call MLflow again."""

    def execute(self, context: Any) -> None:
        import mlflow

        mlflow.set_experiment("scheduled, chosen")
        mlflow.start_run(run_name="waits")
        mlflow.log_metric("before", 1.0)
        self.defer(trigger=TimeDeltaTrigger(PAUSE), method_name="done")

    def done(self, context: Any, event: Any = None) -> None:
        """Nothing is left to do."""


@dag(schedule=None, default_args={"owner": "data-science"})
def scheduled() -> None:
    @task
    def train() -> str:
        import mlflow

        mlflow.set_experiment("scheduled, chosen")
        with mlflow.start_run(run_name="held") as run:
            mlflow.log_metric("loss", 0.5)
            while Path(get_current_context()["params"]["hold"]).exists():
                time.sleep(0.2)
        return str(run.info.run_id)

    @task
    def part(number: int) -> None:
        import mlflow

        mlflow.set_experiment("scheduled, chosen")
        with mlflow.start_run(run_name=f"part {number}"):
            mlflow.log_metric("number", number)
            while Path(f"{get_current_context()['params']['hold']}.parts").exists():
                time.sleep(0.2)

    @task
    def die() -> None:
        import mlflow

        mlflow.set_experiment("scheduled, chosen")
        with mlflow.start_run(run_name="dies"):
            mlflow.log_metric("last", 1.0)
        mlflow.flush_async_logging()
        time.sleep(6)  # for what was logged to be sent
        os.kill(os.getpid(), signal.SIGKILL)

    train() >> [part.expand(number=[0, 1]), Waiting(task_id="waiting"), die()]


@dag(schedule=None)
def nothing_of_mlflow() -> None:
    @task
    def plain() -> None:
        """Nothing."""

    plain()


scheduled()
nothing_of_mlflow()
