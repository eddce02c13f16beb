"""The runs that a sensor on another DAG is linked to, by what Airflow tells of that one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tracklayer.context import RunRef, Token
from tracklayer.identity import format_token
from tracklayer_airflow import awaited

if TYPE_CHECKING:
    import pytest

DATES = "2026-11-21T00:00:00+00:00,2026-11-22T00:00:00+00:00"


class Instance:
    """The sensor's task instance; in each of the other DAG's two runs every one of its tasks is tracked but the first."""

    task_id = "wait"

    def __init__(self, tasks: list[str]) -> None:
        self.tasks = tasks
        self.asked = 0

    def get_task_states(self, *, task_ids: list[str] | None, **_: Any) -> dict[str, dict[str, str]]:
        return {run_id: dict.fromkeys(task_ids or self.tasks, "success") for run_id in ("r1", "r2")}

    def xcom_pull(self, *, run_id: str, task_ids: list[str], **_: Any) -> list[str | None]:
        self.asked += 1
        if task_ids == self.tasks[:1]:
            return [None]
        parent = RunRef(run_id=f"parent-{run_id}", experiment_id="1")
        return [format_token(Token(run=RunRef(run_id=f"{run_id}-{task_ids[0]}", experiment_id="1"), parent=parent))]


def linked(instance: Instance, tasks: list[str] | None = None) -> list[str]:
    sensor = SimpleNamespace(
        external_dag_id="other", external_dates_filter=DATES, external_task_ids=tasks, external_task_group_id=None
    )
    return [item.run.run_id for item in awaited.upstream(sensor, {"ti": instance})]


def test_every_whole_dag_run_that_was_waited_for_is_linked() -> None:
    instance = Instance(["begin", "train", "report"])
    assert linked(instance) == ["parent-r1", "parent-r2"]
    assert instance.asked == 4, "no more than until a parent is known"


def test_every_task_that_was_waited_for_is_linked() -> None:
    assert linked(Instance(["begin", "train"]), ["train"]) == ["r1-train", "r2-train"]


def test_the_log_says_when_not_all_were_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(awaited, "LOOKUPS", 3)
    assert linked(Instance(["begin", "one", "two"]), ["one", "two"]) == ["r1-one", "r1-two", "r2-one"]
    assert caplog.messages == ["tracking: wait has waited for too many tasks of other; not all were asked"]
    caplog.clear()
    assert linked(Instance(["begin", "one"]), ["one"]) == ["r1-one", "r2-one"]
    assert not caplog.messages
