"""What is copied of tries that ended while they were deferred, and that the database is asked for nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, DateTime, Integer, String, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Session

from tracklayer.context import State, TaskRun
from tracklayer_airflow import deferred
from tracklayer_airflow.closer import Closer
from tracklayer_airflow.listener import DagRunListener
from tracklayer_airflow.workflow import OWN_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

AT = datetime(2026, 11, 21, 11, tzinfo=UTC)


class Base(DeclarativeBase):
    """What the tables of this database have in common."""


class DagRun(Base):
    __tablename__ = "dag_run"
    id = Column(Integer, primary_key=True)
    dag_id = Column(String)
    run_id = Column(String)


class TaskInstance(Base):
    __tablename__ = "task_instance"
    id = Column(Integer, primary_key=True)
    dag_id = Column(String)
    run_id = Column(String)
    task_id = Column(String)
    map_index = Column(Integer)
    try_number = Column(Integer)
    state = Column(String)
    next_method = Column(String)
    end_date = Column(DateTime(timezone=True))


class Metadata:
    """A database like Airflow's, in the session in which the scheduler decides about a DAG run."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.dag_run = DagRun(dag_id="flights", run_id="r1")
        session.add(self.dag_run)
        self.asked: list[str] = []

    def instance(self, task_id: str, **told: Any) -> TaskInstance:
        """A task instance that a trigger has ended, unless something else is told."""
        own = {"dag_id": "flights", "run_id": "r1", "map_index": -1, "try_number": 1, "state": "success"}
        made = TaskInstance(**{**own, "task_id": task_id, "next_method": "resume", "end_date": AT, **told})
        self.session.add(made)
        return made

    def ended(self) -> dict[str, str]:
        """What is found, by task; the database is asked for nothing meanwhile."""
        self.session.flush()
        self.asked.clear()
        found = {item["task_id"]: item["state"] for item in deferred.ended(self.dag_run)}
        assert self.asked == []
        return found


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        found = Metadata(session)
        event.listen(engine, "before_cursor_execute", lambda *told: found.asked.append(told[2]))
        yield found
    engine.dispose()


def test_those_that_a_trigger_ended(metadata: Metadata) -> None:
    kept = [metadata.instance(state, state=state) for state in ("success", "failed", "skipped")]
    assert metadata.ended() == {item.task_id: item.state for item in kept}


@pytest.mark.parametrize(
    "told",
    [
        {"next_method": None},  # a worker's word, or the scheduler's
        {"end_date": None, "state": "skipped"},  # the DAG run timed out
        {"state": "deferred"},
        {"state": "upstream_failed"},
        {"run_id": "r2"},
        {"dag_id": "other"},
    ],
)
def test_and_no_others(metadata: Metadata, told: dict[str, Any]) -> None:
    kept = metadata.instance("train", **told)
    assert metadata.ended() == {}
    assert kept is not None


def test_what_is_not_loaded_is_not_asked_for(metadata: Metadata) -> None:
    kept = [metadata.instance("one"), metadata.instance("two")]
    metadata.session.flush()
    metadata.session.expire(kept[0])
    assert metadata.ended() == {"two": "success"}


def test_what_it_is_for_tracklayer() -> None:
    place = {"task_id": "train", "map_index": 3, "try_number": 2}
    assert deferred.told([{**place, "state": "skipped", "ended_at": AT.isoformat()}]) == [
        (TaskRun(task="train", index="3", try_number=2), State(status="FINISHED", ended_at=AT, note="skipped"))
    ]


def test_a_dag_run_of_no_database_has_none() -> None:
    assert deferred.ended(SimpleNamespace(dag_id="flights", run_id="r1")) == []


def test_it_goes_with_the_end_of_a_dag_run_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    one = {"task_id": "train", "map_index": -1, "try_number": 1, "state": "failed", "ended_at": AT.isoformat()}
    monkeypatch.setattr(Closer, "submit", lambda closer, end: told.append(end))
    monkeypatch.setattr(deferred, "ended", lambda dag_run: [one])
    tracked = SimpleNamespace(template_fields=OWN_FIELDS)
    for task in (tracked, SimpleNamespace()):
        dag = SimpleNamespace(dag_id="flights", task_dict={"train": task}, tags=[])
        DagRunListener().on_dag_run_failed(SimpleNamespace(dag_id="flights", run_id="r1", dag=dag), "task_failure")
    assert [end.get("deferred") for end in told] == [[one], None]


def test_the_dag_runs_own_end_is_told_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Closer, "submit", lambda closer, end: told.append(end))
    monkeypatch.setattr(deferred, "ended", lambda dag_run: 1 / 0)
    dag = SimpleNamespace(dag_id="flights", task_dict={"train": SimpleNamespace(template_fields=OWN_FIELDS)}, tags=[])
    DagRunListener().on_dag_run_success(SimpleNamespace(dag_id="flights", run_id="r1", dag=dag), "")
    assert [(end["status"], end["deferred"]) for end in told] == [("FINISHED", [])]
