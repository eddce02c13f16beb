"""``make demo``: the whole story, read from the database that it leaves behind through MLflow's own library."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from mlflow import MlflowClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities import Run

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = "mlflow.tracklayer.upstream."
WORKFLOWS = {"airflow": "flights_prepare", "kubeflow": "flights-train", "prefect": "flights-evaluate"}
STAGES = {"data-prep": "airflow", "training": "kubeflow", "evaluation": "prefect"}
QUICK = ("--sample", "6000", "--max-iter", "5")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def relay(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "examples.relay", "--home", str(home), *QUICK, *arguments]


def processes_of(home: Path) -> list[str]:
    """Whatever still runs for a demo in `home`: the relay puts the folder into everything's environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("AIRFLOW_HOME") == str(home / "airflow") and process.status() != "zombie":
                found.append(" ".join(process.cmdline()))
    return found


class Demo:
    """A demo that has run: what it printed and what is in its database."""

    def __init__(self, home: Path, output: str) -> None:
        self.home = home
        self.output = output
        self.uri = f"sqlite:///{home / 'mlflow.db'}"
        self.client = MlflowClient(self.uri)

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, order_by=["attributes.start_time ASC"]))

    def parents(self) -> dict[str, list[Run]]:
        return {
            orchestrator: [
                run
                for run in self.runs()
                if run.data.tags.get("tracklayer.orchestrator") == orchestrator
                and "mlflow.parentRunId" not in run.data.tags
            ]
            for orchestrator in WORKFLOWS
        }

    def stages(self, stage: str) -> list[Run]:
        return [run for run in self.runs() if run.data.tags.get("tracklayer.stage") == stage]

    def upstream(self, run: Run) -> set[str]:
        return {name.removeprefix(UPSTREAM) for name in run.data.tags if name.startswith(UPSTREAM)}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    home = tmp_path_factory.mktemp("demo")
    finished = subprocess.run(relay(home), cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert processes_of(home) == []
    yield Demo(home, finished.stdout)
    shutil.rmtree(home, ignore_errors=True)


def test_there_are_three_workflow_runs_in_experiments_named_from_their_contexts(demo: Demo) -> None:
    for orchestrator, runs in demo.parents().items():
        assert len(runs) == 1, orchestrator
        assert demo.client.get_experiment(runs[0].info.experiment_id).name == WORKFLOWS[orchestrator]
    assert demo.client.search_runs(["0"]) == []  # nothing in Default


def test_every_stage_is_under_the_parent_of_its_orchestrator_and_everything_is_finished(demo: Demo) -> None:
    parents = demo.parents()
    for stage, orchestrator in STAGES.items():
        (run,) = demo.stages(stage)
        assert run.data.tags["mlflow.parentRunId"] == parents[orchestrator][0].info.run_id
        assert run.info.experiment_id == parents[orchestrator][0].info.experiment_id
    assert {run.info.run_name: run.info.status for run in demo.runs() if run.info.status != "FINISHED"} == {}


def test_links_lead_from_the_evaluation_over_the_training_to_the_data(demo: Demo) -> None:
    (data_prep,), (training,), (evaluation,) = (demo.stages(stage) for stage in STAGES)
    assert training.info.run_id in demo.upstream(evaluation)
    assert data_prep.info.run_id in demo.upstream(training)


def test_every_stage_carries_the_commit(demo: Demo) -> None:
    commits = {demo.stages(stage)[0].data.tags.get("mlflow.source.git.commit") for stage in STAGES}
    assert len(commits) == 1
    if shutil.which("git"):
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        if head.returncode == 0:
            assert commits == {head.stdout.strip()}


def test_the_model_is_a_logged_model_of_the_training_run(demo: Demo) -> None:
    (training,), (evaluation,) = demo.stages("training"), demo.stages("evaluation")
    (model,) = demo.client.search_logged_models([training.info.experiment_id])
    assert model.source_run_id == training.info.run_id
    assert model.status == "READY"
    assert evaluation.data.params["model_uri"] == model.model_uri


def test_each_stage_holds_what_its_plain_mlflow_calls_logged(demo: Demo) -> None:
    (data_prep,), (training,), (evaluation,) = (demo.stages(stage) for stage in STAGES)
    assert data_prep.data.metrics["rows_read"] == 6000
    assert training.data.params["max_iter"] == "5"
    curve = demo.client.get_metric_history(training.info.run_id, "validation_loss")
    assert [point.step for point in curve] == list(range(6))
    assert 0 < evaluation.data.metrics["roc_auc"] < 1
    assert len(list(demo.home.joinpath("artifacts").rglob("plots/*.png"))) == 3


def test_the_command_line_draws_the_lineage_from_the_database_alone(demo: Demo) -> None:
    data_prep, evaluation = demo.stages("data-prep")[0], demo.stages("evaluation")[0]
    command = [Path(sys.executable).with_name("tracklayer"), "lineage", evaluation.info.run_id, "--format", "json"]
    answer = subprocess.run([*command, "--tracking-uri", demo.uri], capture_output=True, text=True, check=True)
    graph = json.loads(answer.stdout)
    assert {data_prep.info.run_id, evaluation.info.run_id} <= {node["id"] for node in graph["nodes"]}
    reached = {evaluation.info.run_id}
    while further := {edge["source"] for edge in graph["edges"] if edge["target"] in reached} - reached:
        reached |= further
    assert {demo.stages(stage)[0].info.run_id for stage in STAGES} <= reached


def test_it_says_what_happens_and_where_to_look(demo: Demo) -> None:
    for stage in STAGES:
        assert f"[{stage}]: finished" in demo.output
    assert "$ tracklayer lineage" in demo.output
    for stage in STAGES:
        run = demo.stages(stage)[0]
        assert f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" in demo.output


def test_a_second_demo_adds_a_second_story_and_keeps_the_pages_open_until_it_is_told_to_stop(demo: Demo) -> None:
    before = {run.info.run_id for run in demo.runs()}
    stories = {orchestrator: len(runs) for orchestrator, runs in demo.parents().items()}
    with subprocess.Popen(relay(demo.home, "--keep"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("keeps running" in line for line in process.stdout)
        time.sleep(0.5)
        assert any("mlflow" in command for command in processes_of(demo.home))
        assert not any("prefect" in command for command in processes_of(demo.home))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert processes_of(demo.home) == []
    assert {orchestrator: len(runs) - 1 for orchestrator, runs in demo.parents().items()} == stories
    data_prep, training, evaluation = (demo.stages(stage)[-1] for stage in STAGES)
    assert demo.upstream(evaluation) & before == set()  # the stories are not mixed up
    assert training.info.run_id in demo.upstream(evaluation)
    assert data_prep.info.run_id in demo.upstream(training)


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGTERM, "flights_prepare, "), (signal.SIGINT, "[training]: running")]
)
def test_an_interrupted_demo_leaves_no_process_and_no_run_behind(
    demo: Demo, number: signal.Signals, moment: str
) -> None:
    with subprocess.Popen(relay(demo.home), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                break
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert processes_of(demo.home) == []
    assert [run.info.run_name for run in demo.runs() if run.info.status == "RUNNING"] == []


def test_a_demo_that_fails_says_why_and_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where a folder must be")
    finished = subprocess.run(relay(tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 1
    assert "failed" in finished.stdout
    assert "Traceback" not in finished.stderr
    assert processes_of(tmp_path) == []
