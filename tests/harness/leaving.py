"""Processes that log to a journal through a recorder and then end in some way, for tests of what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracklayer import RunContext, TaskRun, WorkflowRun
from tracklayer.identity import run_key, workflow_run_key
from tracklayer.opening import Opening
from tracklayer.tags import run_tags

if TYPE_CHECKING:
    from tracklayer.settings import Settings

BEGAN = 1_700_000_000_000
"""When the workflow runs of these stories began."""

STORY = """
import os, signal, sys
from harness.leaving import opening_of
from harness.patience import patient
from tracklayer.backend import open_backend
from tracklayer.journal.operations import *
from tracklayer.journal.recorders import recorder_of
from tracklayer.provisional import PENDING, provisional_id

uri, journal, name, end, carry = sys.argv[1:]
settings = patient(uri, journal=journal, carry=carry or None)
recorder = recorder_of(open_backend(settings), settings)
local = recorder.begin(opening_of(name), wait=20).ref.run_id
fold = Create(provisional_id(), PENDING, "fold", 1_700_000_000_700, {"mlflow.parentRunId": local}, local)
nested = recorder.create(fold, wait=20).run_id
recorder.append(Log(local, params={"lr": "0.1"}))
recorder.append(Log(nested, points=tuple(Point("loss", float(n), 1_700_000_001_000 + n, n) for n in range(2_500))))
recorder.append(Artifact(local, "notes/a.txt", recorder.keep(b"hello")))
if end == "flush":
    recorder.flush()
if end == "open":
    recorder.append(LeftOpen(local))
    recorder.append(End(nested, "FINISHED", 1_700_000_002_000))
if end == "exit":
    recorder.append(End(nested, "FINISHED", 1_700_000_002_000))
    recorder.append(End(local, "FINISHED", 1_700_000_002_000))
print(local, nested, flush=True)
if end != "exit":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def opening_of(name: str, task: str = "train", **more: Any) -> Opening:
    """What is known about a task's run in the only run of the workflow `name`."""
    context = RunContext(
        workflow_run=WorkflowRun(orchestrator="test", workflow=name, run_id="r1"), task_run=TaskRun(task=task)
    )
    parent = Opening(
        context=context.of_workflow_run(),
        key=workflow_run_key(context.workflow_run),
        experiment=name,
        home=name,
        name="r1",
        start_time=BEGAN,
        tags=run_tags(context.of_workflow_run()),
    )
    return replace(
        parent,
        context=context,
        key=run_key(context),
        name=task,
        start_time=BEGAN + 500,
        tags=run_tags(context),
        parent=parent,
        **more,
    )


def story(settings: Settings, name: str, end: str) -> list[str]:
    """Let a process log to a stage run and to one below it, and then end.

    Args:
        settings: where the journal and the server are, and whether it is carried away.
        name: name of the workflow.
        end: ``exit``: in order; ``now``: killed; ``flush``: killed after everything was sent; ``open``: killed after
            the stage run was left open on purpose.

    Returns:
        The ids of the two runs that it was given.
    """
    told = [str(settings.tracking_uri), str(settings.journal), name, end, settings.carry or ""]
    done = subprocess.run(
        [sys.executable, "-c", STORY, *told],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (0 if end == "exit" else -signal.SIGKILL), done.stderr
    return done.stdout.split()
