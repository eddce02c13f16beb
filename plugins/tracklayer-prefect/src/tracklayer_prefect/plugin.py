"""What this plugin answers to core's hooks. Prefect is not imported by it: where it is not, this is no place of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from uuid import UUID

from tracklayer.context import Upstream
from tracklayer.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.context import RunContext, RunRef, State, TaskRun, WorkflowRun

ORCHESTRATOR = "prefect"

tracklayer_settings = "tracklayer.settings:NoSettings"
"""It has no table of settings."""


@hookimpl
def tracklayer_run_context() -> RunContext | None:
    """Where this code runs, if it is a Prefect task or flow."""
    if "prefect.context" not in sys.modules:
        return None
    from tracklayer_prefect.contexts import here

    return here()


@hookimpl
def tracklayer_run_params(context: RunContext) -> Mapping[str, object] | None:
    """The flow's parameters on the parent, the task's arguments on its run; data objects by type and shape."""
    if context.workflow_run.orchestrator != ORCHESTRATOR:
        return None
    return context.workflow_run.params if context.task_run is None else context.task_run.params


@hookimpl
def tracklayer_run_tags(context: RunContext) -> Mapping[str, str] | None:
    """Ids and names by which the run is found in Prefect, and the index tag by which it is found in MLflow."""
    if context.workflow_run.orchestrator != ORCHESTRATOR:
        return None
    from tracklayer.lookup import marks
    from tracklayer_prefect.inputs import TASK_RUN_TAG

    if context.task_run is not None:
        task_run_id = context.task_run.tags.get("prefect.task_run_id")
        return marks(TASK_RUN_TAG + UUID(task_run_id).hex) if task_run_id else None
    tags = marks(TASK_RUN_TAG + UUID(context.workflow_run.run_id).hex)
    from prefect.context import FlowRunContext

    present = FlowRunContext.get()
    flow_run = present.flow_run if present is not None else None
    its_own = flow_run is not None and str(flow_run.id) == context.workflow_run.run_id
    if its_own and flow_run is not None and flow_run.deployment_id is not None:
        tags["prefect.deployment_id"] = str(flow_run.deployment_id)
    return tags


@hookimpl
def tracklayer_upstream(context: RunContext) -> Sequence[Upstream] | None:
    """The runs whose results the present task run was given."""
    if context.workflow_run.orchestrator != ORCHESTRATOR or context.task_run is None:
        return None
    from tracklayer_prefect.contexts import present, short
    from tracklayer_prefect.inputs import upstream_runs

    task_run, flow_run = present()
    if task_run is None or short(task_run.task_run.id) != context.task_run.index:
        return None
    runs = upstream_runs(task_run.task_run, task_run.parameters, flow_run)
    return [Upstream(run=run, kind="hand-over") for run in runs]


@hookimpl
def tracklayer_hand_over(context: RunContext, run: RunRef, token: str) -> None:
    """Note which run stands for the present task run, for the tasks that its result is given to.

    Where the flow itself is not tracked, its other tasks and its end get to know the parent that this task's run got.
    """
    if context.workflow_run.orchestrator != ORCHESTRATOR or context.task_run is None:
        return
    from tracklayer_prefect.contexts import present
    from tracklayer_prefect.endings import adopt
    from tracklayer_prefect.flow_runs import notes_on

    task_run_id = context.task_run.tags.get("prefect.task_run_id")
    if task_run_id:
        notes_on(UUID(context.workflow_run.run_id)).note_run(UUID(task_run_id), run)
    _, flow_run = present()
    if flow_run is not None:
        adopt(flow_run, context.workflow_run.run_id, token)


@hookimpl
def tracklayer_workflow_state(workflow_run: WorkflowRun) -> State | None:
    """What has become of a flow run; asks the Prefect server, and of what it calls running, the process."""
    if workflow_run.orchestrator != ORCHESTRATOR:
        return None
    from tracklayer_prefect.truth import of_workflow_run

    return of_workflow_run(workflow_run)


@hookimpl
def tracklayer_task_state(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What has become of one try of a task run; asks as `tracklayer_workflow_state` does."""
    if workflow_run.orchestrator != ORCHESTRATOR:
        return None
    from tracklayer_prefect.truth import of_task_run

    return of_task_run(workflow_run, task_run)
