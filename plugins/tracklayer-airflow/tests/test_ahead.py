"""What a tracked task's process has by its fork, so that it imports nothing itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from harness.mlflow import MlflowServer

PROGRAM = """
import json, os, sys

import airflow.sdk
from tracklayer_airflow.ahead import import_ahead

import_ahead()
before = set(sys.modules)
if os.fork() == 0:  # as LocalExecutor and Celery's workers do
    from tracklayer import RunContext, TaskRun, WorkflowRun, track

    run = WorkflowRun(orchestrator="airflow", workflow="ahead", run_id="1")
    with track("training", context=RunContext(workflow_run=run, task_run=TaskRun(task="train"))) as stage:
        stage.log_metric("auc", 0.9)
    stage.flush()
    print(json.dumps([stage.run_id, sorted(before), sorted(set(sys.modules) - before)]), flush=True)
    os._exit(0)
os.wait()
"""


def test_a_fork_imports_nothing_of_tracking(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKLAYER_"))}
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **inherited,
            "AIRFLOW_HOME": str(tmp_path),
            "MLFLOW_TRACKING_URI": mlflow_server.uri,
            "TRACKLAYER_JOURNAL": str(tmp_path / "journal"),
            "TRACKLAYER_PATIENCE": "20",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    run_id, ahead, after = json.loads(told.stdout)
    assert run_id
    assert "mlflow" not in ahead
    parts = {name.partition(".")[0] for name in after}
    assert parts & {"tracklayer", "tracklayer_airflow", "urllib3", "msgspec", "encodings", "ssl"} == set()
