"""Where code runs, read from Prefect's own contexts."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import RunContext, TaskRun, WorkflowRun
from tracklayer_prefect.arguments import told
from tracklayer_prefect.carrier import parent_of, tokens_of
from tracklayer_prefect.flow_runs import notes_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.flows import Flow

ORCHESTRATOR: Final = "prefect"
"""The orchestrator's name in keys."""


def here() -> RunContext | None:
    """Where this code runs: in a task, in a flow's body, or (None) not in Prefect at all.

    Asked for a stage that user code opens. In a flow's body that is a task of the flow's own name.
    """
    task_run, flow_run = present()
    if task_run is not None:
        return of_task(task_run, flow_run)
    if flow_run is None or flow_run.flow_run is None:
        return None
    body = of_flow_body(flow_run)
    count = notes_on(flow_run.flow_run.id).count_stages()
    task = TaskRun(task=body.workflow_run.workflow, index=str(count) if count > 1 else None)
    return replace(body, task_run=task, owns_workflow_run=False)


def present() -> tuple[TaskRunContext | None, FlowRunContext | None]:
    """Prefect's contexts of the innermost task and flow run that this code runs in.

    A subflow that a task calls runs with the task's context still in place; it is no part of that task.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    task_run, flow_run = TaskRunContext.get(), FlowRunContext.get()
    if flow_run is not None and flow_run.flow_run is None:
        flow_run = None
    its_id = flow_run.flow_run.id if flow_run is not None and flow_run.flow_run is not None else None
    if task_run is not None and its_id is not None and task_run.task_run.flow_run_id != its_id:
        task_run = None
    return task_run, flow_run


def of_task(context: TaskRunContext, flow_context: FlowRunContext | None) -> RunContext:
    """The context of a task run.

    Prefect has no number for the runs of one task within a flow run (its keys are random), so every task run is told
    apart by its own id; of that the last twelve digits, which are the random ones. A retry keeps the id and counts up
    ``run_count``. A retry of the whole flow makes new task runs.
    """
    task_run, task = context.task_run, context.task
    in_flow = _flow_of(flow_context)
    found = TaskRun(
        task=task.name,
        index=short(task_run.id),
        name=task_run.name,
        try_number=max(task_run.run_count, 1),
        url=_page(task_run),
        params=told(context.parameters, handed_over={name for name, found in task_run.task_inputs.items() if found}),
        tags={**_tags(task_run.tags), "prefect.task_run_id": str(task_run.id)},
    )
    if in_flow is not None:
        return replace(in_flow, task_run=found, owns_workflow_run=False)
    # A task that was called outside of any flow is a workflow of its own.
    workflow_run = WorkflowRun(
        orchestrator=ORCHESTRATOR,
        workflow=task.name,
        run_id=str(task_run.id),
        name=task_run.name,
        version=task.version,
        description=task.description,
        url=_page(task_run),
        source=_source(task.fn),
        started_at=_moment(task_run.start_time),
        params=told(context.parameters),
        tags=_tags(task_run.tags),
    )
    return RunContext(workflow_run=workflow_run, task_run=found)


def of_flow_body(context: FlowRunContext) -> RunContext:
    """The context of a flow run itself."""
    found = _flow_of(context)
    assert found is not None
    return found


def _flow_of(context: FlowRunContext | None) -> RunContext | None:
    if context is None or context.flow_run is None or context.flow is None:
        return None
    found = of_flow(context.flow, context.flow_run, context.parameters)
    return replace(found, owns_workflow_run=not context.detached)


def of_flow(flow: Flow[..., Any], flow_run: FlowRun, parameters: Mapping[str, Any] | None) -> RunContext:
    """The context of a flow run, wherever its flow and its record are at hand.

    Args:
        flow: the flow.
        flow_run: its run, with the labels that say which run in MLflow stands for it.
        parameters: the flow's parameters as it was called with; None takes those of the record.
    """
    if parameters is None:
        parameters = flow_run.parameters
    workflow_run = WorkflowRun(
        orchestrator=ORCHESTRATOR,
        workflow=flow.name,
        run_id=str(flow_run.id),
        name=flow_run.name,
        version=flow_run.flow_version or flow.version,
        description=flow.description,
        url=_page(flow_run),
        source=_source(flow.fn),
        started_at=_moment(flow_run.start_time),
        logical_date=_moment(flow_run.expected_start_time),
        params=told(parameters),
        tags=_tags(flow_run.tags),
    )
    parent = parent_of(flow_run)
    return RunContext(
        workflow_run=workflow_run,
        parent=replace(parent.run, name=flow_run.name) if parent else None,
        tokens=tokens_of(flow_run, parameters),
    )


def short(run_id: UUID) -> str:
    """The last twelve digits of a run id: Prefect's ids begin with the time, so only these tell them apart."""
    return run_id.hex[-12:]


def _tags(tags: Iterable[str]) -> dict[str, str]:
    text = ", ".join(sorted(tags))
    return {"prefect.tags": text} if text else {}


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) and value.tzinfo is not None else None


def _page(run: Any) -> str | None:
    from prefect.utilities.urls import url_for

    return url_for(run)


def _source(fn: Any) -> str | None:
    try:
        return inspect.getsourcefile(inspect.unwrap(fn))
    except TypeError:  # a callable object, or something that was made at run time
        return None
