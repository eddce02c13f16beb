"""What the README and the tutorial say, run as a reader would run it, against a real MLflow server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.airflow import AirflowHome
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.mlflow import MlflowServer
    from tracklayer.store import Run, Store

TOP = Path(__file__).resolve().parents[2]


def blocks(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (TOP / document).read_text(), re.DOTALL | re.MULTILINE)


def block(document: str, text: str) -> str:
    (found,) = [one for one in blocks(document) if text in one]
    return found


@pytest.fixture
def store(mlflow_server: MlflowServer) -> Store:
    return open_store(mlflow_server.uri, connect_timeout=5, timeout=30)


def environment(mlflow_server: MlflowServer, folder: Path) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "TRACKLAYER_", "PREFECT_", "AIRFLOW"))
    }
    prefect = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "DO_NOT_TRACK": "1",
    }
    # The machine is busy, the server is slow, and not away.
    patient = {"TRACKLAYER_PATIENCE": "20"}
    ours = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**clean, **prefect, **patient, **ours}


def run(script: Path, environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, script],
        env=environ,
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stage_of(store: Store, experiment: str) -> Run:
    """The only stage run of the only workflow run in the experiment, both ended as they should."""
    found = store.get_experiment_by_name(experiment)
    assert found is not None
    runs = store.search_runs([found.experiment_id])
    parents = [one for one in runs if "mlflow.parentRunId" not in one.tags]
    stages = [one for one in runs if "mlflow.parentRunId" in one.tags]
    assert [one.status for one in parents] == ["FINISHED"]
    assert [one.status for one in stages] == ["FINISHED"]
    assert stages[0].tags["mlflow.parentRunId"] == parents[0].run_id
    return stages[0]


@pytest.fixture
def name() -> str:
    return f"flights_{uuid.uuid4().hex[:8]}"


def test_the_script(mlflow_server: MlflowServer, store: Store, tmp_path: Path, name: str) -> None:
    script = tmp_path / f"{name}.py"
    script.write_text(block("README.md", "with tracklayer.track("))
    run(script, environment(mlflow_server, tmp_path))
    stage = stage_of(store, name)
    assert stage.params == {"model.learning_rate": "0.1"}
    assert stage.metrics == {"auc": 0.91}
    assert [dataset.context for dataset in stage.datasets] == ["consumed"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_dag(mlflow_server: MlflowServer, store: Store, tmp_path: Path, name: str) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "flights.py").write_text(block("README.md", "@task.tracked").replace("flights()", f"{name}()"))
    told = AirflowHome(tmp_path / "airflow", dags).test(name, environ={"MLFLOW_TRACKING_URI": mlflow_server.uri})
    assert told[name]["state"] == "success"
    stage = stage_of(store, name)
    assert (stage.tags["tracklayer.stage"], stage.tags["tracklayer.orchestrator"]) == ("training", "airflow")
    assert stage.metrics == {"auc": 0.91}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_flow(mlflow_server: MlflowServer, store: Store, tmp_path: Path, name: str) -> None:
    script = tmp_path / "flow.py"
    script.write_text(block("README.md", "@tracked_flow").replace("flights()", f"{name}()"))
    run(script, environment(mlflow_server, tmp_path))
    stage = stage_of(store, name.replace("_", "-"))
    assert (stage.tags["tracklayer.stage"], stage.tags["tracklayer.orchestrator"]) == ("training", "prefect")
    assert stage.metrics == {"auc": 0.91}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pipeline(mlflow_server: MlflowServer, store: Store, tmp_path: Path, name: str) -> None:
    pipeline = name.replace("_", "-")
    script = tmp_path / "pipeline.py"
    local = (
        "\nif __name__ == '__main__':\n"
        "    from kfp import local\n"
        f"    local.init(local.SubprocessRunner(use_venv=False), pipeline_root={str(tmp_path / 'root')!r})\n"
        "    flights()\n"
    )
    script.write_text(block("README.md", "@tracked_pipeline").replace('"flights"', f'"{pipeline}"') + local)
    run(script, environment(mlflow_server, tmp_path))
    stage = stage_of(store, pipeline)
    assert (stage.tags["tracklayer.stage"], stage.tags["tracklayer.orchestrator"]) == ("training", "kubeflow")
    assert stage.metrics["auc"] == 0.91
    assert stage.params["learning_rate"] == "0.1"


def test_the_tutorial(mlflow_server: MlflowServer, store: Store, tmp_path: Path, name: str) -> None:
    environ = environment(mlflow_server, tmp_path)
    for script, text in (("prepare", "run.produces("), ("fit", "run.consumes(")):
        (tmp_path / f"{script}_{name}.py").write_text(
            block("docs/tutorial/first-story.md", text).replace("file:points.csv", f"file:{name}.csv")
        )
    run(tmp_path / f"prepare_{name}.py", environ)
    run_id = run(tmp_path / f"fit_{name}.py", environ).strip().splitlines()[-1]
    fit = stage_of(store, f"fit_{name}")
    assert fit.run_id == run_id
    assert fit.metrics == {"slope": 2.0}
    prepare = stage_of(store, f"prepare_{name}")
    done = subprocess.run(
        [Path(sys.executable).with_name("tracklayer"), "lineage", run_id, "--format", "json"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    story = json.loads(done.stdout)
    assert prepare.run_id in json.dumps(story)
    assert f"/runs/{run_id}" in store.get_run(prepare.run_id).tags["mlflow.note.content"]


def test_the_plugin(mlflow_server: MlflowServer, store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "risk_conventions.py").write_text(block("docs/how-to/write-a-plugin.md", "tracklayer_run_tags"))
    (tmp_path / "tracklayer.toml").write_text('plugins = ["risk_conventions"]\n')
    script = tmp_path / f"{name}.py"
    script.write_text("import tracklayer\n\nwith tracklayer.track('training'):\n    pass\n")
    run(script, {**environment(mlflow_server, tmp_path), "PYTHONPATH": str(tmp_path)})
    assert stage_of(store, f"/Shared/risk/{name}").tags["team"] == "risk"
