"""The DAGs of the benchmark: short tasks, Airflow's own and tracked."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

from airflow.sdk import DAG, task

COUNT = int(os.environ.get("BENCH_TASKS", "200"))
BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)


def short() -> None:
    """No work, so that what is around it shows; only when it began is noted, if there is a place for it."""
    began = time.time()
    if place := os.environ.get("BENCH_BEGINNINGS"):
        with open(place, "a", encoding="utf-8") as file:  # noqa: PTH123 - one line, one write
            file.write(f"{os.environ['AIRFLOW_CTX_TASK_ID']} {began}\n")


# Where tracklayer is not installed, the same number of Airflow's own: the file is to be as long.
for kind, decorator in (("plain", task), ("tracked", getattr(task, "tracked", task))):
    with DAG(f"{kind}_short_tasks", schedule=None, start_date=BEGINNING):
        for number in range(COUNT):
            decorator(task_id=f"short_{number}")(short)()
