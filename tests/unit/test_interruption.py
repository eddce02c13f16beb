"""What a signal handler raises is told from what fails in tracking itself."""

from __future__ import annotations

import functools
import signal
import sys
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

from tracklayer import dispatch, hookspecs
from tracklayer.context import RunContext, TaskRun, WorkflowRun
from tracklayer.fence import fence
from tracklayer.hookspecs import hookimpl
from tracklayer.interruption import is_interruption, let_through
from tracklayer.mlflow_plugins.stages import guard
from tracklayer.params import encode
from tracklayer.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Limit(Exception):
    """As the soft time limits of the field: an ordinary exception."""


def plain(number: int, frame: object) -> None:
    raise Limit(number)


class Handler:
    def method(self, number: int, _frame: object) -> None:
        raise Limit(number)

    def __call__(self, *_: object) -> None:
        deep()


def deep() -> None:
    raise Limit("further in")


def decorated(*args: Any, **more: Any) -> None:
    plain(*args, **more)


HANDLERS: dict[str, Callable[..., Any]] = {
    "function": plain,
    "method": Handler().method,
    "object": Handler(),
    "partial": functools.partial(plain),
    "wrapper": decorated,
}


@pytest.fixture(params=HANDLERS)
def strike(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Interrupts whoever calls it, by a signal handler that raises `Limit`."""
    before = signal.signal(signal.SIGUSR1, HANDLERS[request.param])
    yield lambda: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_it_passes_the_fence(strike: Callable[[], None]) -> None:
    with pytest.raises(Limit) as raised, fence("opening the run", "log"):
        strike()
    assert is_interruption(raised.value)


def test_it_passes_what_guards_an_mlflow_call(strike: Callable[[], None]) -> None:
    with pytest.raises(Limit), guard("finding the stage of an MLflow call"):
        strike()


def test_no_plugin_is_taken_for_failed(strike: Callable[[], None]) -> None:
    class Plugin:
        @hookimpl
        def tracklayer_run_tags(self) -> dict[str, str]:
            strike()
            return {}

    manager = pluggy.PluginManager("tracklayer")
    manager.add_hookspecs(hookspecs)
    manager.register(Plugin())
    workflow_run = WorkflowRun(orchestrator="script", workflow="flights", run_id="1")
    with pytest.raises(Limit):
        dispatch.run_tags(manager, RunContext(workflow_run=workflow_run, task_run=TaskRun(task="train")))


def test_no_value_is_taken_for_unreadable(strike: Callable[[], None]) -> None:
    class Slow:
        def __repr__(self) -> str:
            strike()
            return "slow"

    with pytest.raises(Limit):
        encode({"model": Slow()}, redact=Redaction())


def test_other_failures_are_none() -> None:
    with fence("opening the run", "log"):
        deep()
    with fence("looking at its caller", "log"):
        inspected(sys._getframe().f_code)
    let_through(ValueError("never raised"))


def inspected(code: object) -> None:
    raise Limit(code)


def test_code_that_looks_at_its_callers_is_no_handler() -> None:
    def told(caller: object) -> None:
        raise Limit(caller)

    def looks(level: int = 1) -> None:
        frame = sys._getframe(level)
        told(frame)

    for call in (looks, functools.partial(looks, 0)):
        with pytest.raises(Limit) as raised:
            call()
        assert not is_interruption(raised.value)
