"""A stage while its server is away: what the outage adds to the time of the task, as its orchestrator sees it.

Run as a program it is the task: some work, some logging, and calls of all kinds that would like an answer. It says when it begins (imports done), and its end is the end
of its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logging_ways import FOREIGN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracklayer.stage import StageRun

WORK = 0.3
"""Seconds of work in the task."""


def task(way: str, environ: Mapping[str, str], *, cap: float, meanwhile: Callable[[], None] | None = None) -> float:
    """Seconds from a task's begin to the end of its process.

    Args:
        way: ``tracked`` or ``fluent``.
        environ: its variables.
        cap: seconds after which it is killed.
        meanwhile: done when the task is half-way through; None for nothing.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env = {**inherited, "MLFLOW_DISABLE_TELEMETRY": "true", **environ}
    process = subprocess.Popen(
        [sys.executable, __file__, way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        began = float(process.stdout.readline())
        if meanwhile is not None:
            process.stdout.readline()  # it is half-way
            meanwhile()
        process.stdin.close()
        try:
            process.wait(cap)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return time.monotonic() - began


def _tracked() -> None:
    import mlflow
    from mlflow.store.artifact import mlflow_artifacts_repo as _artifacts  # noqa: F401 — MLflow's own imports, too
    from mlflow.tracking.context.registry import resolve_tags

    from tracklayer import RunContext, TaskRun, WorkflowRun, track
    from tracklayer.journal import recorder as _recorder  # noqa: F401 — what a stage imports is not the outage's cost
    from tracklayer.store import rest as _rest  # noqa: F401

    resolve_tags()  # with its first run MLflow imports what it asks about git, the server there or away
    _say(time.monotonic())
    workflow_run = WorkflowRun(orchestrator="bench", workflow="bench-outage", run_id=f"r{time.time_ns()}")
    with track("training", context=RunContext(workflow_run=workflow_run, task_run=TaskRun(task="t"))) as run:
        for step in range(10):
            run.log_metric("loss", step * 0.1, step)
        _half()
        for step in range(10, 20):
            run.log_metric("loss", step * 0.1, step)
        if run.run_id is not None:  # untracked, MLflow's calls would wait for minutes
            _ask(mlflow, run)


def _ask(mlflow: Any, run: StageRun) -> None:
    """All kinds of calls that would like an answer of the server's: runs below the stage, artifacts, reads, links."""
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.bin")
        file.write_bytes(b"m" * 2_000_000)
        run.log_artifact(file)
        mlflow.log_artifact(str(file), "later")
    for fold in range(5):
        with mlflow.start_run(nested=True):
            mlflow.log_metric("loss", fold)
    mlflow.set_tag("mlflow.note.content", "What was tried")
    run.consumes("s3://bench/outage")
    mlflow.MlflowClient().get_run(run.run_id)


def _fluent() -> None:
    import mlflow

    _say(time.monotonic())
    with mlflow.start_run():
        mlflow.log_metric("loss", 0.1)


def _half() -> None:
    time.sleep(WORK)
    _say("half-way")
    sys.stdin.read()


def _say(what: object) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    {"tracked": _tracked, "fluent": _fluent}[sys.argv[1]]()
