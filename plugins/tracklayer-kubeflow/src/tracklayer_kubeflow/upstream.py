"""Which stage runs feed a task: by the tokens on its input artifacts, else by the pipeline's definition.

A parameter carries no metadata. For an input that came as a parameter the pipeline's definition says which task made it,
and the stage run of that task is found by its key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.context import LinkKind, RunContext, RunRef, TaskRun, Upstream
from tracklayer.exceptions import TokenError
from tracklayer.identity import attempt_tag, parse_token, task_key, workflow_run_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer_kubeflow.task import Task


def upstream_of(task: Task, context: RunContext) -> list[Upstream]:
    """The stage runs that feed `task`.

    A token of another pipeline run means that the task which made the artifact was not run in this one: KFP used the
    cached result of that run.
    """
    own = f"{workflow_run_key(context.workflow_run)}/"
    found = {}
    for artifact, token in task.handed_over():
        cached = token.run.key is not None and not token.run.key.startswith(own)
        kind: LinkKind = "reused" if cached else "hand-over"
        found[token.run.run_id] = Upstream(run=token.run, kind=kind, dataset=artifact.uri or None)
    known = [run.key or "" for run in (item.run for item in found.values())]
    for producer in task.facts.after if task.facts else ():
        key = task_key(context.workflow_run, TaskRun(task=producer))
        if not any(other.startswith((f"{key}#", f"{key}[")) for other in known):
            found.update({run.run_id: Upstream(run=run) for run in _runs_of(producer, task, context)})
    return list(found.values())


def _runs_of(producer: str, task: Task, context: RunContext) -> Iterator[RunRef]:
    """The stage run of another task of the same pipeline run; those of all its iterations, if they are known."""
    if task.folder is not None:
        same = task.folder.end_of(producer, task.index)
        for end in [same] if same else task.folder.ends(producer):
            if end.token:
                try:
                    yield parse_token(end.token).run
                except TokenError:
                    continue
        return
    if task.place.local:
        return  # no tracked pipeline: nothing is known of its tasks
    from tracklayer.lookup import find

    alone = task.facts is not None and producer in task.facts.before_loop
    indexes = dict.fromkeys((None if alone else task.index, None))
    tags = [attempt_tag(task_key(context.workflow_run, TaskRun(task=producer, index=index))) for index in indexes]
    run = next((found for tag in tags if (found := find(tag)) is not None), None)
    # KFP may have used a cached result, so that there is none; or its journal has still to be delivered.
    run = run or find(tags[0], expected=True)
    if run is not None:
        yield run
