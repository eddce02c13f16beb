"""Ids that one process was given while the server was away lead another one to what was created on delivery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
import pytest
from mlflow.pyfunc.model import PythonModel

from harness.pipeline import PLUGINS
from harness.process import wait_for
from tracklayer.provisional import is_provisional, provisional_model_id

if TYPE_CHECKING:
    from harness.line import Line

# What MLflow warns of among itself is not the matter here.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]

ELSEWHERE = """
import json, os, sys, time, warnings
from contextlib import nullcontext
warnings.simplefilter("ignore")
import mlflow, tracklayer
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, LoggedModelOutput
from mlflow.exceptions import MlflowException
from tracklayer import RunContext, TaskRun, WorkflowRun

client, told = MlflowClient(), {}
given = json.loads(os.environ["GIVEN"])
R, M = given["run"], given["model"]

def tell(name, call):
    try:
        told[name] = call()
    except MlflowException as error:
        told[name] = f"{error.error_code}: {error}"

context = RunContext(
    workflow_run=WorkflowRun(orchestrator="test", workflow=given["workflow"], run_id="r2"),
    task_run=TaskRun(task="evaluation"), owns_workflow_run=True,
)
with tracklayer.track("evaluation", context=context) if given["stage"] else nullcontext() as stage:
    # what the test does
    pass
print(json.dumps(told))
"""


class Constant(PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:  # type: ignore[override]  # MLflow takes this form too
        return ["on time" for _ in model_input]


class Given:
    """Ids that were given out while the server was away, and what they lead to.

    Attributes:
        line: the way to the server, which is back.
        run: the id of a run below a stage, as it was given out.
        run_id: the server's id of it.
        model: the id of its model, as it was given out; empty where it has none.
        model_id: the server's id of that.
        artifact_uri: where the artifacts of the run were said to be.
    """

    def __init__(self, line: Line, *, model: bool = False) -> None:
        self.line = line
        self.model = self.model_id = ""
        line.cut()
        with line.stage() as stage, mlflow.start_run() as run:
            self.run, self.artifact_uri = run.info.run_id, run.info.artifact_uri
            mlflow.log_metric("m", 0.5)
            mlflow.log_text("before", "x.txt")
            if model:
                made = mlflow.pyfunc.log_model(name="model", python_model=Constant(), pip_requirements=[])
                self.model = made.model_id or ""
        line.mend()
        line.deliver(stage)
        assert stage.recorder is not None
        assert is_provisional(self.run)
        self.run_id = stage.recorder.resolve(self.run) or ""
        self.model_id = stage.recorder.resolve(self.model) or "" if model else ""

    def elsewhere(self, code: str, *, stage: bool, folder: Path) -> dict[str, Any]:
        """What calls tell in a process that knows nothing but the ids.

        Args:
            code: what is done there, a line each; ``tell`` keeps what a call returns, or how MLflow refuses it.
            stage: whether it is done inside a stage.
            folder: where the process runs.
        """
        given = {
            "run": self.run,
            "model": self.model,
            "place": self.artifact_uri,
            "workflow": self.line.pipeline.workflow,
            "stage": stage,
        }
        body = "\n".join(f"    {text}" for text in code.strip().splitlines())
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE.replace("    # what the test does", body)],
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": self.line.proxy.uri,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),  # where the model's class is
                "TRACKLAYER_DISABLED_PLUGINS": ",".join(PLUGINS),
                "TRACKLAYER_PATIENCE": "8",
                "GIVEN": json.dumps(given),
            },
            capture_output=True, text=True, cwd=folder, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told


READS = """
tell("get_run", lambda: client.get_run(R).info.run_id)
tell("history", lambda: [point.value for point in client.get_metric_history(R, "m")])
tell("list", lambda: [file.path for file in client.list_artifacts(R)])
tell("runs:/", lambda: mlflow.artifacts.load_text(f"runs:/{R}/x.txt"))
tell("place", lambda: mlflow.artifacts.load_text(given["place"] + "/x.txt"))
tell("log_text", lambda: client.log_text(R, "after", "y.txt"))
tell("search", lambda: [run.info.run_id for run in client.search_runs(
    [client.get_run(R).info.experiment_id], f"attributes.run_id = '{R}'")])
