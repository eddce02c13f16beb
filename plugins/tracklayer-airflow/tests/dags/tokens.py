"""DAGs of one task, to be started with a token in their conf."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, task

for name in ("given_token", "given_nonsense"):
    with DAG(name, schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

        @task.tracked
        def start() -> None:
            pass

        @task.tracked
        def go_on() -> None:
            pass

        start() >> go_on()
