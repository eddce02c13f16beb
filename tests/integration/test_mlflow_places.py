"""Which run MLflow's calls find in threads, async tasks, forks and subprocesses, and where stages share a thread."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING

import mlflow
import pytest

from tracklayer.identity import UPSTREAM_TAG

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.pipeline import Pipeline


def in_thread(work: Callable[[], object]) -> None:
    """Run it in a thread that knows nothing of this one, and raise what it raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_a_plain_thread_logs_to_the_stage(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        in_thread(lambda: mlflow.log_metric("from thread", 1.0))
        mlflow.log_metric("from main", 2.0)

    assert pipeline.run(stage.run_id).data.metrics == {"from thread": 1.0, "from main": 2.0}
    assert len(pipeline.all_runs()) == 1


def test_trials_in_a_pool_of_threads_are_runs_below_the_stage(pipeline: Pipeline) -> None:
    def trial(number: int) -> None:
        with mlflow.start_run(nested=True, run_name=f"trial {number}"):
            mlflow.log_param("number", number)
            mlflow.log_metric("loss", 1 / (number + 1))

    with pipeline.stage() as stage:
        mlflow.log_param("search", "grid")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(trial, range(8)))
        mlflow.log_metric("best", 0.125)

    told = pipeline.run(stage.run_id)
    assert (told.data.params, told.data.metrics) == ({"search": "grid"}, {"best": 0.125})
    trials = pipeline.below(stage.run_id)
    assert {run.data.params["number"] for run in trials} == {str(number) for number in range(8)}
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert len(pipeline.all_runs()) == 9


def test_stages_in_threads_at_the_same_time_keep_apart(pipeline: Pipeline) -> None:
    both_open = threading.Barrier(2)
    both_logged = threading.Barrier(2)
    ids: dict[str, str | None] = {}
    in_default = pipeline.in_default()

    def work(name: str) -> None:
        with pipeline.stage(name) as stage:
            ids[name] = stage.run_id
            both_open.wait(60)
            mlflow.log_param("name", name)
            with mlflow.start_run(nested=True):
                mlflow.log_param("trial of", name)
            both_logged.wait(60)
            mlflow.end_run()
            with mlflow.start_run():
                mlflow.log_param("second of", name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ["left", "right"]))

    for name in ("left", "right"):
        assert pipeline.run(ids[name]).data.params == {"name": name}
        below = [run.data.params for run in pipeline.below(ids[name])]
        assert below == [{"trial of": name}, {"second of": name}]
    assert {run.info.status for run in pipeline.all_runs()} == {"FINISHED"}
    assert pipeline.in_default() == in_default


def test_threads_that_know_no_stage_log_to_the_runs_that_they_are_told(pipeline: Pipeline) -> None:
    both_open, both_logged = threading.Barrier(2), threading.Barrier(2)
    ids: dict[str, str] = {}

    def background(
        run_id: str, experiment_id: str
    ) -> None:  # as autologging does it: which stage is current, nobody says
        client = mlflow.MlflowClient()
        client.log_param(run_id, "background", "yes")
        trial = client.create_run(experiment_id, tags={"mlflow.parentRunId": run_id})
        client.log_metric(trial.info.run_id, "loss", 1.0)
        client.set_terminated(trial.info.run_id)

    def work(name: str) -> None:
        with pipeline.stage(name) as stage:
            ids[name] = stage.run_id or ""
            mlflow.log_param("name", name)
            both_open.wait(60)
            in_thread(lambda: background(stage.run_id or "", stage.experiment_id or ""))
            both_logged.wait(60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ["left", "right"]))

    for name in ("left", "right"):
        assert pipeline.run(ids[name]).data.params == {"name": name, "background": "yes"}
        (trial,) = pipeline.below(ids[name])
        assert (trial.data.metrics, trial.info.status) == ({"loss": 1.0}, "FINISHED")
        assert trial.data.tags["tracklayer.stage"] == name


