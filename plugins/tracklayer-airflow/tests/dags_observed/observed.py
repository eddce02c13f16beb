"""Tasks that call MLflow by themselves, in the many ways in which code does that, and nothing of tracklayer's."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from airflow.exceptions import AirflowSkipException
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import Asset, BaseOperator, dag, get_current_context, task

FLIGHTS = Asset("s3://observed/flights")


class Deferring(BaseOperator):
    """Starts a run, waits outside of any process, and is done; or goes on with it."""

    def __init__(self, *, goes_on: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.goes_on = goes_on

    def execute(self, context: Any) -> None:
        import mlflow

        mlflow.set_experiment("observed elsewhere")
        mlflow.start_run(run_name="waits")
        mlflow.log_metric("before", 1.0)
        self.defer(trigger=TimeDeltaTrigger(timedelta(milliseconds=10)), method_name="go_on")

    def go_on(self, context: Any, event: Any = None) -> str:
        if self.goes_on:
            import mlflow

            mlflow.set_experiment("observed, another one")
            with mlflow.start_run() as run:
                mlflow.log_metric("after", 2.0)
            return str(run.info.run_id)
        return ""


def told(context: Any) -> None:
    """Somebody is told of a failure."""


@dag(schedule=None, tags=["observed"], default_args={"owner": "data-science"})
def unchosen() -> None:  # noqa: C901  # many small tasks
    """Nobody chooses an experiment. In ``dag.test()`` what one task sets is set for those after it, too."""

    @task
    def implicit(rows: int = 3) -> Any:
        import mlflow

        assert mlflow.active_run() is None
        mlflow.log_metric("auc", 0.9)  # starts a run by itself
        run = mlflow.active_run()
        assert run is not None
        return run.info.run_id

    @task
    def failing_afterwards() -> Any:
        import mlflow

        with mlflow.start_run(run_name="went well"):
            mlflow.log_metric("auc", 0.7)
        raise ValueError("only then")

    @task(on_failure_callback=[told, len])
    def calling_its_callbacks() -> Any:
        """What it looks at, and calls, is what its author has given it, and no end of it."""
        import mlflow

        mlflow.log_metric("auc", 0.8)
        context = get_current_context()
        callbacks: Any = context["task"].on_failure_callback
        names = [callback.__name__ for callback in callbacks]
        for callback in callbacks:
            callback(context)
        return [*names, len(callbacks), callbacks == [told, len]]

    @task
    def left_open() -> Any:
        import mlflow

        mlflow.start_run(run_name="left")
        mlflow.start_run(run_name="below", nested=True)

    @task
    def skipping() -> Any:
        import mlflow

        with mlflow.start_run():
            raise AirflowSkipException("nothing new")

    @task
    def tracked_by_hand() -> Any:
        import mlflow

        import tracklayer

        with tracklayer.track("reporting") as run:
            mlflow.log_metric("lines", 3)
            active = mlflow.active_run()
            assert active is not None
            assert active.info.run_id == run.run_id
            return run.token

    @task
    def with_a_stage_inside() -> Any:
        import mlflow

        import tracklayer

        with mlflow.start_run(run_name="around"), tracklayer.track("inner"):
            mlflow.log_metric("inside", 1)

    @task
    def away_from_stage() -> Any:
        """Reads before there is a run are MLflow's own."""
        import mlflow

        assert mlflow.active_run() is None
        assert mlflow.get_experiment("0").name == "Default"
        mlflow.search_runs(max_results=1)
        with mlflow.start_run() as run:
            found = mlflow.get_run(run.info.run_id)
        return found.info.run_name

    @task
    def refused() -> Any:
        """What MLflow refuses, it refuses."""
        import mlflow

        try:
            mlflow.start_run(experiment_id="987654")
        except mlflow.exceptions.MlflowException as error:
            return error.error_code

    @task
    def plain() -> Any:
        return "no run"

    implicit() >> failing_afterwards()
    calling_its_callbacks()
    left_open()
    skipping()
    tracked_by_hand()
    with_a_stage_inside()
    away_from_stage()
    refused()
    plain()


