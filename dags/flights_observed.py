"""Will a flight out of New York be late? The same as `flights`, by tasks that know nothing of tracklayer.

This is how most pipelines look that exist already: the code sets its experiment and starts its runs. With the plugin
installed they are one story all the same: below the run of the DAG run, linked, ended as their tasks end.

    airflow dags test flights_observed --conf '{"sample": 20000, "max_iter": 20}'
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task


@dag(
    dag_id="flights_observed",
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flights", "mlflow"],
    render_template_as_native_obj=True,  # {{ params.max_iter }} is a number
    params={
        "sample": Param(None, type=["null", "integer"], minimum=1000, description="About how many flights; null: all"),
        "max_iter": Param(100, type="integer", minimum=1, description="Boosting iterations"),
        "data_dir": Param(None, type=["null", "string"], description="Folder for the prepared data; null: a new one"),
    },
)
def flights_observed() -> None:
    """Prepare the flights of 2013, train a model that says which will be late, and judge it."""

    @task
    def prepare(sample: int | None, data_dir: str | None) -> dict[str, Any]:
        """No MLflow here, so no run."""
        import tempfile

        from flights_model import preparation

        return dataclasses.asdict(preparation.prepare(data_dir or tempfile.mkdtemp(prefix="flights-"), sample=sample))

    @task
    def train(prepared: dict[str, Any], max_iter: int) -> dict[str, Any]:
        import mlflow

        from flights_model import training

        mlflow.set_experiment("late flights")
        with mlflow.start_run(run_name="gradient boosting"):
            trained = training.train(prepared["train"]["path"], training.TrainingSettings(max_iter=max_iter))
        return dataclasses.asdict(trained)

    @task
    def evaluate(prepared: dict[str, Any], trained: dict[str, Any]) -> dict[str, float]:
        import mlflow

        from flights_model import evaluation

        mlflow.set_experiment("late flights")
        with mlflow.start_run(run_name="how good is it"):
            result = evaluation.evaluate(trained["model_uri"], prepared["test"]["path"], prepared["train"]["path"])
        return dict(result.metrics)

    prepared = prepare("{{ params.sample }}", "{{ params.data_dir }}")
    trained = train(prepared, "{{ params.max_iter }}")
    evaluate(prepared, trained)


flights_observed()
