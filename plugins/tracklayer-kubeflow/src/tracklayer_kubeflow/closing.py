"""The end of a pipeline run's parent, where nobody but its tasks can see that end: on a cluster.

After its own end each task has the journal say so; whoever delivers that looks whether it was the last one (see
`tracklayer.completion`). So the parent ends as it should also where the tracking server is away while tasks end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.journal.operations import Close
from tracklayer.opening import milliseconds

if TYPE_CHECKING:
    from tracklayer.stage import StageRun
    from tracklayer_kubeflow.task import Task


def close_if_last(run: StageRun, task: Task, *, succeeded: bool) -> bool:
    """Have the parent of `run` ended, if `run` was the last stage run to end.

    Args:
        run: the stage run; it has ended.
        task: its task.
        succeeded: whether the task's try succeeded.

    Returns:
        False if it was not, for KFP tries the task again; or if nothing is tracked.
    """
    facts, task_run, parent, recorder = task.facts, run.context.task_run, run.parent, run.recorder
    if recorder is None or parent is None or task_run is None:
        return False
    if not succeeded and facts is not None and task.place.try_number is not None and task_run.try_number < facts.tries:
        return False  # KFP tries again
    recorder.append(
        Close(
            context=run.context.bare(),
            status="FINISHED" if succeeded else "FAILED",
            ended_at=milliseconds(None),
            parent=parent,
            if_last=True,
            ends=facts is None or facts.ends,
        )
    )
    return True
