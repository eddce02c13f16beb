"""A tracked task whose server is that of a connection."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

from tracklayer_airflow import tracked

NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "TRACKLAYER_TRACKING_URI")

with DAG("connected", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task.tracked
    def train() -> str:
        import mlflow

        mlflow.log_metric("auc", 0.9)
        return os.environ["MLFLOW_TRACKING_URI"]

    @task
    def after(uri: str) -> list[str]:
        """What a task that is not tracked has in its environment."""
        return [name for name in NAMES if name in os.environ]

    after(train()) >> tracked(BashOperator)(  # type: ignore[arg-type]
        task_id="cut_off", bash_command="env | sort", env={"KEPT": "1"}, output_processor=lambda line: line
    )
