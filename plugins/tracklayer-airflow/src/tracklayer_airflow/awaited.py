"""The runs of what a sensor has waited for in another DAG (Airflow's ``ExternalTaskSensor``)."""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import Upstream
from tracklayer_airflow.supervisor import ask
from tracklayer_airflow.upstream import TOKEN_XCOM, parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tracklayer.context import Token

log = logging.getLogger("tracklayer")

LOOKUPS: Final = 50
"""No more tasks of other DAGs than this are asked for their token."""


def upstream(operator: Any, task: Mapping[str, Any]) -> list[Upstream]:
    """The runs that feed what comes after a sensor whose wait is over.

    Those of the tasks that it has waited for; where it has waited for whole DAG runs, the parent of each. An operator
    that waits for no other DAG (it has no ``external_dag_id``) has none, and neither have tasks that are not tracked.

    Args:
        operator: the sensor, rendered.
        task: Airflow's task context.
    """
    dag_id = getattr(operator, "external_dag_id", None)
    # What the sensor says itself: asking it to compute the dates again would call a function of the user's.
    dates = getattr(operator, "external_dates_filter", None)
    if not isinstance(dag_id, str) or not isinstance(dates, str):
        return []
    tasks, group = operator.external_task_ids, operator.external_task_group_id
    moments = [datetime.fromisoformat(text) for text in dates.split(",")]
    of = {"dag_id": dag_id, "task_ids": tasks and list(tasks), "task_group_id": group, "logical_dates": moments}
    states = ask(task["ti"], partial(task["ti"].get_task_states, **of))
    runs = _tokens(task["ti"], dag_id, {run_id: list(tasks or _task_ids(of_run)) for run_id, of_run in states.items()})
    if tasks or group:
        return [Upstream(run=token.run) for found in runs for token in found]
    parents = (next((token.parent for token in found if token.parent is not None), None) for found in runs)
    return [Upstream(run=parent) for parent in parents if parent is not None]


def _tokens(ti: Any, dag_id: str, tasks: Mapping[str, list[str]]) -> Iterator[Iterator[Token]]:
    """For each DAG run the tokens of its tasks, asked for one after the other, as far as they are wanted.

    Args:
        ti: the task instance that asks.
        dag_id: the other DAG.
        tasks: ids of its tasks by the ids of its DAG runs.
    """
    left = LOOKUPS

    def of_run(run_id: str) -> Iterator[Token]:
        nonlocal left
        for name in tasks[run_id]:
            if left == 0:
                log.warning("tracking: %s has waited for too many tasks of %s; not all were asked", ti.task_id, dag_id)
            left -= 1
            if left < 0:
                return
            of = {"dag_id": dag_id, "run_id": run_id, "task_ids": [name], "key": TOKEN_XCOM}
            yield from parsed(ask(ti, partial(ti.xcom_pull, **of)))

    return map(of_run, tasks)


def _task_ids(instances: Iterable[str]) -> Iterable[str]:
    """The ids of the tasks of a DAG run; the answer names an instance of a mapped one "<task id>_<map index>"."""
    return dict.fromkeys(part for one in instances for part in (one, _unmapped(one)) if part)


def _unmapped(name: str) -> str:
    """The task id in the name of an instance of a mapped task; empty for another name."""
    task_id, _, index = name.rpartition("_")
    return task_id if index.isdecimal() else ""
