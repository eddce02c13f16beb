"""What is called before the callbacks of a task; what comes of it on a scheduler: ``observed_slow`` in the table of endings."""

from __future__ import annotations

import copy
import logging
import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer.observation import current_observation
from tracklayer.settings import Settings
from tracklayer_airflow.callbacks import KINDS, call_first
from tracklayer_airflow.observing import TaskListener, followed
from tracklayer_airflow.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Callable

ERROR = ValueError("it cannot work")


def instance(state: str = "running", exception: object = None, *, callbacks: dict[str, Any]) -> Any:
    """A task instance in a state, whose operator has callbacks."""
    context = {} if exception is None else {"exception": exception}
    task = SimpleNamespace(**{**dict.fromkeys(KINDS, ()), **callbacks})
    return SimpleNamespace(task=task, state=state, get_template_context=lambda: context)


def of_airflow(ti: Any, kind: str) -> None:
    """Call them as Airflow does when it has decided how the task ended."""
    for _, callback in enumerate(getattr(ti.task, kind)):
        callback(ti.get_template_context())


@pytest.mark.parametrize("made", [list, tuple])
@pytest.mark.parametrize(
    ("kind", "exception", "told"),
    [
        ("on_success_callback", None, (None, False)),
        ("on_success_callback", ERROR, (None, False)),
        ("on_skipped_callback", None, (None, True)),
        ("on_failure_callback", ERROR, (ERROR, False)),
        ("on_failure_callback", None, ("the task failed", False)),
        ("on_retry_callback", ERROR, (ERROR, False)),
    ],
)
def test_it_is_called_before_those_of_the_user(
    kind: str, exception: object, told: tuple[object, bool], made: Callable[[object], object]
) -> None:
    seen: list[object] = []
    ti = instance(exception=exception, callbacks={kind: made([seen.append])})
    call_first(ti, lambda error, skipped: seen.append((error, skipped)))
    ti.state = KINDS[kind]
    of_airflow(ti, kind)
    of_airflow(ti, kind)
    assert seen == [told, ti.get_template_context(), ti.get_template_context()]
    assert [getattr(ti.task, each) for each in KINDS if each != kind] == [(), (), ()], "nobody is to be called"


@pytest.mark.parametrize("kind", KINDS)
def test_code_that_looks_at_its_callbacks_or_calls_them_announces_nothing(kind: str) -> None:
    seen: list[object] = []
    others = [state for state in KINDS.values() if state != KINDS[kind]]
    for state in ("running", *others):
        ti = instance(state, callbacks={kind: [print, seen.append]})
        call_first(ti, lambda error, skipped: pytest.fail("it is not decided"))
        callbacks = getattr(ti.task, kind)
        assert callbacks == [print, seen.append]
        assert [callback.__name__ for callback in callbacks] == ["print", "append"]
        assert (len(callbacks), callbacks[0], isinstance(callbacks, list)) == (2, print, True)
        callbacks.append(seen.append)
        for callback in callbacks[1:]:
            callback(state)
        of_airflow(ti, kind)
    assert len(seen) == 4 * 4


def test_a_failure_of_ours_is_none_of_the_task(caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: object, skipped: object) -> None:
        raise RuntimeError("broken")

    ti = instance("success", callbacks={"on_success_callback": [print]})
    call_first(ti, broken)
    with caplog.at_level(logging.WARNING, "tracklayer"):
        of_airflow(ti, "on_success_callback")
    assert "only after its callbacks" in caplog.text


@pytest.mark.parametrize("callbacks", [[print], (print,)])
def test_a_copy_is_an_ordinary_one(callbacks: list[object] | tuple[object, ...]) -> None:
    """In another process, which does a part of the task's work, nothing is announced."""
    ti = instance("failed", callbacks={"on_failure_callback": callbacks})
    call_first(ti, lambda error, skipped: pytest.fail("it is a copy"))
    assert type(ti.task.on_failure_callback) is not type(callbacks)
    for copied in (pickle.loads(pickle.dumps(ti.task)), copy.deepcopy(ti.task)):
        assert copied.on_failure_callback == callbacks
        assert type(copied.on_failure_callback) is type(callbacks)


def test_an_operators_shallow_copy_has_the_same() -> None:
    """Airflow may execute one."""
    seen: list[object] = []
    ti = instance("failed", callbacks={"on_failure_callback": [seen.append]})
    call_first(ti, lambda error, skipped: seen.append(error))
    ti.task = copy.copy(ti.task)
    of_airflow(ti, "on_failure_callback")
    assert seen == ["the task failed", {}]


def test_what_is_no_list_stays_what_it_is() -> None:
    class Own(list[Any]):
        """Of the user's, with ways of its own."""

    own = Own([print])
    ti = instance(callbacks={"on_failure_callback": print, "on_success_callback": own})
    call_first(ti, print)
    assert ti.task.on_failure_callback is print
    assert ti.task.on_success_callback is own


class Broken(SimpleNamespace):
    @property
    def on_success_callback(self) -> Any:
        raise RuntimeError("broken")


def test_what_cannot_be_observed_is_not_observed_by_half(caplog: pytest.LogCaptureFixture) -> None:
    """Its code's runs are its own: as its task's they would have nobody to end them."""
    dag = SimpleNamespace(dag_id="d", tags=())
    task = Broken(task_id="t", dag=dag, operator_extra_links=(), operator_name="Odd", owner="")
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, task=task)
    with caplog.at_level(logging.WARNING, "tracklayer"):
        TaskListener(Rules(), Settings()).on_task_instance_running(None, ti)
    assert "the task is not observed" in caplog.text
    assert "broken" in caplog.text
    assert (current_observation(), followed().ti) == (None, None)