def test_a_pools_thread_that_serves_one_stage_after_the_other_does_not_mix_them_up(pipeline: Pipeline) -> None:
    with ThreadPoolExecutor(1) as pool:
        ids = []
        for name in ("first", "second"):
            with pipeline.stage(name) as stage:
                pool.submit(mlflow.log_param, "name", name).result()
                ids.append(stage.run_id)
        left = pool.submit(mlflow.active_run).result()

    assert [pipeline.run(run_id).data.params["name"] for run_id in ids] == ["first", "second"]
    assert left is None


def test_a_plain_thread_keeps_its_run_when_another_stage_opens(pipeline: Pipeline) -> None:
    started, opened = threading.Event(), threading.Event()
    in_default = pipeline.in_default()

    def background() -> None:
        with mlflow.start_run(nested=True):
            started.set()
            assert opened.wait(60)
            mlflow.log_metric("late", 1.0)

    with pipeline.stage("first") as first:
        thread = threading.Thread(target=background)
        thread.start()
        assert started.wait(60)
        with ThreadPoolExecutor(1) as pool:

            def other() -> None:
                with pipeline.stage("second"):
                    opened.set()
                    thread.join(60)

            pool.submit(other).result()

    (run,) = pipeline.below(first.run_id)
    assert run.data.metrics == {"late": 1.0}
    assert run.info.status == "FINISHED"
    assert pipeline.in_default() == in_default


def test_async_stages_at_the_same_time_keep_apart(pipeline: Pipeline) -> None:
    ids: dict[str, str | None] = {}

    async def work(name: str) -> None:
        with pipeline.stage(name) as stage:
            ids[name] = stage.run_id
            for step in range(3):
                mlflow.log_metric("loss", float(len(name)), step=step)
                await asyncio.sleep(0.01)
            mlflow.end_run()
            with mlflow.start_run(run_name=f"of {name}"):
                await asyncio.sleep(0.01)
                mlflow.log_param("name", name)
                await asyncio.to_thread(mlflow.log_param, "thread", name)

    async def main() -> None:
        await asyncio.gather(work("left"), work("right"))

    asyncio.run(main())

    for name in ("left", "right"):
        told = pipeline.run(ids[name])
        assert told.data.metrics == {"loss": float(len(name))}
        assert len(pipeline.client.get_metric_history(told.info.run_id, "loss")) == 3
        # ``to_thread`` takes the stage along, and MLflow's active run stays with its thread, as in plain MLflow.
        assert told.data.params == {"thread": name}
        assert [run.data.params for run in pipeline.below(ids[name])] == [{"name": name}]


def test_a_task_called_within_a_flow_logs_to_its_own_run(pipeline: Pipeline) -> None:
    with pipeline.stage("flow") as flow, mlflow.start_run(run_name="the flow's"):
        mlflow.log_param("who", "flow")
        with pipeline.stage("task") as task:
            assert mlflow.active_run() is None
            with mlflow.start_run(run_name="the task's"):  # MLflow alone would say that a run is active
                mlflow.log_param("who", "task")
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == flow.run_id
        mlflow.log_metric("after", 1.0)

    assert (pipeline.run(flow.run_id).data.params, pipeline.run(flow.run_id).data.metrics) == (
        {"who": "flow"},
        {"after": 1.0},
    )
    assert (pipeline.run(task.run_id).data.params, pipeline.run(task.run_id).info.run_name) == (
        {"who": "task"},
        "the task's",
    )


def test_a_stage_within_the_users_own_run_is_a_place_of_its_own(pipeline: Pipeline) -> None:
    mlflow.set_tracking_uri(pipeline.uri)
    mlflow.set_experiment(f"outside-{pipeline.workflow}")
    with mlflow.start_run() as outside:
        with pipeline.stage() as stage:
            mlflow.log_param("where", "inside")
        mlflow.log_param("where", "outside")

    assert pipeline.run(stage.run_id).data.params == {"where": "inside"}
    told = pipeline.run(outside.info.run_id)
    assert (told.data.params, told.info.status) == ({"where": "outside"}, "FINISHED")
    assert not [name for name in told.data.tags if "tracklayer" in name or name == "mlflow.parentRunId"]


