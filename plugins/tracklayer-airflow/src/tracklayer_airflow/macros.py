"""The token and the ids of a tracked task's run, for templates and for tasks that trigger something elsewhere.

In templates: ``{{ macros.tracklayer.token(ti) }}``, ``{{ macros.tracklayer.run_id(ti, "train") }}``; in Python:
``tracklayer_airflow.token()``. All of them fill in the empty text where there is nothing to hand over (tracking is off, the
server could not be reached), so that what is triggered is triggered all the same.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracklayer.context import Token

log = logging.getLogger("tracklayer")


def token(ti: Any = None, task_id: str | None = None) -> str:
    """The token to hand to a pipeline, flow or DAG that this task triggers.

    Whatever is tracked there is linked to the run that the token names.

    Args:
        ti: the task instance that hands over; None (in Python) is the one that runs here.
        task_id: a tracked task of the same DAG run whose token it is to be. None: that of the task `ti` itself if it
            is tracked and runs here, else that of the nearest tracked task upstream; of several the first by name.

    Returns:
        The token; empty if there is none.

    Example:
        ::

            @task
            def start_training():
                requests.post(url, json={"tracklayer": tracklayer_airflow.token()})

            TriggerDagRunOperator(
                task_id="retrain", trigger_dag_id="train", conf={"tracklayer": "{{ macros.tracklayer.token(ti) }}"}
            )
    """
    found = _found(ti, task_id)
    if found is None:
        return ""
    from tracklayer.identity import format_token

    return format_token(found)


def run_id(ti: Any = None, task_id: str | None = None) -> str:
    """The MLflow run id of a tracked task; arguments and answer as of `token`."""
    found = _found(ti, task_id)
    return found.run.run_id if found is not None else ""


def parent_id(ti: Any = None, task_id: str | None = None) -> str:
    """The MLflow run id of the DAG run, the parent of its stage runs; arguments and answer as of `token`.

    It is known from a task that runs or has run: the templates of the first tracked task of a DAG run are filled in
    before there is one, and get the empty text.
    """
    found = _found(ti, task_id)
    return found.parent.run_id if found is not None and found.parent is not None else ""


def experiment_id(ti: Any = None, task_id: str | None = None) -> str:
    """The id of the MLflow experiment of a tracked task's run; arguments and answer as of `token`.

    The id and not the name, as it is what addresses (``/#/experiments/<id>``) and MLflow's own variable
    ``MLFLOW_EXPERIMENT_ID`` take. Empty also while the server has not told it, because it is away.
    """
    found = _found(ti, task_id)
    if found is None:
        return ""
    from tracklayer.provisional import BY_NAME, PENDING

    identifier = found.run.experiment_id
    return "" if identifier == PENDING or identifier.startswith(BY_NAME) else identifier


def _found(ti: Any, task_id: str | None) -> Token | None:
    try:
        from tracklayer_airflow.switch import is_on

        if not is_on():
            return None
        from tracklayer_airflow import upstream  # which imports core once there is a token to be read

        task = _task(ti)
        if task_id is not None:
            return upstream.token_of(task["ti"], task_id)
        return _own(task) or next(iter(upstream.tokens(task)), None)
    except Exception:  # a template that cannot be rendered would fail the task
        log.warning("tracking: there is no token to hand over", exc_info=True)
        return None


def _task(ti: Any) -> dict[str, Any]:
    """The part of Airflow's context that is needed here."""
    from airflow.sdk import get_current_context

    if ti is None:
        ti = get_current_context()["ti"]
    return {"ti": ti, "dag": ti.task.dag}


def _own(task: dict[str, Any]) -> Token | None:
    if "tracklayer.current" not in sys.modules:  # nothing has been tracked in this process
        return None
    from tracklayer.current import current_run
    from tracklayer.identity import parse_token
    from tracklayer_airflow import place

    run = current_run()
    if run is None or run.token is None or not place.same(run.context, task):
        return None
    return parse_token(run.token)
