"""What is called before the callbacks of a task; what comes of it on a scheduler: ``observed_slow`` in the table of endings."""

from __future__ import annotations

import copy
import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from tracklayer.observation import current_observation
from tracklayer.settings import Settings
from tracklayer_airflow.callbacks import KINDS, call_first
from tracklayer_airflow.observing import TaskListener, followed
from tracklayer_airflow.rules import Rules

ERROR = ValueError("it cannot work")


@pytest.mark.parametrize(
    ("kind", "context", "told"),
    [
        ("on_success_callback", {}, (None, False)),
        ("on_success_callback", {"exception": ERROR}, (None, False)),
        ("on_skipped_callback", {}, (None, True)),
        ("on_failure_callback", {"exception": ERROR}, (ERROR, False)),
        ("on_failure_callback", {}, ("the task failed", False)),
        ("on_retry_callback", {"exception": ERROR}, (ERROR, False)),
    ],
)
def test_it_is_called_before_those_of_the_user(kind: str, context: dict[str, Any], told: tuple[object, bool]) -> None:
    seen: list[object] = []
    operator = SimpleNamespace(**dict.fromkeys(KINDS, ()))
    setattr(operator, kind, [seen.append])
    call_first(operator, lambda error, skipped: seen.append((error, skipped)))
    for callback in getattr(operator, kind):
        callback(context)
    assert seen == [told, context]
    assert [len(getattr(operator, each)) for each in KINDS if each != kind] == [0, 0, 0], "nobody is to be called"


def test_a_failure_of_ours_is_none_of_the_task(caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: object, skipped: object) -> None:
        raise RuntimeError("broken")

    operator = SimpleNamespace(on_success_callback=[print])
    call_first(operator, broken)
    with caplog.at_level(logging.WARNING, "tracklayer"):
        operator.on_success_callback[0]({})
    assert "only after its callbacks" in caplog.text


def test_it_is_pickled_and_copied_with_the_operator() -> None:
    """In another process, which does a part of the task's work, the copy announces nothing."""
    seen: list[object] = []
    operator = SimpleNamespace(on_failure_callback=[print])
    call_first(operator, lambda error, skipped: seen.append((error, skipped)))
    elsewhere = pickle.loads(pickle.dumps(operator))
    elsewhere.on_failure_callback[0]({})
    pickle.loads(pickle.dumps(elsewhere)).on_failure_callback[0]({})
    assert seen == []
    for copied in (copy.copy(operator), copy.deepcopy(operator)):
        copied.on_failure_callback[0]({})
    assert seen == [("the task failed", False)] * 2


def test_what_is_no_list_stays_what_it_is() -> None:
    operator = SimpleNamespace(on_failure_callback=print, on_success_callback=(print,))
    call_first(operator, print)
    assert operator.on_failure_callback is print
    assert operator.on_success_callback[1:] == [print]


class Broken(list[object]):
    def __iter__(self) -> Any:
        raise RuntimeError("broken")


def test_what_cannot_be_observed_is_not_observed_by_half(caplog: pytest.LogCaptureFixture) -> None:
    """Its code's runs are its own: as its task's they would have nobody to end them."""
    dag = SimpleNamespace(dag_id="d", tags=())
    task = SimpleNamespace(
        task_id="t",
        dag=dag,
        operator_extra_links=(),
        operator_name="Odd",
        owner="",
        on_success_callback=Broken([print]),
    )
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, task=task)
    with caplog.at_level(logging.WARNING, "tracklayer"):
        TaskListener(Rules(), Settings()).on_task_instance_running(None, ti)
    assert "the task is not observed" in caplog.text
    assert "broken" in caplog.text
    assert (current_observation(), followed().ti) == (None, None)
