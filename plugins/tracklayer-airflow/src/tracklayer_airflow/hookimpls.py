"""What tracklayer asks of Airflow (entry-point group ``tracklayer``): where a task runs, what feeds it, who comes next.

Imported in every process that tracks anything in this environment, so Airflow is only imported where a task runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.context import RunContext, RunRef, State, TaskRun, Upstream, WorkflowRun

MINE = "airflow"

tracklayer_settings = "tracklayer_airflow.settings:AirflowSettings"
"""Where this plugin's settings are, for `tracklayer doctor`; not imported with it."""


@hookimpl
def tracklayer_run_context() -> RunContext | None:
    """The task that runs in this process, for ``with tracklayer.track()`` in a task that is not tracked itself."""
    from tracklayer import settings
    from tracklayer_airflow import place

    task = place.current()
    return None if task is None else place.run_context(task, settings.load())


@hookimpl
def tracklayer_run_params(context: RunContext) -> Mapping[str, object] | None:
    """DAG params and conf of the DAG run on the parent; arguments and own params of the task on the stage run."""
    if context.workflow_run.orchestrator != MINE:
        return None
    from tracklayer_airflow.arguments import masked

    return masked((context.task_run or context.workflow_run).params)


@hookimpl
def tracklayer_run_tags(context: RunContext) -> Mapping[str, str] | None:
    """Whose DAG it is, and the addresses of Airflow's pages; operator, pool and queue are tags of the task itself."""
    if context.workflow_run.orchestrator != MINE:
        return None
    from tracklayer_airflow import place

    urls = {
        "airflow.dag_run_url": context.workflow_run.url,
        "airflow.task_url": context.task_run.url if context.task_run else None,
    }
    of_parent = place.parent_tags(context) if context.task_run is None else {}
    return {**context.workflow_run.tags, **of_parent, **{name: url for name, url in urls.items() if url}}


@hookimpl
def tracklayer_upstream(context: RunContext) -> Sequence[Upstream] | None:
    """The nearest tracked tasks upstream; for a task without any, what made the assets that started the DAG run."""
    from tracklayer_airflow import late, place
    from tracklayer_airflow.supervisor import SupervisorBusy

    task = place.current()
    if task is None or not place.same(context, task):
        return None
    try:
        return place.upstream_of(task)
    except SupervisorBusy:
        late.owe_links()
        return None


@hookimpl
def tracklayer_hand_over(context: RunContext, run: RunRef, token: str) -> None:  # noqa: ARG001  # the spec's names
    """Push the token as XCom, and put it into the events of the task's outlets."""
    from tracklayer_airflow import handover, late, place

    task = place.current()
    if task is not None and place.same(context, task):
        handover.push(task, token)
        handover.fill_outlets(task, token)
        late.link(task)


@hookimpl
def tracklayer_workflow_state(workflow_run: WorkflowRun) -> State | None:
    """What has become of a DAG run; asks the API server that the settings name."""
    if workflow_run.orchestrator != MINE:
        return None
    from tracklayer_airflow.truth import of_dag_run

    return of_dag_run(workflow_run)


@hookimpl
def tracklayer_task_state(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What has become of one try of a task; asks the API server that the settings name."""
    if workflow_run.orchestrator != MINE:
        return None
    from tracklayer_airflow.truth import of_try

    return of_try(workflow_run, task_run)
