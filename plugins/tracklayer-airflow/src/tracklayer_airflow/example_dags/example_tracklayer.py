"""Tracked tasks: each has a run of its own in MLflow, below that of the DAG run, and is linked to what it uses."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag, task

import tracklayer
from tracklayer_airflow import tracked


@dag(schedule=None, tags=["example", "mlflow"], params={"learning_rate": 0.1})
def example_tracklayer() -> None:
    """Prepare data, train on it, and judge the model in a process of its own."""

    @task.tracked(stage="data-prep")
    def prepare() -> list[float]:
        return [0.1, 0.4, 0.7]

    @task.tracked(stage="training")
    def train(rows: list[float], learning_rate: float) -> float:
        score = sum(rows) * float(learning_rate)
        if (run := tracklayer.current_run()) is not None:
            run.log_metric("score", score)  # or any call of mlflow's own: it lands in the same run
        return score

    judge = tracked(BashOperator)(
        task_id="judge",
        bash_command='test -n "$TRACKLAYER_PARENT" && echo "a script that tracks itself here is linked to this task"',
        append_env=True,
        stage="evaluation",
        run_name="judge {{ params.learning_rate }}",
    )

    train(prepare(), "{{ params.learning_rate }}") >> judge  # type: ignore[arg-type]  # a template, a result to come


example_tracklayer()
