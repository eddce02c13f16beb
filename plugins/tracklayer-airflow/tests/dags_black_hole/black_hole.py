"""Twice the same task in each way of tracking, and untracked; each writes down how long its own code took."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

import tracklayer


def worked(began: float) -> None:
    """Leave word of this process, and of the seconds that the task's own code took, without what it calls of MLflow."""
    context = get_current_context()
    ti = context["ti"]
    path = Path(context["params"]["took"]) / f"{ti.task_id}.{ti.map_index}"
    path.write_text(f"{os.getpid()} {time.monotonic() - began}")


with DAG("black_holed", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"took": ""}):

    @task.tracked
    def managed(number: int) -> int:
        worked(time.monotonic())
        run = tracklayer.current_run()
        assert run is not None
        run.log_metric("number", number)
        return number

    @task
    def observed(number: int) -> int:
        began = time.monotonic()
        import mlflow

        worked(began)
        with mlflow.start_run():
            mlflow.log_metric("number", number)
        return number

    @task
    def own_run(number: int) -> int:
        worked(time.monotonic())
        return number

    @task
    def untracked(number: int) -> int:
        worked(time.monotonic())
        return number

    @task
    def failing(number: int) -> None:
        worked(time.monotonic())
        raise ValueError(number)

    for each in (managed, observed, own_run, untracked, failing):
        each.expand(number=[0, 1])
