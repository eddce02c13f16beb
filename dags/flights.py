"""Will a flight out of New York be late? Prepares the flights of 2013, trains a model, and judges it.

The three stages of a model's life in one DAG. Each task is an MLflow run below the run of the DAG run; what feeds
what is linked because Airflow knows it. The only tracklayer in the tasks is `@task.tracked` and saying which datasets
come and go; what the model code logs through plain `mlflow` calls lands in the task's run by itself.

    airflow dags test flights --conf '{"sample": 20000, "max_iter": 20}'
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task

import tracklayer


@dag(
    dag_id="flights",
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flights", "mlflow"],
    render_template_as_native_obj=True,  # {{ params.max_iter }} is a number
    params={
        "sample": Param(None, type=["null", "integer"], minimum=1000, description="About how many flights; null: all"),
        "max_iter": Param(100, type="integer", minimum=1, description="Boosting iterations"),
        "learning_rate": Param(0.1, type="number", exclusiveMinimum=0, description="Shrinkage of each iteration"),
        "data_dir": Param(None, type=["null", "string"], description="Folder for the prepared data; null: a new one"),
    },
)
def flights() -> None:
    """Prepare the flights of 2013, train a model that says which will be late, and judge it."""

    @task.tracked(stage="data-prep")
    def prepare(sample: int | None, data_dir: str | None) -> dict[str, Any]:
        import tempfile

        from flights_model import preparation

        prepared = preparation.prepare(data_dir or tempfile.mkdtemp(prefix="flights-"), sample=sample)
        if run := tracklayer.current_run():
            run.log_params(prepared.params())
            run.log_metrics(prepared.metrics())
            for dataset in (prepared.train, prepared.test):
                run.produces(dataset.uri, dataset.digest, name=dataset.name, schema=json.dumps(dataset.schema))
        return dataclasses.asdict(prepared)

    @task.tracked(stage="training")
    def train(prepared: dict[str, Any], max_iter: int, learning_rate: float) -> dict[str, Any]:
        from flights_model import training

        data = prepared["train"]
        if run := tracklayer.current_run():
            run.consumes(data["uri"], data["digest"], name=data["name"])
        settings = training.TrainingSettings(max_iter=max_iter, learning_rate=learning_rate)
        return dataclasses.asdict(training.train(data["path"], settings))

    @task.tracked(stage="evaluation")
    def evaluate(prepared: dict[str, Any], trained: dict[str, Any]) -> dict[str, float]:
        from flights_model import evaluation

        data = prepared["test"]
        if run := tracklayer.current_run():
            run.consumes(data["uri"], data["digest"], name=data["name"])
        result = evaluation.evaluate(trained["model_uri"], data["path"], prepared["train"]["path"])
        return dict(result.metrics)

    prepared = prepare("{{ params.sample }}", "{{ params.data_dir }}")
    trained = train(prepared, "{{ params.max_iter }}", "{{ params.learning_rate }}")
    evaluate(prepared, trained)


flights()