"""

STARTS = """
with mlflow.start_run(run_id=R) as run:
    told["run"] = run.info.run_id
    mlflow.log_metric("again", 1.0)
    mlflow.log_param("again", "yes")
    mlflow.set_tag("again", "yes")
    mlflow.log_text("again", "z.txt")
tell("list", lambda: [file.path for file in client.list_artifacts(R)])
"""


@pytest.mark.parametrize("stage", [True, False])
def test_a_run_is_read_elsewhere_by_the_id_that_was_given_out(line: Line, tmp_path: Path, stage: bool) -> None:
    given = Given(line)
    assert given.elsewhere(READS, stage=stage, folder=tmp_path) == {
        "get_run": given.run_id,
        "history": [0.5],
        "list": ["x.txt"],
        "runs:/": "before",
        "place": "before",
        "log_text": None,
        "search": [given.run_id],
    }
    assert line.paths(given.run_id) == ["x.txt", "y.txt"]


@pytest.mark.parametrize("stage", [True, False])
def test_a_run_goes_on_elsewhere_by_the_id_that_was_given_out(line: Line, tmp_path: Path, stage: bool) -> None:
    given = Given(line)
    told = given.elsewhere(STARTS, stage=stage, folder=tmp_path)
    assert told == {"run": given.run_id, "list": ["x.txt", "z.txt"]}
    run = line.client.get_run(given.run_id)
    assert (run.info.status, run.data.metrics, run.data.params) == (
        "FINISHED",
        {"m": 0.5, "again": 1.0},
        {"again": "yes"},
    )
    assert run.data.tags["again"] == "yes"
    assert line.paths(given.run_id) == ["x.txt", "z.txt"]


IN_VAIN = """
tell("first", lambda: client.get_run(R).info.run_id)
open("asked", "w").close()
while not (os.path.exists("back") and stage.recorder.flush()):
    time.sleep(0.1)
tell("get_run", lambda: client.get_run(R).info.run_id)
tell("history", lambda: [point.value for point in client.get_metric_history(R, "m")])
tell("log_metric", lambda: client.log_metric(R, "late", 1.0))
"""


def test_a_run_that_was_asked_for_in_vain_is_found_once_the_server_is_back(line: Line, tmp_path: Path) -> None:
    given = Given(line)
    line.cut()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(given.elsewhere, IN_VAIN, stage=True, folder=tmp_path)
        wait_for(lambda: (tmp_path / "asked").exists() or done.done(), 60, "the first question")
        line.mend()
        (tmp_path / "back").touch()
        told = done.result()
    assert told.pop("first").startswith(("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"))
    assert told == {"get_run": given.run_id, "history": [0.5], "log_metric": None}
    assert line.client.get_run(given.run_id).data.metrics == {"m": 0.5, "late": 1.0}


REGISTERS = """
def version(uri, name):
    made = mlflow.register_model(uri, name)
    again = client.get_model_version(name, made.version)
    return [again.source, again.run_id]  # a database keeps no model_id: it is in the source

name = given["workflow"]
tell("models:/", lambda: version(f"models:/{M}", name))
tell("runs:/", lambda: version(f"runs:/{R}/model", name))
tell("client", lambda: client.create_model_version(name, f"models:/{M}", R, model_id=M).source)
tell("place", lambda: client.create_model_version(name, given["place"] + "/files", R).source)
tell("search", lambda: len(client.search_model_versions(f"run_id = '{R}'")))
tell("versions", lambda: sorted({int(made["version"]) for made in json.loads(
    client.get_logged_model(M).tags["mlflow.modelVersions"])}))
"""

MEASURES = """
with nullcontext() if given["stage"] else mlflow.start_run():
    tell("metric", lambda: mlflow.log_metric("auc", 0.7, model_id=M))
    tell("metrics", lambda: mlflow.log_metrics({"f1": 0.6}, model_id=M))
    tell("own", lambda: client.log_metric(R, "own", 0.5, model_id=M))
    tell("inputs", lambda: client.log_inputs(R, models=[LoggedModelInput(M)]))
    told["made"] = client.create_run(client.get_run(R).info.experiment_id).info.run_id
    tell("outputs", lambda: client.log_outputs(told["made"], [LoggedModelOutput(M, 3)]))
