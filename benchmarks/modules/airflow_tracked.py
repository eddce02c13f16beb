"""The same DAG, tracked."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(dag_id="bench", schedule=None)
def bench() -> None:
    @task.tracked(stage="data-prep")
    def prepare() -> int:
        return 1

    @task.tracked(stage="training")
    def train(rows: int) -> int:
        return rows

    train(prepare())


bench()
