"""Tries that ended while they were deferred, read in the scheduler from what it has in memory.

A trigger may end its task (`airflow.triggers.base.BaseTaskEndEvent`, ``end_from_trigger=True``): then the triggerer
writes the task's state, no worker comes to run it, and no listener is told. But before Airflow ends a DAG run it loads
all of its task instances into its session and decides by their states. They are there when the listener is called.

What tells such a try from all others: ``next_method``, by which it would have been resumed. Whatever else ends a try, a
worker's word or the scheduler that gives it up, takes that away (seen in Airflow 3.1, 3.2 and 3.3).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from tracklayer_airflow.workflow import index, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracklayer.context import State, TaskRun

ENDED: Final = frozenset({"success", "failed", "skipped"})
"""The states in which a trigger can end its task."""

PLACE: Final = ("task_id", "map_index", "try_number")
"""What names a try within its DAG run."""


def ended(dag_run: Any) -> list[dict[str, Any]]:
    """The tries of a DAG run that ended while they were deferred, as plain values; as far as they are in memory.

    Asks the database for nothing: neither the DAG run nor a task instance is touched but for what is loaded of it. Where
    Airflow has not loaded them (the DAG run timed out, or was marked through the API) there may be none. A task that was
    skipped as its DAG run timed out has no end, and is not among them.

    Args:
        dag_run: the DAG run that the listener is given.
    """
    orm = sys.modules.get("sqlalchemy.orm")
    session = orm.object_session(dag_run) if orm is not None and hasattr(dag_run, "_sa_instance_state") else None
    if session is None:
        return []
    found = []
    for one in list(session.identity_map.values()):
        loaded = vars(one)  # asking for what is not loaded would be a query
        if (
            loaded.get("next_method")
            and loaded.get("end_date") is not None
            and (loaded.get("dag_id"), loaded.get("run_id")) == (dag_run.dag_id, dag_run.run_id)
            and (state := _text(loaded.get("state"))) in ENDED
        ):
            place = {name: loaded.get(name) for name in PLACE}
            found.append({**place, "state": state, "ended_at": loaded["end_date"].isoformat()})
    return found


def told(tries: Iterable[Mapping[str, Any]]) -> list[tuple[TaskRun, State]]:
    """The same for `tracklayer.tracking.close_workflow_run`.

    Args:
        tries: what `ended` gave, perhaps by way of JSON.
    """
    from tracklayer.context import State, TaskRun
    from tracklayer_airflow.truth import TASK

    return [
        (
            TaskRun(task=one["task_id"], index=index(one["map_index"]), try_number=one["try_number"]),
            State(
                status=TASK[one["state"]],
                ended_at=moment(one["ended_at"]),
                note="skipped" if one["state"] == "skipped" else None,
            ),
        )
        for one in tries
    ]


def _text(state: Any) -> str:
    """Airflow's states are members of an enumeration, or text."""
    return str(getattr(state, "value", state))
