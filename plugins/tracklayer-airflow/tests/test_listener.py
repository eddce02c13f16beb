"""What the listener makes of what it hears: whether it matters, and what is told of it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from dag_run_ends import DAG

from tracklayer_airflow.closer import Closer
from tracklayer_airflow.closing import close
from tracklayer_airflow.listener import DagRunListener
from tracklayer_airflow.rules import Rules
from tracklayer_airflow.workflow import OWN_FIELDS


@pytest.mark.parametrize(("rules", "observed"), [(Rules(), True), (None, False)])
def test_a_dag_run_whose_dag_is_not_told_may_be_any(
    monkeypatch: pytest.MonkeyPatch, rules: Rules | None, observed: bool
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Closer, "submit", lambda closer, end: told.append(end))
    dag_run = SimpleNamespace(dag_id=DAG, run_id="marked", end_date=datetime.now(UTC), triggered_by="ui", dag=None)
    DagRunListener(rules).on_dag_run_success(dag_run, "")
    (end,) = told
    assert (end["unknown"], end["tracked"], end["observed"]) == (True, False, observed)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("tracklayer.tracking.close_workflow_run", lambda *_, **options: asked.append(options))
    close(end)
    (options,) = asked
    assert options["parent"].key == "airflow:default/closing/marked"
    assert (options["observed"], options["perhaps"]) == (observed, True)


def test_it_is_begun_when_a_dag_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(Closer, "begin", lambda closer: begun.append("begun"))
    task = SimpleNamespace(template_fields=(*OWN_FIELDS, "op_args"), task_id="train")
    tracked_dag = SimpleNamespace(task_dict={"train": task}, dag_id="flights", tags=[])
    plain_dag = SimpleNamespace(task_dict={}, dag_id="plain", tags=[])
    listener = DagRunListener()
    listener.on_dag_run_running(SimpleNamespace(dag=plain_dag, triggered_by="ui"), "")
    listener.on_dag_run_running(SimpleNamespace(dag=tracked_dag, triggered_by="test"), "")
    assert begun == []
    listener.on_dag_run_running(SimpleNamespace(dag=tracked_dag, triggered_by="ui"), "")
    assert begun == ["begun"]


def test_it_is_begun_when_the_scheduler_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DAG run that goes on since before has no beginning that anybody hears of."""
    begun: list[list[str]] = []
    ahead: list[list[str]] = []
    monkeypatch.setattr(Closer, "begin", lambda closer: begun.append(sys.argv))
    monkeypatch.setattr("tracklayer_airflow.ahead.import_ahead", lambda: ahead.append(sys.argv))
    job = type("Job", (), {})()
    for argv, component in [
        (["airflow", "triggerer"], job),
        (["airflow", "dag-processor"], job),
        (["airflow", "scheduler"], type("TaskRunnerMarker", (), {})()),  # of a task, forked from the scheduler
        (["pytest"], job),
        (["airflow", "scheduler", "--num-runs", "1"], job),
    ]:
        monkeypatch.setattr(sys, "argv", argv)
        DagRunListener().on_starting(component)
    scheduler = ["airflow", "scheduler", "--num-runs", "1"]
    assert begun == [scheduler]
    assert ahead == [["airflow", "dag-processor"], scheduler]  # they fork the processes of files and of tasks


def test_the_tasks_of_a_dag_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    looked: list[Any] = []
    monkeypatch.setattr(Closer, "begin", lambda closer: begun.append("begun"))

    def observe_any(rules: Rules, dag: Any) -> bool:
        looked.append(dag)
        return bool(dag.observed)

    monkeypatch.setattr(Rules, "observe_any", observe_any)
    listener = DagRunListener(Rules())
    kind = type("Version", (SimpleNamespace,), {})  # one to which there may be weak references, as to Airflow's
    versions = [kind(task_dict={}, dag_id="flights", tags=[], observed=observed) for observed in (1, 0)]
    for dag in (versions[0], versions[0], versions[1], versions[1], versions[0]):
        listener.on_dag_run_running(SimpleNamespace(dag=dag, triggered_by="ui"), "")
    assert looked == [versions[0], versions[1], versions[0]]
    assert len(begun) == 3


class Lost(SimpleNamespace):
    """A row of Airflow's table of task instances, as the scheduler has it."""

    __module__ = "airflow.models.taskinstance"


def test_only_the_scheduler_loses_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Closer, "submit", lambda closer, lost: told.append(lost))
    task = SimpleNamespace(template_fields=(*OWN_FIELDS, "op_args"), task_id="train")
    task.dag = SimpleNamespace(task_dict={"train": task}, dag_id="flights", tags=[])
    plain = SimpleNamespace(task_id="train", dag=SimpleNamespace(task_dict={}, dag_id="plain", tags=[]))
    one = {"dag_id": "flights", "run_id": "r1", "task_id": "train", "map_index": -1, "try_number": 2}
    listener = DagRunListener()
    listener.on_task_instance_failed("running", SimpleNamespace(**one, task=task))  # in the task's own process
    listener.on_task_instance_failed(None, Lost(**one, task=task))  # in the API server: somebody marks it as failed
    listener.on_task_instance_failed("running", Lost(**one, task=plain))
    assert told == []
    listener.on_task_instance_failed("running", Lost(**one, task=task, state="failed"))
    assert told == [one]
    listener.on_task_instance_failed("running", Lost(**{**one, "try_number": 3}))  # nobody has loaded its task
    assert told == [one, {**one, "try_number": 3}]
