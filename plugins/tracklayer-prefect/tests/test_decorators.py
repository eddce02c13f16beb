from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from prefect import flow, task
from prefect.tasks import MaterializingTask
from pydantic import BaseModel

from tracklayer_prefect import tracked_flow, tracked_task
from tracklayer_prefect.endings import tracklayer_record_end, tracklayer_record_reuse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Config(BaseModel):
    """Only this module's globals know it, and annotations are postponed here."""

    depth: int = 1


def add(a: int, b: int = 2) -> int:
    """Add."""
    return a + b


async def add_later(a: int, b: int = 2) -> int:
    return a + b


def count(to: int) -> Iterator[int]:
    yield from range(to)


async def count_later(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


KINDS = [add, add_later, count, count_later]


@pytest.mark.parametrize("fn", KINDS)
def test_a_task_keeps_its_kind_its_name_and_its_signature(fn: Any) -> None:
    plain, tracked = task(fn), tracked_task(stage="s")(task(fn))
    assert type(tracked) is type(plain)
    for attribute in ("name", "isasync", "isgenerator", "description", "task_key", "source_code"):
        assert getattr(tracked, attribute) == getattr(plain, attribute)
    for test in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        inspect.signature,
        inspect.getsource,
    ):
        assert test(tracked.fn) == test(fn)


@pytest.mark.parametrize("fn", KINDS)
def test_a_flow_keeps_its_kind_its_name_and_its_entry_point(fn: Any) -> None:
    plain, tracked = flow(fn), tracked_flow(flow(fn))
    assert type(tracked) is type(plain)
    for attribute in ("name", "isasync", "isgenerator", "description", "version", "_entrypoint"):
        assert getattr(tracked, attribute) == getattr(plain, attribute)
    assert tracked.parameters == plain.parameters
    assert tracked.with_options(retries=3)._entrypoint == plain._entrypoint


def test_postponed_annotations_are_found_in_the_users_module() -> None:
    def configured(config: Config) -> int:
        return config.depth

    tracked = tracked_flow(flow(configured))
    assert tracked.validate_parameters({"config": {"depth": "3"}}) == {"config": Config(depth=3)}


def test_options_and_copies_stay_tracked() -> None:
    tracked = tracked_task(stage="s")(task(add))
    varied = tracked.with_options(name="other", retries=2)
    assert varied.fn is tracked.fn
    assert varied.on_completion_hooks[0] is tracklayer_record_reuse


def test_what_travels_to_a_worker_works_there() -> None:
    tracked = cloudpickle.loads(cloudpickle.dumps(tracked_task(stage="s")(task(add))))
    assert tracked.fn(1, b=4) == 5
    travelled = cloudpickle.loads(cloudpickle.dumps(tracked_flow(flow(add))))
    assert travelled.fn(1) == 3


def test_hooks_come_first_and_in_lists_of_their_own() -> None:
    def mine(flow: Any, flow_run: Any, state: Any) -> None: ...

    hooks: list[Any] = [mine]
    tracked = tracked_flow(flow(on_failure=hooks)(add))
    assert tracked.on_failure_hooks == [tracklayer_record_end, mine]
    assert hooks == [mine]
    for given in (tracked.on_completion_hooks, tracked.on_crashed_hooks, tracked.on_cancellation_hooks):
        assert given == [tracklayer_record_end]


def test_a_function_that_prefect_does_not_call_is_not_tracked(caplog: pytest.LogCaptureFixture) -> None:
    assert tracked_task(task(add)).fn(1) == 3
    assert tracked_flow(flow(add)).fn(1) == 3
    assert not caplog.records


def test_a_materializing_task_stays_one() -> None:
    from prefect.assets import materialize

    tracked = tracked_task(stage="data-prep")(materialize("s3://bucket/flights")(add))
    assert isinstance(tracked, MaterializingTask)
    assert tracked.with_options(retries=1).assets == tracked.assets


@pytest.mark.parametrize("decorate", [tracked_task, tracked_task(stage="s")])
def test_a_wrong_order_says_so(decorate: Any) -> None:
    with pytest.raises(TypeError, match="@tracked_task stands above @task"):
        task(decorate(add))
    with pytest.raises(TypeError, match="@tracked_task stands above @task"):
        decorate(flow(add))


def test_a_wrong_order_of_a_flow_says_so() -> None:
    with pytest.raises(TypeError, match="@tracked_flow stands above @flow"):
        flow(tracked_flow(add))  # type: ignore[call-overload]


def test_twice_is_once_too_often() -> None:
    with pytest.raises(TypeError, match="'add' is tracked already"):
        tracked_task(tracked_task(task(add)))


class Trainer:
    @tracked_task(stage="training")
    @task
    def train(self, rows: int) -> int:
        return rows + 1

    @tracked_task
    @task
    @staticmethod
    def static(rows: int) -> int:
        return rows + 2

    @tracked_task
    @task
    @classmethod
    def of_class(cls, rows: int) -> str:
        return f"{cls.__name__}{rows}"


def test_methods_stay_methods(orchestrated: None) -> None:
    @flow
    def methods() -> tuple[int, int, str]:
        return Trainer().train(1), Trainer.static(1), Trainer.of_class(1)  # type: ignore[call-overload]

    assert methods() == (2, 3, "Trainer1")


def test_types_are_kept() -> None:
    """Checked by mypy, too: the ignored errors must be there, or the comments are errors."""
    tracked = tracked_task(stage="s")(task(add))
    number: int = tracked.fn(1, b=2)
    with pytest.raises(TypeError):
        tracked.fn("one")  # type: ignore[arg-type]
    flown = tracked_flow(flow(add))
    same: int = flown.fn(1)
    with pytest.raises(TypeError):
        flown.fn(1, c=2)  # type: ignore[call-arg]
    assert number == same == 3
