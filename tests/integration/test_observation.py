"""Code that is followed without being wrapped: on a real server and in a database, in this very process."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import TYPE_CHECKING

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.pipeline import Pipeline
from harness.proxy import black_hole
from tracklayer import current_run, track
from tracklayer.context import RunContext, TaskRun, WorkflowRun
from tracklayer.ending import leave_open
from tracklayer.identity import PARENT_TAG
from tracklayer.observation import Followed, Observation, current_observation, observe
from tracklayer.opening import milliseconds
from tracklayer.outcome import OUTCOME_TAG
from tracklayer.provisional import is_provisional
from tracklayer.settings import load
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities import Run

    from tracklayer.context import Status
    from tracklayer.stage import StageRun


class Task:
    """A task that is observed, as an orchestrator's plugin does it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.opened: list[StageRun] = []
        self.asked = 0
        self.observation = Observation(self._describe, self.opened.append)
        mlflow.set_tracking_uri(pipeline.uri)
        observe(self.observation)

    def _describe(self) -> Followed:
        self.asked += 1
        run = WorkflowRun(orchestrator="test", workflow=self.pipeline.workflow, run_id="r1")
        context = RunContext(workflow_run=run, task_run=TaskRun(task="train"))
        return Followed(context=context, settings=load({"tracking_uri": self.pipeline.uri}))

    @property
    def run(self) -> Run:
        """Its run in MLflow."""
        (stage,) = self.opened
        return self.pipeline.run(stage.run_id)


@pytest.fixture
def task(pipeline: Pipeline) -> Iterator[Task]:
    task = Task(pipeline)
    yield task
    task.observation.end("FINISHED")
    observe(None)


def test_nothing_is_asked_before_mlflow_is_used(task: Task) -> None:
    assert current_run() is None
    assert mlflow.active_run() is None
    assert task.asked == 0
    task.observation.end("FINISHED")
    assert (task.asked, task.opened) == (0, [])
    assert task.pipeline.client.get_experiment_by_name(task.pipeline.workflow) is None


def test_the_first_run_is_the_stage_run_and_ends_with_the_task(task: Task) -> None:
    with mlflow.start_run(run_name="mine", tags={"a": "1"}) as run:
        stage = current_run()
        assert stage is not None
        assert stage.run_id == run.info.run_id
        mlflow.log_metric("auc", 0.9)
    task.observation.end("FAILED", error=ValueError("afterwards"))
    told = task.run
    assert (told.info.status, told.info.run_name, told.data.metrics) == ("FAILED", "mine", {"auc": 0.9})
    assert (told.data.tags["a"], told.data.tags["tracklayer.error.type"]) == ("1", "ValueError")
    assert current_run() is None
    assert mlflow.active_run() is None


@pytest.mark.parametrize("asked", ["FAILED", "KILLED"])
@pytest.mark.parametrize("ended", ["FINISHED", "FAILED"])
def test_a_run_that_its_code_has_ended_badly_stays_so(task: Task, asked: str, ended: Status) -> None:
    """The code catches what went wrong, says so on its run, and the task succeeds."""
    mlflow.start_run()
    mlflow.end_run(asked)
    task.observation.end(ended)
    assert task.run.info.status == (asked if ended == "FINISHED" else "FAILED")


@pytest.mark.parametrize("asked", ["FINISHED", "FAILED"])
def test_an_end_that_was_announced_stands_if_nobody_comes_to_tell_it(task: Task, asked: str) -> None:
    """What is called at the end of a task takes so long that its orchestrator kills it."""
    run = mlflow.start_run()
    mlflow.end_run(asked)
    task.observation.announce_end("FINISHED", note="skipped" if asked == "FINISHED" else None)
    stage = current_run()
    assert stage
    assert stage.flush()
    store = open_store(task.pipeline.uri, connect_timeout=5, timeout=30)
    leave_open(store, run.info.run_id, milliseconds(None) + 60_000)
    told = store.get_run(run.info.run_id)
    assert (told.status, told.tags.get(OUTCOME_TAG)) == (asked, "skipped" if asked == "FINISHED" else None)


def test_what_is_still_active_at_the_end_is_not_active_any_more(task: Task) -> None:
    mlflow.start_run()
    task.observation.end("FINISHED")
    assert mlflow.active_run() is None
    assert task.run.info.status == "FINISHED"


