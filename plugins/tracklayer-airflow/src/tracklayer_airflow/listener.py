"""The end of a DAG run, and of a try whose process is lost, heard in the scheduler.

Airflow calls a listener in the scheduler's own loop, with a database session open: whatever takes time here holds up
every DAG of the installation, and a session of our own would break the scheduler's. So plain values are copied and
handed to another process (`tracklayer_airflow.closer`), and nothing else is done.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pluggy

from tracklayer_airflow import deferred, workflow

if TYPE_CHECKING:
    from tracklayer_airflow.closer import Closer
    from tracklayer_airflow.rules import Rules

hookimpl = pluggy.HookimplMarker("airflow")

log = logging.getLogger("tracklayer")

SCHEDULER: Final = ["scheduler"]
FORKING: Final = (SCHEDULER, ["dag-processor"])
"""The commands of `airflow` whose processes fork others for tasks and for files with DAGs."""

TRY: Final = ("dag_id", "run_id", "task_id", "map_index", "try_number")
"""What names a try."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Whether a DAG has tasks that are tracked, or observed; or that nobody knows, as Airflow does not say which DAG it is."""

    tracked: bool = False
    observed: bool = False
    unknown: bool = False

    @property
    def matters(self) -> bool:
        return self.tracked or self.observed or self.unknown


class DagRunListener:
    """Has the parent of every DAG run ended as the DAG run ended, and a lost try's runs as killed."""

    def __init__(self, rules: Rules | None = None) -> None:
        """Begin to listen.

        Args:
            rules: which tasks are observed; None if none is.
        """
        self._rules = rules
        self._known: dict[str, tuple[weakref.ref[Any], _Kind]] = {}

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """A component starts.

        The scheduler: somebody is to look after the tasks of DAG runs that go on, should one be killed. It, and the
        dag-processor: what is forked from here is to import nothing of ours itself.
        """
        # The same is called in every component, and in the processes of tasks, which the scheduler's executor forks.
        if type(component).__name__ != "Job" or sys.argv[1:2] not in FORKING:
            return
        from tracklayer_airflow.ahead import import_ahead

        import_ahead()
        if sys.argv[1:2] == SCHEDULER:
            self._closer.begin()

    @hookimpl
    def on_dag_run_running(self, dag_run: Any, msg: str) -> None:  # noqa: ARG002  # Airflow's signature
        """The DAG run has begun: whoever looks after killed tasks is to be there still."""
        if not _by_dag_test(dag_run) and self._kind(getattr(dag_run, "dag", None)).matters:
            self._closer.begin()

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:  # noqa: ARG002  # Airflow's signature
        """The DAG run has succeeded."""
        self._ended(dag_run, "FINISHED", None)

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """The DAG run has failed; `msg` says why (``task_failure``, ``timed_out``, …)."""
        self._ended(dag_run, "FAILED", f"the DAG run failed: {msg}" if msg else None)

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any) -> None:
        """The scheduler has given a try up whose process is gone: its worker was lost, or its supervisor killed.

        Airflow also calls this in the task's own process, where the run ends by itself, and in the API server for a
        task that somebody marks as failed, which is told to stop then.
        """
        if previous_state is None or not type(task_instance).__module__.startswith("airflow.models"):
            return
        loaded = vars(task_instance)  # asking for what is not loaded would be a query
        if self._kind(getattr(loaded.get("task"), "dag", None)).matters:
            self._closer.submit({name: loaded.get(name) for name in TRY})

    def _ended(self, dag_run: Any, status: str, error: str | None) -> None:
        dag = getattr(dag_run, "dag", None)
        facts = workflow.facts(dag_run, dag, version=getattr(dag_run, "bundle_version", None))
        kind = self._kind(dag)
        end: dict[str, Any] = {"facts": facts, "status": status, "error": error}
        end |= {"tracked": kind.tracked, "observed": kind.observed, "unknown": kind.unknown}
        if kind.matters:
            end["deferred"] = _ended_while_deferred(dag_run)
        if _by_dag_test(dag_run):
            # dag.test(): there is no scheduler to hold up, and the process may end as soon as this returns.
            from tracklayer_airflow.closing import close

            close(end)
        else:
            self._closer.submit(end)

    def _kind(self, dag: Any) -> _Kind:
        """What kind of DAG it is; looked at once for each version, of which Airflow keeps one object.

        Not every road by which Airflow comes here has loaded it: the API server of 3.1 and 3.2 has not where somebody
        marks a DAG run, and the scheduler not always where it gives a try up.
        """
        if dag is None:
            return _Kind(observed=self._rules is not None, unknown=True)
        before = self._known.get(dag.dag_id)
        if before is not None and before[0]() is dag:
            return before[1]
        found = _Kind(
            tracked=workflow.is_tracked(dag), observed=self._rules is not None and self._rules.observe_any(dag)
        )
        with contextlib.suppress(TypeError):  # what cannot be referred to like this is looked at each time
            self._known[dag.dag_id] = weakref.ref(dag), found
        return found

    @cached_property
    def _closer(self) -> Closer:
        from tracklayer_airflow.closer import Closer

        return Closer()


def _ended_while_deferred(dag_run: Any) -> list[dict[str, Any]]:
    try:
        return deferred.ended(dag_run)
    except Exception:  # the DAG run's own end is told all the same
        log.warning("tracking: nobody knows which tasks were ended by their triggers", exc_info=True)
        return []


def _by_dag_test(dag_run: Any) -> bool:
    triggered_by = getattr(dag_run, "triggered_by", None)
    return getattr(triggered_by, "value", triggered_by) == "test"
