"""The runs of what a sensor has waited for in another DAG (Airflow's ``ExternalTaskSensor``)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import Upstream
from tracklayer_airflow.upstream import TOKEN_XCOM, parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracklayer.context import Token

LOOKUPS: Final = 50
"""No more tasks of other DAGs than this are asked for their token."""


def upstream(operator: Any, task: Mapping[str, Any]) -> list[Upstream]:
    """The runs that feed what comes after a sensor whose wait is over.

    Those of the tasks that it has waited for; where it has waited for a whole DAG run, the parent of that. An operator
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
    found = _tokens(task["ti"], dag_id, tasks and list(tasks), group, moments)
    if tasks or group:
        return [Upstream(run=token.run) for token in found]
    parent = next((token.parent for token in found if token.parent is not None), None)
    return [] if parent is None else [Upstream(run=parent)]


def _tokens(ti: Any, dag_id: str, tasks: list[str] | None, group: str | None, dates: list[datetime]) -> Iterable[Token]:
    """The tokens of the tasks, one after the other."""
    states = ti.get_task_states(dag_id=dag_id, task_ids=tasks, task_group_id=group, logical_dates=dates)
    lookups = 0
    for run_id, of_run in states.items():
        # The answer names an instance of a mapped task "<task id>_<map index>".
        for name in tasks or dict.fromkeys(part for one in of_run for part in (one, _unmapped(one)) if part):
            if (lookups := lookups + 1) > LOOKUPS:
                return
            yield from parsed(ti.xcom_pull(dag_id=dag_id, run_id=run_id, task_ids=[name], key=TOKEN_XCOM))


def _unmapped(name: str) -> str:
    """The task id in the name of an instance of a mapped task; empty for another name."""
    task_id, _, index = name.rpartition("_")
    return task_id if index.isdecimal() else ""
