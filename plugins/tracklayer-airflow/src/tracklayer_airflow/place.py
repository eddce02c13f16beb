"""Where a task runs, read from Airflow's task context."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tracklayer.context import RunContext, TaskRun, Upstream
from tracklayer.exceptions import TokenError
from tracklayer.fence import fence
from tracklayer.identity import parse_token, workflow_run_key
from tracklayer.store.endpoint import without_credentials
from tracklayer_airflow import upstream, workflow
from tracklayer_airflow.arguments import arguments
from tracklayer_airflow.own_arguments import is_rendered
from tracklayer_airflow.settings import airflow_settings
from tracklayer_airflow.supervisor import SupervisorBusy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracklayer.context import RunRef, Token
    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")


def run_context(task: Mapping[str, Any], settings: Settings) -> RunContext:
    """The run context of the try that runs in Airflow's task context `task`.

    Asks Airflow for the tokens of the tasks upstream: they carry the parent.

    Raises:
        tracklayer.exceptions.SettingsError: the table ``airflow`` of the settings is wrong.
    """
    ti, dag_run, dag = task["ti"], task["dag_run"], task["dag"]
    bundle = getattr(ti, "bundle_instance", None)
    facts = workflow.facts(dag_run, dag, version=getattr(bundle, "version", None))
    workflow_run = workflow.workflow_run(facts, instance=settings.instance, url=_dag_run_url(ti))
    with_arguments = airflow_settings(settings).arguments
    params: dict[str, object] = {}
    tags: dict[str, str] = {}
    handed: tuple[Token, ...] = ()
    tokens: tuple[Token, ...] = ()
    # One by one: what cannot be told of a task costs its run no more than that.
    with fence("reading the task's arguments", settings.on_error):
        params = _params(task) if with_arguments else {}
    with fence("reading what the task's operator says of itself", settings.on_error):
        tags = _tags(ti.task)
    # Where Airflow cannot be asked now, the parent is found in MLflow, and the links are made at the end of the task.
    with fence("asking which tracked tasks are upstream", settings.on_error), suppress(SupervisorBusy):
        handed = upstream.tokens(task)
    with fence("asking what has started the DAG run", settings.on_error):
        tokens = (*_conf_tokens(dag_run), *(token for _, token in upstream.event_tokens(task)))
    task_run = TaskRun(
        task=ti.task_id,
        index=workflow.index(ti.map_index),
        try_number=ti.try_number,
        resumed=workflow.resumed(task),
        url=without_credentials(ti.log_url or "") or None,
        started_at=ti.start_date,
        params=MappingProxyType(params),
        tags=MappingProxyType({**tags, **workflow.run_tags(dag_run, ti)}),
    )
    return RunContext(
        workflow_run=workflow_run,
        task_run=task_run,
        parent=_parent(handed, workflow_run_key(workflow_run)),
        tokens=tokens,
    )


def without_templates(context: RunContext) -> RunContext:
    """The run context of a task that could not be rendered, without what is a template still."""
    if context.task_run is None:
        return context
    params = {name: value for name, value in context.task_run.params.items() if is_rendered(value)}
    return replace(context, task_run=replace(context.task_run, params=MappingProxyType(params)))


def current() -> Mapping[str, Any] | None:
    """Airflow's context of the task that runs in this process; None outside of a task.

    Airflow has left it when it calls what the user has asked to be called at the task's end (``on_failure_callback``), and
    tells listeners; of a task that is observed it is known until then.
    """
    import sys

    if "airflow.sdk" not in sys.modules:  # where no task runs, Airflow is not imported for asking
        return None
    from airflow.sdk import get_current_context

    from tracklayer_airflow.observing import followed

    try:
        return get_current_context()
    except RuntimeError:
        ti = followed().ti
        return None if ti is None else ti.get_template_context()


def same(context: RunContext, task: Mapping[str, Any]) -> bool:
    """Whether Airflow's task context `task` is that of `context`."""
    ti, run, here = task["ti"], context.workflow_run, context.task_run
    if here is None or run.orchestrator != "airflow":
        return False
    index = -1 if here.index is None else int(here.index)
    mine = (run.workflow, run.run_id, here.task, index, here.try_number)
    return mine == (ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index, ti.try_number)


def upstream_of(task: Mapping[str, Any]) -> list[Upstream]:
    """What feeds the task: the nearest tracked tasks upstream, or without any what made the assets that started the DAG run.

    Raises:
        SupervisorBusy: Airflow cannot be asked now.
    """
    found = [Upstream(run=token.run) for token in upstream.tokens(task)]
    return found or [Upstream(run=token.run, dataset=uri) for uri, token in upstream.event_tokens(task)]


def parent_tags(context: RunContext) -> dict[str, str]:
    """Tags of the parent of `context` that are not its experiment's; empty if no task of that DAG run runs here."""
    task, run = current(), context.workflow_run
    if task is None or (run.workflow, run.run_id) != (task["ti"].dag_id, task["ti"].run_id):
        return {}
    return workflow.run_tags(task["dag_run"], task["ti"])


def _dag_run_url(ti: Any) -> str:
    from airflow.configuration import conf

    base = conf.get("api", "base_url", fallback="http://localhost:8080/")
    # Whoever wrote credentials into the address did not mean to show them on every run.
    return f"{without_credentials(base).rstrip('/')}/dags/{quote(ti.dag_id)}/runs/{quote(ti.run_id)}"


def _params(task: Mapping[str, Any]) -> dict[str, object]:
    """The function's arguments, and the params that the task has for itself."""
    own = {
        name: value
        for name, value in workflow.values(task.get("params")).items()
        if name not in task["dag"].params and name not in (task["dag_run"].conf or {})
    }
    ti = task["ti"]
    return {**arguments(ti.task, task["dag"].task_dict.get(ti.task_id, ti.task)), **own}


def _tags(operator: Any) -> dict[str, str]:
    found = {
        "airflow.operator": getattr(operator, "operator_name", None) or operator.task_type,
        "airflow.owner": operator.owner,
        "airflow.pool": operator.pool,
        "airflow.queue": operator.queue,
    }
    return {name: str(value) for name, value in found.items() if value}


def _conf_tokens(dag_run: Any) -> Iterable[Token]:
    text = (getattr(dag_run, "conf", None) or {}).get(workflow.CONF_KEY)
    if not text:  # not given, or the giver had none
        return ()
    try:
        return (parse_token(text),)
    except TokenError as error:
        log.warning("tracking: the token in dag_run.conf[%r] is of no use: %s", workflow.CONF_KEY, error)
        return ()


def _parent(tokens: Iterable[Token], key: str) -> RunRef | None:
    """The parent of this very DAG run, as a task upstream handed it over."""
    return next((token.parent for token in tokens if token.parent is not None and token.parent.key == key), None)
