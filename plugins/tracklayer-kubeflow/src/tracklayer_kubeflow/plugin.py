"""The hooks: where a KFP task runs, with what parameters and tags, and which stage runs feed it.

All of them read the arguments and the environment of this process, which is a task's supervisor or its executor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.context import RunContext, State, TaskRun, Upstream, WorkflowRun
    from tracklayer_kubeflow.task import Task

PIPELINE_RUN_TAG = "kfp.pipeline_run_id"
"""The tag with which also KFP's own MLflow integration marks a pipeline run's MLflow run."""

tracklayer_settings = "tracklayer_kubeflow.settings:KubeflowSettings"
"""Where this plugin's settings are, for `tracklayer doctor`; not imported with it."""


@hookimpl
def tracklayer_run_context() -> RunContext | None:
    """Where this process runs, if KFP started it."""
    from tracklayer import settings as core_settings
    from tracklayer_kubeflow.settings import KubeflowSettings
    from tracklayer_kubeflow.task import this_task

    task = this_task()
    if task is None:
        return None
    settings = core_settings.load()
    own = core_settings.table(settings, "kubeflow", KubeflowSettings)
    return task.context(instance=settings.instance, settings=own)


@hookimpl
def tracklayer_run_params(context: RunContext) -> Mapping[str, object] | None:
    """The component's input parameters; for the parent, the pipeline's arguments as far as they are known."""
    if not _ours(context):
        return None
    return dict((context.task_run or context.workflow_run).params)


@hookimpl
def tracklayer_run_tags(context: RunContext) -> Mapping[str, str] | None:
    """What was baked in when the pipeline was compiled, and KFP's own mark on the parent."""
    if not _ours(context):
        return None
    from tracklayer.identity import attempt_tag, task_key
    from tracklayer.lookup import later_mark

    task = _task()
    tags = dict(task.tags) if task else {}
    if context.task_run is not None:  # for tasks that get a parameter of this one while the server is away
        tags |= later_mark(attempt_tag(task_key(context.workflow_run, context.task_run)))
    if context.task_run is None and task is not None and not task.place.local:
        tags[PIPELINE_RUN_TAG] = context.workflow_run.run_id
        if context.workflow_run.url:
            tags["kfp.pipeline_run_url"] = context.workflow_run.url
    return tags


@hookimpl
def tracklayer_upstream(context: RunContext) -> Sequence[Upstream] | None:
    """The stage runs that made the task's inputs."""
    task = _task() if _ours(context) and context.task_run is not None else None
    if task is None:
        return None
    from tracklayer_kubeflow.upstream import upstream_of

    return upstream_of(task, context)


@hookimpl
def tracklayer_workflow_state(workflow_run: WorkflowRun) -> State | None:
    """What has become of a pipeline run; asks KFP's API, and of a local run the process."""
    if workflow_run.orchestrator != "kubeflow":
        return None
    from tracklayer_kubeflow.truth import of_pipeline_run

    return of_pipeline_run(workflow_run)


@hookimpl
def tracklayer_task_state(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What has become of one try of a task; asks as `tracklayer_workflow_state` does."""
    if workflow_run.orchestrator != "kubeflow":
        return None
    from tracklayer_kubeflow.truth import of_task

    return of_task(workflow_run, task_run)


def _ours(context: RunContext) -> bool:
    from tracklayer_kubeflow.task import ORCHESTRATOR

    return context.workflow_run.orchestrator == ORCHESTRATOR


def _task() -> Task | None:
    from tracklayer_kubeflow.task import this_task

    return this_task()
