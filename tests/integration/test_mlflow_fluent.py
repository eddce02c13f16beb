"""The user's ``mlflow.*`` calls inside a tracked stage, on a real server and in a database."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlflow.entities import Run

    from harness.pipeline import Pipeline
    from tracklayer import StageRun


def _figure() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    mlflow.log_figure(figure, "plot.png")


def _artifact() -> None:
    from pathlib import Path

    Path("notes.txt").write_text("clear sky")
    mlflow.log_artifact("notes.txt")


def _input() -> None:
    import pandas as pd

    frame = pd.DataFrame({"x": [1.0, 2.0]})
    data = from_pandas(frame, name="flights", digest="1a2b")
    mlflow.log_input(data, context="training")


def _artifacts(run: Run) -> list[str]:
    return [file.path for file in MlflowClient(mlflow.get_tracking_uri()).list_artifacts(run.info.run_id)]


def _has_input(run: Run) -> bool:
    assert run.inputs is not None
    (dataset,) = [item.dataset for item in run.inputs.dataset_inputs]
    # MLflow describes the source by the tags that a run would get: those of a run's place in a pipeline are none of it.
    return dataset.name == "flights" and "tracklayer" not in dataset.source and "parentRunId" not in dataset.source


FIRST_CALLS: dict[str, tuple[Callable[[], object], Callable[[Run], bool]]] = {
    "log_param": (lambda: mlflow.log_param("lr", 0.1), lambda run: run.data.params["lr"] == "0.1"),
    "log_params": (lambda: mlflow.log_params({"a": 1, "b": 2}), lambda run: run.data.params == {"a": "1", "b": "2"}),
    "log_metric": (lambda: mlflow.log_metric("auc", 0.9, step=3), lambda run: run.data.metrics["auc"] == 0.9),
    "log_metrics": (lambda: mlflow.log_metrics({"auc": 0.9}), lambda run: run.data.metrics["auc"] == 0.9),
    "set_tag": (lambda: mlflow.set_tag("team", "risk"), lambda run: run.data.tags["team"] == "risk"),
    "set_tags": (lambda: mlflow.set_tags({"team": "risk"}), lambda run: run.data.tags["team"] == "risk"),
    "log_text": (lambda: mlflow.log_text("clear", "sky.txt"), lambda run: _artifacts(run) == ["sky.txt"]),
    "log_dict": (lambda: mlflow.log_dict({"a": 1}, "a.json"), lambda run: _artifacts(run) == ["a.json"]),
    "log_artifact": (_artifact, lambda run: _artifacts(run) == ["notes.txt"]),
    "log_figure": (_figure, lambda run: _artifacts(run) == ["plot.png"]),
    "log_input": (_input, _has_input),
}


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_what_is_logged_first_lands_in_the_stage_run(pipeline: Pipeline, call: str) -> None:
    log, is_there = FIRST_CALLS[call]
    in_default = pipeline.in_default()

    with pipeline.stage() as stage:
        log()
        active = mlflow.active_run()
        run = pipeline.run(stage.run_id)
        assert is_there(run)
        assert active is not None
        assert active.info.run_id == stage.run_id

    assert mlflow.active_run() is None
    assert [run.info.run_id for run in pipeline.all_runs()] == [stage.run_id]
    assert pipeline.run(stage.run_id).info.status == "FINISHED"
    assert pipeline.in_default() == in_default


def test_the_first_start_run_is_the_stage_run_with_what_the_user_says_about_it(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        before = pipeline.run(stage.run_id).data.tags["mlflow.note.content"]
        with mlflow.start_run(run_name="forest", tags={"team": "risk"}, description="A first try.") as run:
            assert run.info.run_id == stage.run_id
            assert run.info.run_name == "forest"
            assert run.data.tags["team"] == "risk"
            assert run.info.artifact_uri
            mlflow.log_param("trees", 100)
        assert pipeline.run(stage.run_id).info.status == "RUNNING"  # the stage goes on

    told = pipeline.run(stage.run_id)
    assert told.info.status == "FINISHED"
    assert told.info.run_name == "forest"
    assert told.data.params == {"trees": "100"}
    assert told.data.tags["mlflow.note.content"] == f"A first try.\n\n{before}"
    assert pipeline.below(stage.run_id) == []


def test_a_run_that_is_opened_again_ends_with_the_stage(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        client = mlflow.MlflowClient()
        run_id = client.create_run(stage.experiment_id or "").info.run_id
        client.set_terminated(run_id)
        client.update_run(run_id, status="RUNNING")
        mlflow.log_metric("auc", 0.9, run_id=run_id)

    told = pipeline.run(run_id)
    assert (told.info.status, told.data.metrics) == ("FINISHED", {"auc": 0.9})
    assert told.info.end_time >= told.info.start_time


def test_a_loop_of_runs_keeps_its_params_apart(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        ids = []
        for depth in (3, 5, 7):
            with mlflow.start_run(run_name=f"depth {depth}") as run:
                mlflow.log_param("depth", depth)
                mlflow.log_metric("auc", depth / 10)
                ids.append(run.info.run_id)

    assert ids[0] == stage.run_id
    assert pipeline.run(ids[0]).data.params == {"depth": "3"}
    below = pipeline.below(stage.run_id)
    assert [run.info.run_id for run in below] == ids[1:]
    assert [run.data.params for run in below] == [{"depth": "5"}, {"depth": "7"}]
    assert {run.info.status for run in pipeline.all_runs()} == {"FINISHED"}
    assert all(run.data.tags["tracklayer.stage"] == "training" for run in below)
    assert {run.info.experiment_id for run in below} == {stage.experiment_id}


def test_a_run_after_something_was_logged_and_ended_is_one_of_its_own(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        mlflow.log_param("lr", 0.1)
        mlflow.end_run()
        with mlflow.start_run():
            mlflow.log_param("lr", 0.2)  # in the same run MLflow would refuse it
        mlflow.log_metric("auc", 0.9)

    told = pipeline.run(stage.run_id)
    assert told.data.params == {"lr": "0.1"}
    assert told.data.metrics == {"auc": 0.9}
    assert [run.data.params for run in pipeline.below(stage.run_id)] == [{"lr": "0.2"}]


def test_nested_runs_go_below_the_stage_or_below_the_users_own(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        with mlflow.start_run(nested=True, run_name="before") as before:
            pass
        with (
            mlflow.start_run(),
            mlflow.start_run(nested=True, run_name="trial") as trial,
            mlflow.start_run(nested=True, run_name="fold") as fold,
        ):
            mlflow.log_metric("auc", 0.5)

    assert [run.info.run_id for run in pipeline.below(stage.run_id)] == [before.info.run_id, trial.info.run_id]
    assert [run.info.run_id for run in pipeline.below(trial.info.run_id)] == [fold.info.run_id]
    assert {run.info.status for run in pipeline.all_runs()} == {"FINISHED"}


def test_the_usual_example_of_the_field_works_unchanged(pipeline: Pipeline) -> None:
    ds = pipeline.workflow  # stands for the date: this experiment is the test's own

    def train() -> str:
        mlflow.set_experiment(f"automated_training_{ds}")
        with mlflow.start_run(run_name="daily") as run:
            mlflow.log_param("model", "forest")
            mlflow.log_metric("auc", 0.9)
            return str(run.info.run_id)

    with pipeline.stage() as stage:
        run_id = train()

    run = pipeline.run(run_id)
    experiment = pipeline.client.get_experiment(run.info.experiment_id)
    assert experiment.name == f"automated_training_{ds}"
    assert (run.info.run_name, run.info.status) == ("daily", "FINISHED")
    assert (run.data.params, run.data.metrics) == ({"model": "forest"}, {"auc": 0.9})
    assert run.data.tags["mlflow.parentRunId"] == stage.run_id
    assert run.data.tags["tracklayer.workflow"] == pipeline.workflow
    assert pipeline.run(stage.run_id).data.params == {}


def test_what_is_logged_first_after_set_experiment_goes_there(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        mlflow.set_experiment(f"chosen-{pipeline.workflow}")
        mlflow.log_param("lr", 0.1)

    (run,) = pipeline.below(stage.run_id)
    assert pipeline.client.get_experiment(run.info.experiment_id).name == f"chosen-{pipeline.workflow}"
    assert run.data.params == {"lr": "0.1"}
    assert run.info.status == "FINISHED"  # MLflow itself would have ended it when the process ends
    assert mlflow.active_run() is None


def test_the_experiment_of_one_stage_is_not_that_of_the_next(pipeline: Pipeline) -> None:
    with pipeline.stage("first") as first:
        mlflow.set_experiment(f"chosen-{pipeline.workflow}")
        with mlflow.start_run():
            mlflow.log_param("stage", "first")
    with pipeline.stage("second") as second:
        mlflow.log_param("stage", "second")

    assert [run.data.params for run in pipeline.below(first.run_id)] == [{"stage": "first"}]
    assert pipeline.run(second.run_id).data.params == {"stage": "second"}
    assert pipeline.below(second.run_id) == []


def test_an_experiment_by_argument_is_kept(pipeline: Pipeline) -> None:
    other = pipeline.client.create_experiment(f"other-{pipeline.workflow}")
    with pipeline.stage() as stage:
        with mlflow.start_run(experiment_id=other):
            mlflow.log_param("where", "other")
        with mlflow.start_run(experiment_id=stage.experiment_id):
            mlflow.log_param("where", "own")

    assert pipeline.run(stage.run_id).data.params == {"where": "own"}
    (run,) = pipeline.below(stage.run_id)
    assert (run.info.experiment_id, run.data.params) == (other, {"where": "other"})


def test_runs_by_client_are_runs_below_the_stage(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        client = MlflowClient()
        run = client.create_run(stage.experiment_id or "", run_name="by hand", tags={"mine": "1"})
        client.log_metric(run.info.run_id, "auc", 0.7)
        client.set_terminated(run.info.run_id, "FAILED")

    (told,) = pipeline.below(stage.run_id)
    assert (told.info.run_name, told.info.status, told.data.metrics) == ("by hand", "FAILED", {"auc": 0.7})
    assert told.data.tags["mine"] == "1"


def test_another_run_is_resumed_as_ever(pipeline: Pipeline) -> None:
    with pipeline.stage("first") as first:
        mlflow.log_param("stage", "first")
    with pipeline.stage("second") as second:
        with mlflow.start_run(run_id=first.run_id):
            mlflow.log_metric("late", 1.0)
        mlflow.log_metric("own", 2.0)

    assert pipeline.run(first.run_id).data.metrics == {"late": 1.0}
    assert pipeline.run(first.run_id).info.status == "FINISHED"
    assert pipeline.run(second.run_id).data.metrics == {"own": 2.0}


def test_what_is_left_open_ends_as_the_stage_does(pipeline: Pipeline) -> None:
    def work(stage: StageRun) -> None:
        by_client = MlflowClient().create_run(stage.experiment_id or "")
        trial = mlflow.start_run(nested=True)
        fold = mlflow.start_run(nested=True)
        ids.update([stage.run_id or "", by_client.info.run_id, trial.info.run_id, fold.info.run_id])
        raise ValueError("out of luck")

    ids: set[str] = set()
    with pytest.raises(ValueError, match="out of luck"), pipeline.stage() as stage:
        work(stage)

    assert {run.info.run_id for run in pipeline.all_runs()} == ids
    assert len(ids) == 4
    assert {run.info.status for run in pipeline.all_runs()} == {"FAILED"}
    assert mlflow.active_run() is None


def diverge() -> None:
    raise ValueError("no convergence")


def test_an_exception_that_the_user_catches_does_not_fail_the_stage(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        with contextlib.suppress(ValueError), mlflow.start_run():
            diverge()
        mlflow.log_param("outcome", "gave up")

    told = pipeline.run(stage.run_id)
    assert (told.info.status, told.data.params) == ("FINISHED", {"outcome": "gave up"})


def test_a_failure_in_start_run_fails_the_stage_and_reaches_the_user(pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match="no convergence"), pipeline.stage() as stage, mlflow.start_run() as run:
        diverge()

    told = pipeline.run(stage.run_id)
    assert run.info.run_id == stage.run_id
    assert told.info.status == "FAILED"
    assert told.data.tags["tracklayer.error.type"] == "ValueError"


def test_what_mlflow_refuses_it_refuses_in_a_stage_too(pipeline: Pipeline) -> None:
    with pipeline.stage():
        mlflow.log_param("lr", 0.1)
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            mlflow.log_param("lr", 0.2)
        with pytest.raises(MlflowException, match="no//path"):
            mlflow.log_param("no//path", 1)
        with pytest.raises(Exception, match="already active"):
            mlflow.start_run()


def test_what_the_stage_was_given_does_not_fail_the_users_own_calls(pipeline: Pipeline) -> None:
    with pipeline.stage(params={"lr": 0.1, "depth": 3}, on_error="log") as stage:
        mlflow.log_param("lr", 0.2)  # untracked, nobody would have logged another value before
        mlflow.log_param("depth", 3)

    told = pipeline.run(stage.run_id)
    assert told.data.params == {"lr": "0.1", "depth": "3"}
    assert "param lr" in told.data.tags["tracklayer.refused"]
    assert told.info.status == "FINISHED"


def test_tags_that_a_new_run_may_have_and_an_existing_one_not_make_a_run_below_the_stage(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage, mlflow.start_run(tags={"odd//name": "1"}):
        mlflow.log_param("lr", 0.1)

    (run,) = pipeline.below(stage.run_id)
    assert run.data.tags["odd//name"] == "1"
    assert run.data.params == {"lr": "0.1"}


def test_a_description_that_is_set_later_keeps_the_links_below_it(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        before = pipeline.run(stage.run_id).data.tags["mlflow.note.content"]
        mlflow.set_tag("mlflow.note.content", "What we learned.")

    assert pipeline.run(stage.run_id).data.tags["mlflow.note.content"] == f"What we learned.\n\n{before}"


def test_calls_that_go_to_another_server_stay_there(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pipeline.stage() as stage:
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'elsewhere.db'}")
        with mlflow.start_run() as run:
            mlflow.log_param("where", "elsewhere")

    elsewhere = MlflowClient(f"sqlite:///{tmp_path / 'elsewhere.db'}").get_run(run.info.run_id)
    assert elsewhere.data.params == {"where": "elsewhere"}
    assert not [name for name in elsewhere.data.tags if "tracklayer" in name or name == "mlflow.parentRunId"]
    assert pipeline.run(stage.run_id).data.params == {}
    assert "elsewhere.db" in caplog.text


def test_what_the_system_does_is_measured(pipeline: Pipeline) -> None:
    mlflow.set_system_metrics_sampling_interval(1)  # type: ignore[no-untyped-call]
    mlflow.set_system_metrics_samples_before_logging(1)  # type: ignore[no-untyped-call]
    with pipeline.stage() as stage:
        with mlflow.start_run(log_system_metrics=True):
            deadline = time.monotonic() + 60
            while not pipeline_has_system_metrics(stage.run_id) and time.monotonic() < deadline:
                time.sleep(0.5)
        assert pipeline_has_system_metrics(stage.run_id)

    assert [name for name in pipeline.run(stage.run_id).data.metrics if name.startswith("system/")]


def pipeline_has_system_metrics(run_id: str | None) -> bool:
    assert run_id is not None
    return any(name.startswith("system/") for name in mlflow.get_run(run_id).data.metrics)


def test_autologging_logs_from_threads_of_its_own(pipeline: Pipeline) -> None:
    from mlflow.utils.autologging_utils.client import MlflowAutologgingQueueingClient

    with pipeline.stage() as stage:
        client = MlflowAutologgingQueueingClient()  # type: ignore[no-untyped-call]
        pending = client.create_run(experiment_id=stage.experiment_id or "", tags={"kind": "trial"})
        client.log_params(pending, {f"p{number}": number for number in range(150)})
        client.log_metrics(pending, {"auc": 0.9})
        client.set_terminated(pending, "FINISHED")
        client.log_params(stage.run_id or "", {"search": "grid"})
        client.flush(synchronous=True)  # type: ignore[no-untyped-call]

    (trial,) = pipeline.below(stage.run_id)
    assert (trial.info.status, trial.data.tags["kind"]) == ("FINISHED", "trial")
    assert (len(trial.data.params), trial.data.metrics) == (150, {"auc": 0.9})
    assert pipeline.run(stage.run_id).data.params == {"search": "grid"}


def test_a_failure_of_ours_leaves_the_user_with_plain_mlflow(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError(f"bug in {pipeline.workflow}")

    monkeypatch.setattr("tracklayer.mlflow_plugins.run_calls.creation", broken)
    with pipeline.stage() as stage:
        runs = []
        for _ in range(3):
            with mlflow.start_run(run_name="mine") as run:
                mlflow.log_param("lr", 0.1)
                runs.append(run.info.run_id)

    assert stage.run_id not in runs
    told = pipeline.run(runs[-1])
    assert (told.info.status, told.data.params) == ("FINISHED", {"lr": "0.1"})
    assert caplog.text.count(f"bug in {pipeline.workflow}") == 1
