"""MLflow's own calls inside a stage while the tracking server is away: they return, and nothing of them is lost."""

from __future__ import annotations

import json
import math
import multiprocessing
import multiprocessing.util
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from harness.forgiving import delivered, soon
from harness.patience import PATIENCE, TIMEOUT
from harness.proxy import HTML
from tracklayer.journal.recorder import Recorder
from tracklayer.provisional import is_provisional, provisional_id
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.pipeline import Pipeline
    from harness.proxy import RecordingProxy


def test_what_is_logged_while_the_server_is_away_is_there_in_the_end(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage:
        mlflow.log_param("before", 1)
        with proxy.refused(), soon():
            mlflow.log_param("lr", 0.1)
            mlflow.log_params({"depth": 3, "trees": 100})
            for step in range(20):
                mlflow.log_metric("loss", 1 / (step + 1), step=step)
            mlflow.log_metrics({"auc": 0.9, "nan": math.nan})
            mlflow.set_tag("team", "risk")
            mlflow.set_tag("gone", "soon")
            mlflow.delete_tag("gone")
            client = MlflowClient()
            client.log_batch(stage.run_id or "", [Metric("batch", 1.0, 1, 0)], [Param("batch", "yes")])
            with pytest.raises(MlflowException, match="Changing param values is not allowed"):
                mlflow.log_param("lr", 0.2)
        mlflow.log_metric("after", 1.0)

    delivered(stage)
    told = pipeline.run(stage.run_id)
    assert told.info.status == "FINISHED"
    assert told.data.params == {"before": "1", "lr": "0.1", "depth": "3", "trees": "100", "batch": "yes"}
    assert {key: value for key, value in told.data.metrics.items() if key != "nan"} == {
        "loss": 0.05,
        "auc": 0.9,
        "batch": 1.0,
        "after": 1.0,
    }
    assert math.isnan(told.data.metrics["nan"])
    assert len(pipeline.client.get_metric_history(told.info.run_id, "loss")) == 20
    assert told.data.tags["team"] == "risk"
    assert "gone" not in told.data.tags
    assert len(pipeline.all_runs()) == 1


def test_a_tag_that_the_server_does_not_have_yet_is_taken_away(
    away: tuple[Pipeline, RecordingProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine waiting for what was logged before may end before the server has it."""
    pipeline, proxy = away
    with pipeline.stage() as stage:
        delivered(stage)
        proxy.answer(503, b"busy", path="runs/log-batch")
        stage.set_tag("gone", "soon")
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "flush", lambda *_: False)
            mlflow.delete_tag("gone")
    assert "gone" not in pipeline.run(stage.run_id).data.tags


@pytest.mark.parametrize("how", ["gone", "failing", "lost answer", "login page"])
def test_a_tag_of_tracklayers_is_taken_away_though_nobody_knew_yet_that_the_server_is_away(
    away: tuple[Pipeline, RecordingProxy], how: str
) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage:
        stage.set_tag("gone", "soon")
        stage.set_tag("stays", "yes")
        delivered(stage)
        if how == "gone":
            with proxy.refused(), soon():
                mlflow.delete_tag("gone")
        else:
            if how == "failing":
                proxy.answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "no"}', path="runs/delete-tag")
            elif how == "lost answer":
                proxy.lost("runs/delete-tag")
            else:
                proxy.answer(200, HTML, path="runs/delete-tag")
            with soon():
                mlflow.delete_tag("gone")
        delivered(stage)
        with pytest.raises(MlflowException, match="never"):  # there is none of this name
            mlflow.delete_tag("never")

    told = pipeline.run(stage.run_id)
    assert "gone" not in told.data.tags
    assert told.data.tags["stays"] == "yes"


def test_runs_that_are_started_while_the_server_is_away_come_to_be(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage, mlflow.start_run(run_name="search"):
        begun = time.time()
        with proxy.refused(), soon():
            ids = []
            for number in range(3):
                with mlflow.start_run(nested=True, run_name=f"trial {number}", tags={"kind": "trial"}) as trial:
                    mlflow.log_param("number", number)
                    with mlflow.start_run(nested=True, run_name="fold"):
                        mlflow.log_metric("auc", number / 10)
                    ids.append(trial.info.run_id)
            failed = MlflowClient().create_run(stage.experiment_id or "", run_name="by hand")
            MlflowClient().set_terminated(failed.info.run_id, "FAILED")
            ended = time.time()

    delivered(stage)
    assert all(is_provisional(run_id) for run_id in ids)
    below = pipeline.below(stage.run_id)
    assert [run.info.run_name for run in below] == ["trial 0", "trial 1", "trial 2", "by hand"]
    assert [run.info.status for run in below] == ["FINISHED", "FINISHED", "FINISHED", "FAILED"]
    assert [run.data.params for run in below[:3]] == [{"number": str(number)} for number in range(3)]
    assert {run.data.tags.get("kind") for run in below[:3]} == {"trial"}
    for number, run in enumerate(below[:3]):
        assert begun <= run.info.start_time / 1_000 + 1 <= run.info.end_time / 1_000 + 1 <= ended + 2
        (fold,) = pipeline.below(run.info.run_id)
        assert (fold.info.status, fold.data.metrics) == ("FINISHED", {"auc": number / 10})
    assert len(pipeline.all_runs()) == 8


def test_a_run_of_this_process_can_be_read_while_the_server_is_away(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage, proxy.refused(), soon():
        with mlflow.start_run(nested=True, run_name="trial", tags={"team": "risk"}) as trial:
            mlflow.log_param("lr", 0.1)
            for step in (1, 0, 2, 1):  # as MLflow tells them: each once, in the order of their times
                mlflow.log_metric("loss", float(step), step=step, timestamp=1_700_000_000_000 + step)
        run = mlflow.get_run(trial.info.run_id)
        history = MlflowClient().get_metric_history(trial.info.run_id, "loss")
        assert (run.info.run_name, run.info.status) == ("trial", "FINISHED")
        assert (run.data.params, run.data.metrics) == ({"lr": "0.1"}, {"loss": 2.0})
        assert run.data.tags["team"] == "risk"
        assert run.data.tags["mlflow.parentRunId"] == stage.run_id
        assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 1.0), (2, 2.0)]
        assert mlflow.get_run(stage.run_id or "").info.run_id == stage.run_id
        assert pickle.loads(pickle.dumps(run)).info.run_id == trial.info.run_id
        assert run.to_dictionary()["info"]["run_name"] == "trial"
        parent = mlflow.get_parent_run(trial.info.run_id)
        assert parent is not None
        assert parent.info.run_id == stage.run_id

    delivered(stage)
    assert pipeline.below(stage.run_id)[0].info.run_name == "trial"


def test_an_id_that_was_given_out_while_the_server_was_away_stays_valid(
    away: tuple[Pipeline, RecordingProxy], mlflow_server: MlflowServer
) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage:
        with proxy.refused(), mlflow.start_run(nested=True, run_name="trial") as trial:
            mlflow.log_param("lr", 0.1)
        given = trial.info.run_id
        # The server is back, here in the stage: reading waits for what was written.
        delivered(stage)
        run = mlflow.get_run(given)
        assert run.data.params == {"lr": "0.1"}
        MlflowClient().log_metric(given, "in stage", 1.0)
        MlflowClient().log_metric(run.info.run_id, "by the id of the server", 1.0)
        with pytest.raises(MlflowException, match="Changing param values"):
            MlflowClient().log_param(run.info.run_id, "lr", 0.2)
        found = mlflow.search_runs([run.info.experiment_id], f"attributes.run_id = '{given}'", output_format="list")
        assert [other.info.run_id for other in found] == [run.info.run_id]

    # Outside of any stage, with another client.
    outside = MlflowClient(mlflow_server.uri)
    assert outside.get_run(given).info.run_id == run.info.run_id
    outside.log_metric(given, "outside", 2.0)
    outside.set_tag(given, "seen", "yes")
    other = outside.create_run(run.info.experiment_id)
    outside.set_tag(other.info.run_id, "mlflow.parentRunId", given)
    assert outside.get_run(other.info.run_id).data.tags["mlflow.parentRunId"] == run.info.run_id
    below = outside.create_run(run.info.experiment_id, tags={"mlflow.parentRunId": given})
    assert outside.get_run(below.info.run_id).data.tags["mlflow.parentRunId"] == run.info.run_id
    # In another process, which resumes it.
    script = "import mlflow\nwith mlflow.start_run(): mlflow.log_metric('elsewhere', 3.0)"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_server.uri, "MLFLOW_RUN_ID": given}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)

    told = pipeline.run(run.info.run_id)
    assert told.data.metrics == {"in stage": 1.0, "by the id of the server": 1.0, "outside": 2.0, "elsewhere": 3.0}
    assert told.data.tags["seen"] == "yes"


def test_what_is_logged_by_an_id_whose_run_is_still_to_come_reaches_it(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    with proxy.refused(), pipeline.stage("second") as second:
        assert second.run_id is not None
        # Another process is told of the id, and has its own way to the server.
        script = (
            "import sys, mlflow, tracklayer\n"
            "with tracklayer.track('other', tracking_uri=sys.argv[1]):\n"
            "    mlflow.MlflowClient().log_metric(sys.argv[2], 'early', 1.0)\n"
            "    mlflow.MlflowClient().log_param(sys.argv[2], 'early', 1)\n"
        )
        server = proxy.target
        environment = {**os.environ, "TRACKLAYER_DISABLED_PLUGINS": "airflow,git,kubeflow,prefect"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-c", script, server, second.run_id]
        subprocess.run(command, env=environment, check=True, timeout=120)
        mlflow.log_metric("own", 2.0)

    delivered(second)
    subprocess.run([Path(sys.executable).with_name("tracklayer"), "flush"], env=environment, check=True, timeout=120)
    told = MlflowClient(pipeline.uri).get_run(second.run_id)
    assert (told.data.metrics, told.data.params) == ({"early": 1.0, "own": 2.0}, {"early": "1"})


def test_an_id_that_nobody_gave_out_is_unknown(mlflow_server: MlflowServer, fresh_mlflow: None) -> None:
    client = MlflowClient(mlflow_server.uri)
    for call in (client.get_run, lambda run_id: client.log_metric(run_id, "auc", 0.9)):
        with pytest.raises(MlflowException, match="not found") as refused:
            call(provisional_id())
        assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"


READS: dict[str, Callable[[str], object]] = {
    "search_runs": lambda _: mlflow.search_runs(["0"]),
    "search_experiments": lambda _: mlflow.search_experiments(),
    "get_run of another run": mlflow.get_run,
    "get_metric_history of another run": lambda run_id: MlflowClient().get_metric_history(run_id, "auc"),
    "delete_run": mlflow.delete_run,
    "delete_experiment": lambda _: mlflow.delete_experiment("1"),
    "restore_experiment": lambda _: MlflowClient().restore_experiment("1"),
    "rename_experiment": lambda _: MlflowClient().rename_experiment("1", "renamed"),
    "delete_experiment_tag": lambda _: MlflowClient().delete_experiment_tag("1", "team"),
    "create_experiment with a place": lambda _: mlflow.create_experiment("placed", artifact_location="/tmp/placed"),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("how", ["refused", "silent"])
def test_what_needs_the_server_says_soon_that_it_is_away(
    away: tuple[Pipeline, RecordingProxy], name: str, how: str
) -> None:
    pipeline, proxy = away
    if how == "silent":  # as long as a call waits then, each of these waits at least once
        pipeline.settings |= {"patience": Settings().patience, "timeout": Settings().timeout}
    other = pipeline.client.create_run("0").info.run_id
    with pipeline.stage() as stage:
        mlflow.log_param("lr", 0.1)
        if how == "refused":
            with proxy.refused(), soon(), pytest.raises(MlflowException, match="API request to"):
                READS[name](other)
        else:
            proxy.silence(times=1_000)
            with soon(), pytest.raises(MlflowException, match="API request to"):
                READS[name](other)
            proxy.forget()

    delivered(stage)
    assert pipeline.all_runs()[0].data.params == {"lr": "0.1"}


def test_a_server_that_asks_to_come_again_is_asked_again(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage:
        mlflow.log_param("lr", 0.1)
        proxy.answer(503, path="runs/search", times=2)
        found = mlflow.search_runs([stage.experiment_id or ""], output_format="list")
    assert stage.run_id in [run.info.run_id for run in found]


def test_a_run_from_before_is_resumed_while_the_server_is_away(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    before = pipeline.client.create_run("0").info.run_id
    with pipeline.stage() as stage, proxy.refused(), soon():
        MlflowClient().log_metric(before, "late", 1.0)
        MlflowClient().log_param(before, "late", 1)

    delivered(stage)
    told = pipeline.run(before)
    assert (told.data.metrics, told.data.params) == ({"late": 1.0}, {"late": "1"})


def test_asynchronous_calls_and_threads_while_the_server_is_away(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away

    def work(number: int) -> None:
        with mlflow.start_run(nested=True, run_name=f"thread {number}"):
            for step in range(50):
                mlflow.log_metric("loss", float(step), step=step, synchronous=step % 2 == 0)

    with pipeline.stage() as stage, proxy.refused(), soon():
        mlflow.log_params({"a": 1}, synchronous=False)
        mlflow.flush_async_logging()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    delivered(stage)
    assert pipeline.run(stage.run_id).data.params == {"a": "1"}
    below = pipeline.below(stage.run_id)
    assert {run.info.run_name for run in below} == {f"thread {number}" for number in range(8)}
    for run in below:
        assert len(pipeline.client.get_metric_history(run.info.run_id, "loss")) == 50


def _fold() -> None:
    mlflow.log_metric("in fork", 1.0)
    mlflow.end_run()
    with mlflow.start_run(run_name="fold"):
        mlflow.log_param("number", 1)
    # What a worker of multiprocessing does at its end, but for what other tests' libraries (Prefect's, for one) left to
    # be done at the end of the process that they share with this one: a fork of it cannot do that.
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]  # what multiprocessing itself calls
    os._exit(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_logs_while_the_server_is_away(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage:
        with proxy.refused(), soon():
            worker = multiprocessing.get_context("fork").Process(target=_fold)
            worker.start()
            worker.join(60)
            assert worker.exitcode == 0
        mlflow.log_metric("after", 1.0)

    delivered(stage)
    # What the fork left behind is delivered by the next process that tracks there.
    with pipeline.stage("next"):
        mlflow.log_param("who", "next")
    expected = {"in fork": 1.0, "after": 1.0}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if pipeline.below(stage.run_id) and pipeline.run(stage.run_id).data.metrics == expected:
            break
        time.sleep(0.5)
    assert pipeline.run(stage.run_id).data.metrics == expected
    (fold,) = pipeline.below(stage.run_id)
    assert (fold.info.run_name, fold.info.status, fold.data.params) == ("fold", "FINISHED", {"number": "1"})


def test_a_stage_that_was_opened_without_the_server_has_everything_in_the_end(
    away: tuple[Pipeline, RecordingProxy],
) -> None:
    pipeline, proxy = away
    with proxy.refused(), soon():
        context = pipeline.stage()
        stage = context.__enter__()
        assert is_provisional(stage.run_id or "")
        with mlflow.start_run(run_name="forest", tags={"team": "risk"}, description="A first try.") as run:
            assert run.info.run_id == stage.run_id
            mlflow.log_param("trees", 100)
            with mlflow.start_run(nested=True, run_name="trial"):
                mlflow.log_metric("auc", 0.9)
        assert mlflow.get_run(stage.run_id or "").data.params == {"trees": "100"}
    mlflow.log_metric("after", 1.0)
    context.__exit__(None, None, None)
    delivered(stage)

    (told,) = [run for run in pipeline.all_runs() if run.info.run_name == "forest"]
    assert told.info.status == "FINISHED"
    assert (told.data.params, told.data.metrics) == ({"trees": "100"}, {"after": 1.0})
    assert told.data.tags["team"] == "risk"
    assert told.data.tags["mlflow.note.content"].startswith("A first try.")
    (trial,) = pipeline.below(told.info.run_id)
    assert (trial.info.run_name, trial.data.metrics) == ("trial", {"auc": 0.9})
    assert MlflowClient(pipeline.uri).get_run(stage.run_id or "").info.run_id == told.info.run_id


@pytest.mark.usefixtures("in_time")
def test_a_tutorial_takes_few_requests(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    # A look whether the server is there is a request more, and so is what is sent for its age.
    pipeline.settings |= {"patience": PATIENCE, "timeout": TIMEOUT, "flush_interval": 60.0}
    with pipeline.stage("first"):  # makes the parent and the experiment
        pass
    proxy.forget()
    with pipeline.stage("second") as stage:
        mlflow.set_experiment(pipeline.workflow)
        with mlflow.start_run() as run:
            for number in range(20):
                mlflow.log_param(f"p{number}", number)
            for step in range(10):
                mlflow.log_metric("loss", 1 / (step + 1), step=step)

    assert run.info.run_id == stage.run_id
    assert len(pipeline.run(stage.run_id).data.params) == 20
    assert len(proxy.requests) <= 5, json.dumps(proxy.calls)
