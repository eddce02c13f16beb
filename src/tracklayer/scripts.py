"""Code that runs in no orchestrator: a script or a notebook is a workflow of its own, each process one run of it."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname

from tracklayer.context import SCRIPT, RunContext, TaskRun, WorkflowRun
from tracklayer.singleton import singleton


@singleton
def _process() -> tuple[int, str, datetime]:
    """Process id, workflow-run id and time of the process that first asked; a fork of it shares its workflow run."""
    now = datetime.now(UTC)
    return os.getpid(), f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}", now


@singleton
def _opened() -> Counter[str]:
    """How often each task was opened in this process."""
    return Counter()


def instance() -> str:
    """Which installation a script runs in: the host's name, whatever the setting ``instance`` says of orchestrators."""
    return gethostname() or "default"


def script_context(task: str | None) -> RunContext:
    """Where a script runs.

    Args:
        task: the stage's name, which is the only task that a script has; None is called ``main``. Opening the same
            one again in the same process is a new run of it, told apart by its index.
    """
    pid, run_id, started = _process()
    name = task or "main"
    _opened()[name] += 1
    count = _opened()[name]
    source = _source()
    in_fork = os.getpid() != pid
    index = f"{os.getpid()}-{count}" if in_fork else (str(count) if count > 1 else None)
    workflow_run = WorkflowRun(
        orchestrator=SCRIPT,
        instance=instance(),
        workflow=source.stem if source else ("notebook" if "ipykernel" in sys.modules else "python"),
        run_id=run_id,
        source=str(source) if source else None,
        started_at=started,
    )
    task_run = TaskRun(task=name, index=index, started_at=datetime.fromtimestamp(time.time(), UTC))
    return RunContext(workflow_run=workflow_run, task_run=task_run, owns_workflow_run=not in_fork)


def _source() -> Path | None:
    """The file that was started; None in a notebook, an interactive session, or with ``python -c``."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    return Path(path).resolve() if path and not path.startswith("<") else None


@singleton
def _exiting() -> dict[int, bool]:
    """By process id, whether its last outermost stage was left by ``sys.exit`` with a code that says that it failed."""
    return {}


def stage_left(error: BaseException | None) -> None:
    """An outermost stage of this process has ended.

    Args:
        error: what it was left by; None if it came to its end.
    """
    _exiting()[os.getpid()] = isinstance(error, SystemExit) and error.code not in (None, 0)


def has_failed() -> bool:
    """How a script ends, asked while the interpreter exits: True after an exception that nobody caught, or ``sys.exit(1)``.

    Nobody tells the exit code then: what is known is that it left a stage. In a notebook an exception ends nothing.
    """
    died = getattr(sys, "last_value", None) is not None or _exiting().get(os.getpid(), False)
    return died and "ipykernel" not in sys.modules
