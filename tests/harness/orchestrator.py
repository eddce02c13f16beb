"""An orchestrator of the tests' own, which says what a test has written down: a plugin named in the settings.

``Truth(folder)`` writes; the plugin reads the file that the variable ``HARNESS_TRUTH`` names, in whatever process.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import State
from tracklayer.hookspecs import hookimpl

if TYPE_CHECKING:
    from tracklayer.context import RunRef, TaskRun, WorkflowRun

NAME: Final = "harness"
VARIABLE: Final = "HARNESS_TRUTH"
PLUGIN: Final = "harness.orchestrator"


class Truth:
    """What has become of workflow runs and tasks, as the orchestrator would say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: dict[str, Any] = {"asked": []}
        self._write()

    def workflow(self, run_id: str, status: str, ended_at: datetime | None = None, said: str | None = None) -> None:
        """Say what has become of a workflow run."""
        self._told[run_id] = [status, ended_at.isoformat() if ended_at else None, said, None]
        self._write()

    def task(
        self, run_id: str, task: str, status: str, ended_at: datetime | None = None, note: str | None = None
    ) -> None:
        """Say what has become of a task in it: ``train``, ``train[3]#2``."""
        name = task if "#" in task else f"{task}#1"
        self._told[f"{run_id}/{name}"] = [status, ended_at.isoformat() if ended_at else None, None, note]
        self._write()

    def ended(self) -> list[list[str]]:
        """The ends of runs that the plugin was told of: run id and status."""
        log = self.path.with_suffix(".ended")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def _write(self) -> None:
        self.path.write_text(json.dumps(self._told))


def _state(name: str) -> State | None:
    path = os.environ.get(VARIABLE)
    told = json.loads(Path(path).read_text()).get(name) if path else None
    if told is None:
        return None
    status, ended_at, said, note = told
    return State(status=status, ended_at=datetime.fromisoformat(ended_at) if ended_at else None, said=said, note=note)


@hookimpl
def tracklayer_workflow_state(workflow_run: WorkflowRun) -> State | None:
    """What the test has said."""
    return _state(workflow_run.run_id) if workflow_run.orchestrator == NAME else None


@hookimpl
def tracklayer_task_state(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What the test has said."""
    index = "" if task_run.index is None else f"[{task_run.index}]"
    name = f"{workflow_run.run_id}/{task_run.task}{index}#{task_run.try_number}"
    return _state(name) if workflow_run.orchestrator == NAME else None


@hookimpl
def tracklayer_run_ended(run: RunRef, status: str) -> None:
    """Write down who was said to have ended."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).with_suffix(".ended").open("a") as log:
            log.write(json.dumps([run.run_id, status]) + "\n")
