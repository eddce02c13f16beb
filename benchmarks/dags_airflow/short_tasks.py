"""The DAGs of the benchmark: short tasks, Airflow's own and tracked."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.sdk import DAG, task

COUNT = int(os.environ.get("BENCH_TASKS", "200"))
BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)


def short() -> None:
    """No work, so that what is around it shows."""


for kind, decorator in (("plain", task), ("tracked", task.tracked)):
    with DAG(f"{kind}_short_tasks", schedule=None, start_date=BEGINNING):
        for number in range(COUNT):
            decorator(task_id=f"short_{number}")(short)()
