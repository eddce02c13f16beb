"""The example pipelines, on real data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from kubeflow_story import Story, links

from tracklayer.context import RunRef, Token
from tracklayer.identity import format_token, parse_token

PIPELINES = Path(__file__).parents[3] / "pipelines"
MIDDLE_OF_THE_RELAY = """
import json, os, sys
with open({told!r}, "w") as file:
    json.dump({{"arguments": sys.argv[1:], "token": os.environ.get("TRACKLAYER_PARENT")}}, file)
"""

pytestmark = [
    pytest.mark.skipif(find_spec("flights_model") is None, reason="the example's package is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def run(file: str, *arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PIPELINES / file), *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_pipeline_prepares_trains_and_evaluates(story: Story, tmp_path: Path) -> None:
    work = ("--work-dir", str(tmp_path / "work"))
    ran = run("flights.py", "--sample", "6000", "--max-iter", "4", *work, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {one.status for one in story.runs} == {"FINISHED"}
    assert story.parent.params == {"sample": "6000", "max_iter": "4", "learning_rate": "0.1"}
    prepare, train, evaluate = story.stages
    assert [one.tags["tracklayer.stage"] for one in story.stages] == ["data-prep", "training", "evaluation"]
    assert prepare.metrics["rows_train"] > prepare.metrics["rows_test"] > 0
    assert train.params["max_iter"] == "4"
    assert 0 < train.metrics["validation_loss"] < 1
    assert 0.5 < evaluate.metrics["roc_auc"] < 1
    assert set(links(train)) == {prepare.run_id}
    assert set(links(evaluate)) == {prepare.run_id, train.run_id}
    model = mlflow_model_of(story, train.run_id)
    assert model["signature"]


def test_the_middle_of_the_relay(story: Story, tmp_path: Path) -> None:
    from flights_model.preparation import prepare

    prepared = prepare(tmp_path / "data", sample=6000)
    flow = tmp_path / "flow.py"
    flow.write_text(MIDDLE_OF_THE_RELAY.format(told=str(tmp_path / "told.json")))
    outside = RunRef(run_id="1" * 32, experiment_id="7", stage="data-prep")
    token = format_token(Token(run=outside, root="2" * 32))
    script = tmp_path / "start.py"
    script.write_text(
        "import pathlib, runpy, sys\n"
        f"module = runpy.run_path({str(PIPELINES / 'flights_train.py')!r})\n"
        f"module['main'].__globals__['FLOW'] = pathlib.Path({str(flow)!r})\n"
        "module['main']()\n"
    )
    ran = subprocess.run(
        [
            *(sys.executable, str(script), "--train", prepared.train.path, "--test", prepared.test.path),
            *("--max-iter", "3", "--work-dir", str(tmp_path / "work")),
        ],
        cwd=tmp_path,
        env={**os.environ, "TRACKLAYER_PARENT": token},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    train = story.stage
    assert train.status == story.parent.status == "FINISHED"
    assert links(train) == links(story.parent) == {outside.run_id: "token"}
    assert train.tags["tracklayer.stage"] == "training"
    told = json.loads((tmp_path / "told.json").read_text())
    arguments = dict(zip(told["arguments"][::2], told["arguments"][1::2], strict=True))
    assert arguments["--model"].startswith("models:/m-")
    assert arguments["--train"] == prepared.train.path
    assert arguments["--test"] == prepared.test.path
    handed_over = parse_token(told["token"])
    assert handed_over.run.run_id == train.run_id
    assert handed_over.root == "2" * 32
    assert mlflow_model_of(story, train.run_id)["signature"]


def test_the_middle_of_the_relay_fails_loudly(story: Story, tmp_path: Path) -> None:
    arguments = ("--train", "nowhere.parquet", "--test", "nowhere.parquet", "--work-dir", str(tmp_path / "work"))
    ran = run("flights_train.py", *arguments, cwd=tmp_path)
    assert ran.returncode != 0
    assert story.parent.status == "FAILED"
    assert story.stage.tags["tracklayer.error.type"] == "FileNotFoundError"


@pytest.mark.parametrize("file", ["flights.py", "flights_train.py"])
def test_they_compile(tmp_path: Path, file: str) -> None:
    output = tmp_path / "compiled.yaml"
    kfp = str(Path(sys.executable).with_name("kfp"))
    command = [kfp, "dsl", "compile", "--py", str(PIPELINES / file), "--output", str(output)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    spec = next(yaml.safe_load_all(output.read_text()))
    assert spec["pipelineInfo"]["name"] == file.removesuffix(".py").replace("_", "-")
    assert str(PIPELINES.parent) not in output.read_text()


def mlflow_model_of(story: Story, run_id: str) -> dict[str, object]:
    """The ``MLmodel`` of the only logged model of a run."""
    from mlflow import MlflowClient

    client = MlflowClient(story.uri)
    run = client.get_run(run_id)
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert model.source_run_id == run_id
    from mlflow.models import get_model_info

    info = get_model_info(f"models:/{output.model_id}")
    return {"signature": info.signature}
