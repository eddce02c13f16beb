"""The button **MLflow run** on the pages of observed tasks (entry point ``airflow.policy``).

Their operators are Airflow's own and know nothing of it. So each gets the link where DAGs are parsed, which is the one
place from which Airflow's pages learn of it.

Every process of Airflow imports this as it starts; a Celery worker imports nothing else of tracklayer, so this is also
where it gets somebody to look after the tasks that are killed on its machine.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import pluggy

from tracklayer_airflow import celery_worker, from_trigger

hookimpl = pluggy.HookimplMarker("airflow.policy")

log = logging.getLogger("tracklayer")


@hookimpl
def dag_policy(dag: Any) -> None:
    """Let Airflow load a DAG with a task that its trigger ends. Never raises: Airflow would not load any."""
    try:
        from_trigger.step_aside(dag)
    except Exception:
        log.warning("tracking: a DAG whose task ends from its trigger may not be loaded", exc_info=True)


@hookimpl
def task_policy(task: Any) -> None:
    """Give an observed task the link to its run. Never raises: Airflow would not load the DAG."""
    try:
        from_trigger.come_back(task)
        from tracklayer_airflow.rules import rules_here

        rules = rules_here()
        if rules is None or not rules.observe_task(task, task.dag):
            return
        links = task.operator_extra_links
        if isinstance(links, (list, tuple)) and not any(is_ours(link) for link in links):
            from tracklayer_airflow.links import MLflowRunLink

            try:
                task.operator_extra_links = (*links, MLflowRunLink())
            except Exception as error:  # its operator has a property there that is its own, and says so at every parse
                log.debug("tracking: %s has no link to its run: %s", task.task_id, error)
    except Exception:
        log.warning("tracking: a task has no link to its run", exc_info=True)


def is_ours(link: Any) -> bool:
    """Whether a link of an operator is the one to its run in MLflow."""
    return type(link).__module__ == "tracklayer_airflow.links"


celery_worker.prepare(sys.argv)
