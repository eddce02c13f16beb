"""A DAG as Airflow's users write it."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(dag_id="bench", schedule=None)
def bench() -> None:
    @task
    def prepare() -> int:
        return 1

    @task
    def train(rows: int) -> int:
        return rows

    train(prepare())


bench()
