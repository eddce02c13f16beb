"""Prepares the flights of 2013, and has a model trained on them elsewhere: in a Kubeflow pipeline.

The first leg of a relay. The token of the `prepare` task's run travels with the data to the pipeline, so that the
training run there is linked to the run that prepared its data here, across experiments and orchestrators.

    airflow dags test flights_prepare --conf '{"sample": 20000, "max_iter": 20}'
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task

import tracklayer
import tracklayer_airflow

PIPELINE = Path(__file__).resolve().parents[1] / "pipelines" / "flights_train.py"


@dag(
    dag_id="flights_prepare",
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flights", "mlflow"],
    render_template_as_native_obj=True,  # {{ params.max_iter }} is a number
    params={
        "sample": Param(None, type=["null", "integer"], minimum=1000, description="About how many flights; null: all"),
        "max_iter": Param(100, type="integer", minimum=1, description="Boosting iterations of the training"),
        "data_dir": Param(None, type=["null", "string"], description="Folder for the prepared data; null: a new one"),
    },
)
def flights_prepare() -> None:
    """Prepare the flights of 2013, and start the pipeline that trains a model on them."""

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

    @task
    def start_training(prepared: dict[str, Any], max_iter: int) -> None:
        """Start the training pipeline, and wait for it.

        On a cluster this is ``kfp.Client().create_run_from_pipeline_func(…)`` with the token as a pipeline parameter
        or environment variable; here the pipeline runs on this machine, in a process of its own.
        """
        train, test = prepared["train"]["path"], prepared["test"]["path"]
        command = [sys.executable, str(PIPELINE), "--train", train, "--test", test, "--max-iter", str(max_iter)]
        token = tracklayer_airflow.token(task_id="prepare")
        subprocess.run(command, env={**os.environ, "TRACKLAYER_PARENT": token}, check=True)

    prepared = prepare("{{ params.sample }}", "{{ params.data_dir }}")
    start_training(prepared, "{{ params.max_iter }}")


flights_prepare()
