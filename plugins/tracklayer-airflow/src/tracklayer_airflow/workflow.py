"""A DAG run as a `WorkflowRun`, by the same road from the task's process and from the scheduler.

Both take the same `facts` (plain JSON), so that both come to the same key, the same experiment and the same parent.
"""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracklayer.context import WorkflowRun

CONF_KEY: Final = "tracklayer"
"""Key of ``dag_run.conf`` under which a token from outside is accepted."""

OWN_FIELDS: Final = frozenset({"run_name", "experiment", "run_tags"})
"""The templated fields that every tracked operator has; see `tracklayer_airflow.operators.Tracked`."""


PARENT_URL_XCOM: Final = "tracklayer_parent_url"
"""Key of the XCom that holds the address of the page of the DAG run's parent run."""


def facts(dag_run: Any, dag: Any, *, version: str | None = None) -> dict[str, Any]:
    """What there is to know about a DAG run, as plain values; the token in its conf is left out.

    Args:
        dag_run: the DAG run, the task's or the scheduler's (whose loaded columns alone are read).
        dag: its DAG, parsed or serialized; None if it is not at hand.
        version: version of the DAG bundle, None if the bundle has none.
    """
    conf = getattr(dag_run, "conf", None) or {}
    return {
        "dag_id": dag_run.dag_id,
        "run_id": dag_run.run_id,
        "version": version,
        "started_at": _iso(getattr(dag_run, "start_date", None)),
        "ended_at": _iso(getattr(dag_run, "end_date", None)),
        "logical_date": _iso(getattr(dag_run, "logical_date", None) or getattr(dag_run, "run_after", None)),
        "description": getattr(dag, "doc_md", None) or getattr(dag, "description", None),
        "source": getattr(dag, "fileloc", None),
        "dag_tags": sorted(str(tag) for tag in getattr(dag, "tags", None) or ()),
        "owner": getattr(dag, "owner", None) or None,
        "params": {**values(getattr(dag, "params", None)), **{k: v for k, v in conf.items() if k != CONF_KEY}},
    }


def is_tracked(dag: Any) -> bool:
    """Whether a DAG has tasks of operators that are tracked, as far as a serialized DAG shows that.

    The scheduler's has no classes of operators; what it has are the names of their templated fields and links. A task that is tracked by its own code (``with tracklayer.track()``) cannot be told.
    """
    tasks = getattr(dag, "task_dict", None) or {}
    return any(is_tracked_operator(task) for task in tasks.values())


def is_tracked_operator(task: Any) -> bool:
    """Whether a task's operator is a tracked one, as far as its templated fields and links show that.

    An operator that has an argument of its own called like one of ours keeps that, but none has our link to the parent.
    """
    if set(getattr(task, "template_fields", None) or ()) >= OWN_FIELDS:
        return True
    if hasattr(getattr(task, "operator_class", type(task)), "tracklayer_taken"):
        return True
    try:
        return any(getattr(one, "xcom_key", None) == PARENT_URL_XCOM for one in task.operator_extra_links)
    except Exception:  # it has none, or a property of the operator's own, which is not its class's to answer
        return False


def run_tags(dag_run: Any, ti: Any) -> dict[str, str]:
    """What tells DAG runs of one DAG apart: how they came about, their date, and which version of the DAG ran.

    Args:
        dag_run: the DAG run.
        ti: a task instance of it, which knows the version.
    """
    told = {
        "airflow.run_type": _text(getattr(dag_run, "run_type", None)),
        "airflow.logical_date": _iso(getattr(dag_run, "logical_date", None)),
        "airflow.dag_version": _text(getattr(ti, "dag_version_id", None)),
    }
    return {name: value for name, value in told.items() if value}


def workflow_run(facts: Mapping[str, Any], *, instance: str, url: str | None = None) -> WorkflowRun:
    """The workflow run that these facts are about.

    Args:
        facts: what `facts` gave, perhaps by way of JSON.
        instance: the setting ``instance``: which installation of Airflow.
        url: the DAG run's page, None if it is of no use.
    """
    from tracklayer.context import WorkflowRun

    tags = {
        "airflow.dag_id": facts["dag_id"],
        "airflow.dag_tags": ",".join(facts["dag_tags"]),
        "airflow.owner": facts["owner"],
    }
    return WorkflowRun(
        orchestrator="airflow",
        instance=instance,
        workflow=facts["dag_id"],
        run_id=facts["run_id"],
        version=facts["version"],
        description=facts["description"],
        url=url,
        source=facts["source"],
        started_at=moment(facts["started_at"]),
        logical_date=moment(facts["logical_date"]),
        params=MappingProxyType(dict(facts["params"])),
        tags=MappingProxyType({name: value for name, value in tags.items() if value}),
    )


def resumed(task: Mapping[str, Any]) -> bool:
    """Whether this same try has run before: it comes back from a deferral, or was rescheduled."""
    server = getattr(task["ti"], "_ti_context_from_server", None)
    return bool(getattr(server, "next_method", None) or task.get("task_reschedule_count"))


def index(map_index: int | None) -> str | None:
    """Which of the tasks that were mapped; None for one that is not."""
    return None if map_index is None or map_index < 0 else str(map_index)


def moment(text: str | None) -> datetime | None:
    """A moment of the facts; None if it is not known."""
    return None if text is None else datetime.fromisoformat(text)


def values(params: Iterable[str] | None) -> dict[str, Any]:
    """The values of DAG or task params, those left out that have none (a param may be required and not given)."""
    found = {}
    for name in params or ():
        try:
            found[name] = params[name]  # type: ignore[index]  # a ParamsDict, Airflow's own mapping
        except Exception:  # noqa: S112  # what has no valid value is no param of the run; Airflow reports it itself
            continue
    return found


def _text(value: object) -> str | None:
    """Plain text of a member of an enumeration whose members are text."""
    return None if value is None else str(getattr(value, "value", value))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