def test_so_it_is_where_another_process_is_faster_to_create_it(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where mapped tasks begin at once: MLflow forgets then what was set."""
    name = f"{task.pipeline.workflow} raced for"

    def other_process(*told: object) -> None:
        assert str(told[0]).startswith("Experiment with name")
        open_store(task.pipeline.uri, connect_timeout=5, timeout=30).create_experiment(name, {})

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.tracking.fluent._logger, "info", other_process)  # between MLflow's question and its wish
        chosen = mlflow.set_experiment(name)
    mlflow.start_run()
    task.observation.end("FINISHED")
    assert task.run.info.experiment_id == chosen.experiment_id
    assert mlflow.get_experiment(chosen.experiment_id).name == name


def test_the_experiment_is_the_one_that_the_code_chose(task: Task) -> None:
    name = f"{task.pipeline.workflow} {{literally}}"
    chosen = mlflow.set_experiment(name)
    with mlflow.start_run():
        pass
    with mlflow.start_run(run_name="second") as second:
        pass
    task.observation.end("FINISHED")
    assert task.run.info.experiment_id == chosen.experiment_id
    below = task.pipeline.run(second.info.run_id)
    assert (below.info.experiment_id, below.data.tags[PARENT_TAG]) == (chosen.experiment_id, task.run.info.run_id)


def test_default_is_a_choice_too(task: Task) -> None:
    with mlflow.start_run(experiment_id="0"):
        pass
    task.observation.end("FINISHED")
    assert task.run.info.experiment_id == "0"


def test_threads_that_start_at_once_have_one_stage_run(task: Task) -> None:
    ids: list[str] = []
    barrier = threading.Barrier(4)

    def start(number: int) -> None:
        barrier.wait()
        with mlflow.start_run(run_name=f"thread {number}") as run:
            mlflow.log_metric("number", number)
            ids.append(run.info.run_id)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    task.observation.end("FINISHED")
    assert task.asked == 1
    first = task.run.info.run_id
    assert len(set(ids)) == 4
    assert first in ids
    others = [task.pipeline.run(run_id) for run_id in ids if run_id != first]
    assert {run.data.tags[PARENT_TAG] for run in others} == {first}
    assert all(len(task.pipeline.run(run_id).data.metrics) == 1 for run_id in ids)


def test_a_run_with_a_parent_of_its_own_is_left_alone(task: Task) -> None:
    client = MlflowClient()
    experiment_id = client.create_experiment(f"{task.pipeline.workflow} elsewhere")
    observe(None)
    before = client.create_run(experiment_id)
    observe(task.observation)
    with mlflow.start_run(run_id=before.info.run_id), mlflow.start_run(nested=True) as nested:
        assert task.opened == []
        # What is active when the stage opens stays active in it.
        own = client.create_run(experiment_id)
        assert current_run() is not None
        mlflow.log_metric("auc", 0.9)
    task.observation.end("FINISHED")
    assert task.run.info.run_id == own.info.run_id
    told = task.pipeline.run(nested.info.run_id)
    assert (told.data.metrics, told.data.tags[PARENT_TAG]) == ({"auc": 0.9}, before.info.run_id)


@pytest.mark.parametrize("experiment", ["missing", "deleted"])
def test_what_mlflow_refuses_opens_nothing(task: Task, experiment: str) -> None:
    experiment_id = "987654"
    if experiment == "deleted":
        experiment_id = MlflowClient().create_experiment(f"{task.pipeline.workflow} deleted")
        MlflowClient().delete_experiment(experiment_id)
    with pytest.raises(MlflowException):
        mlflow.start_run(experiment_id=experiment_id)
    assert task.opened == []


def test_a_stage_of_its_own_takes_its_place(task: Task) -> None:
    context = task._describe().context
    with track(context=context, tracking_uri=task.pipeline.uri) as stage:
        mlflow.log_metric("auc", 0.9)
    with mlflow.start_run() as plain, track(context=context, tracking_uri=task.pipeline.uri):
        pass
    assert task.opened == [stage]
    assert task.observation.run is None
    assert task.pipeline.run(stage.run_id).data.metrics == {"auc": 0.9}
    assert "tracklayer.key" not in task.pipeline.run(plain.info.run_id).data.tags


def _in_fork(ids: multiprocessing.Queue[str]) -> None:
    with mlflow.start_run() as run:
        ids.put(run.info.run_id)


def test_a_fork_opens_nothing_of_which_nobody_would_hear_the_end(task: Task) -> None:
    if not task.pipeline.uri.startswith("http"):
        pytest.skip("a database connection does not survive a fork")
    context = multiprocessing.get_context("fork")
    ids: multiprocessing.Queue[str] = context.Queue()
    worker = context.Process(target=_in_fork, args=(ids,))
    worker.start()
    run_id = ids.get(timeout=60)
    worker.join(60)
    assert "tracklayer.key" not in task.pipeline.run(run_id).data.tags
    assert task.observation.awaits
    assert current_observation() is task.observation


def test_a_server_that_swallows_everything_costs_a_moment(fresh_mlflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain MLflow the same code waits for twenty minutes at its first call, and fails."""
    for setting in ("PATIENCE", "CONNECT_TIMEOUT"):
        monkeypatch.setenv(f"TRACKLAYER_{setting}", "6")
    with black_hole() as uri:
        task = Task(Pipeline(uri))
        began = time.monotonic()
        mlflow.set_experiment("out of reach")
        with mlflow.start_run(run_name="mine") as run:
            mlflow.log_metric("auc", 0.9)
        code = time.monotonic() - began
        task.observation.end("FINISHED")
        end = time.monotonic() - began - code
        observe(None)
    (stage,) = task.opened
    assert is_provisional(run.info.run_id)
    assert stage.run_id == run.info.run_id
    assert code + end < 11, "it is waited for once, for the experiment; the machine is busy"