tell("search", lambda: [model.model_id for model in mlflow.search_logged_models(
    [client.get_run(R).info.experiment_id], filter_string=f"source_run_id = '{R}'", output_format="list")])
tell("new", lambda: client.create_logged_model(client.get_run(R).info.experiment_id, "new", source_run_id=R).name)
"""


@pytest.mark.parametrize("stage", [True, False])
def test_a_model_is_registered_elsewhere_by_the_ids_that_were_given_out(
    line: Line, tmp_path: Path, stage: bool
) -> None:
    given = Given(line, model=True)
    real = [f"models:/{given.model_id}", given.run_id]
    assert given.elsewhere(REGISTERS, stage=stage, folder=tmp_path) == {
        "models:/": real,
        "runs:/": real,
        "client": real[0],
        "place": f"{line.client.get_run(given.run_id).info.artifact_uri}/files",
        "search": 4,
        "versions": [1, 2, 3],
    }


@pytest.mark.parametrize("stage", [True, False])
def test_metrics_of_a_model_are_logged_elsewhere_by_the_id_that_was_given_out(
    line: Line, tmp_path: Path, stage: bool
) -> None:
    given = Given(line, model=True)
    told = given.elsewhere(MEASURES, stage=stage, folder=tmp_path)
    made = line.client.get_run(told.pop("made"))
    calls = ("metric", "metrics", "own", "inputs", "outputs")
    assert told == {**dict.fromkeys(calls), "search": [given.model_id], "new": "new"}
    (new,) = line.client.search_logged_models([line.experiment_id], filter_string="name = 'new'")
    assert new.source_run_id == given.run_id
    run = line.client.get_run(given.run_id)
    assert run.inputs is not None
    assert [read.model_id for read in run.inputs.model_inputs] == [given.model_id]
    assert made.outputs is not None
    assert [(output.model_id, output.step) for output in made.outputs.model_outputs] == [(given.model_id, 3)]
    model = line.client.get_logged_model(given.model_id)
    assert {metric.key: metric.value for metric in model.metrics or ()} == {"m": 0.5, "auc": 0.7, "f1": 0.6, "own": 0.5}


@pytest.mark.parametrize("stage", [True, False])
def test_a_model_that_is_not_there_yet_is_not_registered_and_that_is_said_at_once(
    line: Line, tmp_path: Path, stage: bool
) -> None:
    given = Given(line)
    code = f'tell("register", lambda: mlflow.register_model("models:/{provisional_model_id()}", given["workflow"]))'
    begun = time.monotonic()
    told = given.elsewhere(code, stage=stage, folder=tmp_path)
    assert time.monotonic() - begun < 100  # MLflow would ask again for minutes
    assert told["register"].startswith("RESOURCE_DOES_NOT_EXIST"), told


def test_a_metric_of_a_dataset_that_is_logged_while_the_server_is_away(line: Line) -> None:
    dataset: Any = mlflow.data.from_pandas(pd.DataFrame({"delay": [1, 2]}), name="flights")  # type: ignore[attr-defined]
    line.cut()
    with line.stage() as stage:
        mlflow.log_input(dataset, context="training")
        mlflow.log_metric("auc", 0.9, dataset=dataset)
        mlflow.log_metrics({"f1": 0.8}, dataset=dataset)
    line.mend()
    run = line.client.get_run(line.deliver(stage))
    assert run.inputs is not None
    assert [read.dataset.name for read in run.inputs.dataset_inputs] == ["flights"]
    for key, value in (("auc", 0.9), ("f1", 0.8)):
        assert run.data.metrics[key] == value


def test_a_trace_reaches_the_experiment_that_was_chosen_while_the_server_was_away(line: Line) -> None:
    name = f"chosen-{line.pipeline.workflow}"
    with line.stage() as stage:
        line.cut()
        mlflow.set_experiment(name)
        with mlflow.start_run(run_name="daily"):
            line.mend()
            with mlflow.start_span(name="one"):
                pass
        mlflow.flush_trace_async_logging()
    line.deliver(stage)
    experiment = line.client.get_experiment_by_name(name)
    assert experiment is not None
    (trace,) = line.client.search_traces(locations=[experiment.experiment_id])
    assert trace.info.trace_metadata["mlflow.sourceRun"]