def test_a_copied_context_takes_the_stage_along(pipeline: Pipeline) -> None:
    with pipeline.stage("first") as first, ThreadPoolExecutor(1) as pool:
        context = copy_context()
        with pipeline.stage("second"):
            pool.submit(context.run, mlflow.log_param, "name", "first").result()

    assert pipeline.run(first.run_id).data.params == {"name": "first"}


# --------------------------------------------------------------------------------------------------------------------
# Other processes
# --------------------------------------------------------------------------------------------------------------------


def _fold(number: int) -> None:
    mlflow.log_metric(f"fold {number}", float(number))
    mlflow.end_run()
    with mlflow.start_run(run_name=f"fold {number}"):
        mlflow.log_param("number", number)


def _left_open(fail: bool) -> None:
    mlflow.start_run(run_name="left open")
    if fail:
        raise SystemExit(3)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_logs_to_the_stage_and_its_own_runs_go_below(pipeline: Pipeline) -> None:
    fork = multiprocessing.get_context("fork")
    with pipeline.stage() as stage:
        mlflow.log_param("folds", 2)
        workers = [fork.Process(target=_fold, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        mlflow.log_metric("mean", 0.5)

    told = pipeline.run(stage.run_id)
    assert told.data.params == {"folds": "2"}
    assert told.data.metrics == {"fold 0": 0.0, "fold 1": 1.0, "mean": 0.5}
    assert told.info.status == "FINISHED"
    below = pipeline.below(stage.run_id)
    assert {run.data.params["number"] for run in below} == {"0", "1"}
    assert {run.info.status for run in below} == {"FINISHED"}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("fail", "status"), [(False, "FINISHED"), (True, "FAILED")])
def test_what_a_fork_leaves_open_ends_with_it(pipeline: Pipeline, fail: bool, status: str) -> None:
    with pipeline.stage() as stage:
        worker = multiprocessing.get_context("fork").Process(target=_left_open, args=(fail,))
        worker.start()
        worker.join(60)
        (run,) = pipeline.below(stage.run_id)
        assert (run.info.run_name, run.info.status) == ("left open", status)
    assert pipeline.run(stage.run_id).info.status == "FINISHED"


SCRIPT = """
import json, mlflow
mlflow.log_param("lr", 0.1)
first = mlflow.active_run().info.run_id
mlflow.end_run()
with mlflow.start_run(run_name="explicit") as run:
    mlflow.log_metric("auc", 0.9)
print(json.dumps([first, run.info.run_id]))
"""


def run_script(environment: dict[str, str], script: str = SCRIPT) -> list[str]:
    told = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TRACKLAYER_DISABLED_PLUGINS": "airflow,git,kubeflow,prefect", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    ids: list[str] = json.loads(told.stdout.splitlines()[-1])
    return ids


def test_a_subprocess_is_linked_to_the_stage_that_started_it(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        ids = run_script({})  # the stage's token is in the environment already

    for run_id in ids:
        run = pipeline.run(run_id)
        assert json.loads(run.data.tags[f"{UPSTREAM_TAG}{stage.run_id}"]) == {"kind": "token"}
        assert "mlflow.parentRunId" not in run.data.tags
    assert pipeline.run(stage.run_id).data.params == {}


def test_a_process_that_runs_the_stages_code_logs_to_the_stage(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        first, explicit = run_script(stage.attach_environment())
        assert pipeline.run(stage.run_id).info.status == "RUNNING"

    assert first == stage.run_id
    told = pipeline.run(stage.run_id)
    assert (told.data.params, told.info.status) == ({"lr": "0.1"}, "FINISHED")
    run = pipeline.run(explicit)
    assert (run.data.metrics, run.data.tags["mlflow.parentRunId"]) == ({"auc": 0.9}, stage.run_id)


def test_one_process_alone_takes_the_stage_run_for_its_start_run(pipeline: Pipeline) -> None:
    script = """
import json, mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("rank", 1.0)
print(json.dumps([run.info.run_id]))
"""
    with pipeline.stage() as stage:
        ranks = [run_script(stage.attach_environment(), script)[0] for _ in range(2)]

    assert ranks[0] == stage.run_id
    assert [run.info.run_id for run in pipeline.below(stage.run_id)] == ranks[1:]
