"""The current run, as user code asks for it: also in a task that would be tracked if tracking were not switched off.

Where that is so, an orchestrator's plugin imports nothing of tracklayer. It leaves word in the environment, that code
which asks for its run gets one that does nothing, as it does wherever tracking is off.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from tracklayer.stage import StageRun

UNTRACKED_VARIABLE: Final = "TRACKLAYER_UNTRACKED"
"""Environment variable with the id of the process in which such a task runs; what it starts is nobody's task."""


def current_run() -> StageRun | None:
    """The stage run in which this code runs; None outside of one.

    In a thread or task that was started inside a stage this is that stage's run, as long as its context was copied
    (asyncio does) or it is the only one open in the process. Where tracking is off it is a run that does nothing.
    """
    from tracklayer import current

    run = current.current_run()
    if run is None and os.environ.get(UNTRACKED_VARIABLE) == str(os.getpid()):
        return _one_that_does_nothing()
    return run


@singleton
def _one_that_does_nothing() -> StageRun:
    from tracklayer.context import SCRIPT, RunContext, TaskRun, WorkflowRun
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun

    nowhere = WorkflowRun(orchestrator=SCRIPT, workflow="untracked", run_id="untracked")
    return StageRun(RunContext(workflow_run=nowhere, task_run=TaskRun(task="main")), Settings(enabled=False))