@dag(schedule=None, tags=["observed"], default_args={"owner": "data-science"})
def observed() -> None:  # noqa: C901  # many small tasks
    @task(outlets=[FLIGHTS])
    def prepare() -> Any:
        import mlflow

        mlflow.set_experiment("observed data")
        with mlflow.start_run(run_name="preparation", tags={"source": "csv"}, description="What is **done**.") as run:
            mlflow.log_param("rows", 10)
            return run.info.run_id

    @task
    def plain() -> Any:
        return "no run"

    @task
    def twice() -> Any:
        import mlflow

        mlflow.set_experiment("observed training")
        with mlflow.start_run(run_name="first") as first:
            mlflow.log_metric("loss", 1.0)
        with mlflow.start_run(run_name="second") as second:
            mlflow.log_metric("loss", 0.5)
            with mlflow.start_run(run_name="fold", nested=True):
                mlflow.log_metric("loss", 0.4)
        return [first.info.run_id, second.info.run_id]

    @task
    def by_client() -> Any:
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment_id = client.create_experiment(f"observed by client {time.time_ns()}")
        run = client.create_run(experiment_id, run_name="of a client", tags={"who": "client"})
        client.log_metric(run.info.run_id, "auc", 0.8)
        client.set_terminated(run.info.run_id)
        return run.info.run_id

    @task
    def autologging() -> Any:
        import mlflow
        from sklearn.linear_model import LinearRegression

        mlflow.set_experiment("observed training")
        mlflow.sklearn.autolog(log_models=False)
        try:
            LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0])
        finally:
            mlflow.sklearn.autolog(disable=True)

    @task(retries=1, retry_delay=timedelta(0))
    def retried() -> Any:
        import mlflow

        mlflow.set_experiment("observed training")
        with mlflow.start_run():
            number = get_current_context()["ti"].try_number
            mlflow.log_metric("try", number)
            if number == 1:
                raise ConnectionError("not yet")

    @task
    def mapped(number: int) -> Any:
        import mlflow

        mlflow.set_experiment("observed training")
        with mlflow.start_run(run_name=f"part {number}"):
            mlflow.log_metric("number", number)

    @task.tracked(stage="evaluation")
    def managed() -> Any:
        import mlflow

        mlflow.log_metric("auc", 0.6)

    def poke() -> bool:
        import mlflow

        with mlflow.start_run(run_name="poked"):
            mlflow.log_metric("reschedules", get_current_context().get("task_reschedule_count", 0))
        return bool(get_current_context().get("task_reschedule_count", 0))

    prepare() >> plain() >> twice() >> managed()
    by_client()
    autologging()
    retried()
    mapped.expand(number=[0, 1])
    Deferring(task_id="deferring", goes_on=True)
    Deferring(task_id="deferring_and_done", goes_on=False)
    PythonSensor(task_id="rescheduled", python_callable=poke, mode="reschedule", poke_interval=0.1)


@dag(schedule=None)
def with_changes() -> None:
    """Before they use MLflow, tasks change what MLflow and tracklayer read."""

    @task
    def other_server() -> Any:
        import os
        import tempfile

        import mlflow

        here = mlflow.get_tracking_uri()
        with tempfile.TemporaryDirectory() as folder:
            mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")  # for the processes that it starts, too
            with mlflow.start_run(run_name="elsewhere", experiment_id="0"):
                pass
        mlflow.set_tracking_uri(here)
        os.environ["TRACKLAYER_INSTANCE"] = "another"
        with mlflow.start_run(run_name="here"):
            pass
        del os.environ["TRACKLAYER_INSTANCE"]

    def report(context: Any) -> None:
        import mlflow

        with mlflow.start_run(run_name="report"):
            pass

    @task(on_success_callback=report)
    def reported() -> None:
        """Only what is called at its end uses MLflow."""

    other_server() >> reported()


@dag(schedule=None)
def without_mlflow() -> None:
    @task
    def first() -> Any:
        """What has been imported, as far as it costs something."""
        import sys

        return sorted({"tracklayer.stage", "tracklayer.preparation", "tracklayer.store"} & set(sys.modules))

    @task(trigger_rule="all_done")
    def second(number: int = 1) -> Any:
        raise ValueError(number)

    @task.virtualenv(system_site_packages=False, venv_cache_path=f"{os.environ['AIRFLOW_HOME']}/virtualenvs")
    def apart() -> Any:
        """In a virtual environment, where nobody sees what it calls."""
        import os

        return [name for name in os.environ if name.startswith("TRACKLAYER_PARENT")]

    apart() >> first() >> second()


unchosen()
observed()
with_changes()
without_mlflow()
