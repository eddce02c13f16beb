"""Every way in which flows end, each as a flow that can be made tracked or left plain."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Cancelling, Completed, Failed

from tracklayer_prefect import tracked_flow, tracked_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

LIMIT = 1.0
"""Seconds that flows and tasks may take which take too long. They count while the runs are opened, too: where all of those are
to be there, it is more."""


class Mark(Protocol):
    """Decorates a flow or task, or leaves it as it is."""

    def __call__(self, target: T, /) -> T: ...


@dataclass(frozen=True)
class Ending:
    """A way to end.

    Attributes:
        make: makes the flow, given what is done to flows and to tasks.
        parent: the status of the flow run's run; None if the flow never begins, and so has none.
        stages: the statuses of the stage runs.
    """

    make: Callable[[Mark, Mark], Any]
    parent: str | None
    stages: tuple[str, ...] = ()


def returns(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    def step(number: int) -> int:
        return number + 1

    @flow_mark
    @flow
    def ending() -> int:
        return step(step(1))

    return ending


def raises(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    def step() -> int:
        raise ValueError("no data")

    @flow_mark
    @flow
    def ending() -> int:
        return step()

    return ending


def raises_in_async(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    async def step() -> int:
        await asyncio.sleep(0)
        raise ValueError("no data")

    @flow_mark
    @flow
    async def ending() -> int:
        return await step()

    return ending


def one_of_many_fails(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    def step(number: int) -> int:
        time.sleep(number / 10)
        return 6 // number

    @flow_mark
    @flow
    def ending() -> Any:
        return step.map([0, 1, 2])

    return ending


def catches(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    def step() -> int:
        raise ValueError("no data")

    @flow_mark
    @flow
    def ending() -> int:
        try:
            return step()
        except ValueError:
            return 0

    return ending


def succeeds_at_the_second_try(flow_mark: Mark, task_mark: Mark) -> Any:
    tries = []

    @task_mark
    @task
    def step() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not yet")
        return len(tries)

    @flow_mark
    @flow(retries=1)
    def ending() -> int:
        return step()

    return ending


def returns_a_failed_state(flow_mark: Mark, task_mark: Mark) -> Any:
    @flow_mark
    @flow
    def ending() -> Any:
        return Failed(message="said so")

    return ending


def returns_a_completed_state(flow_mark: Mark, task_mark: Mark) -> Any:
    @flow_mark
    @flow
    def ending() -> Any:
        return Completed(message="skipped", name="Skipped")

    return ending


def takes_too_long(flow_mark: Mark, task_mark: Mark) -> Any:
    @flow_mark
    @flow(timeout_seconds=LIMIT)
    def ending() -> None:
        time.sleep(60)

    return ending


def takes_too_long_in_async(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    async def step() -> None:
        await asyncio.sleep(60)

    @flow_mark
    @flow(timeout_seconds=LIMIT)
    async def ending() -> None:
        await step()

    return ending


def has_a_task_that_takes_too_long(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task(timeout_seconds=LIMIT)
    def step() -> None:
        time.sleep(60)

    @flow_mark
    @flow
    def ending() -> None:
        step()

    return ending


def is_cancelled_meanwhile(flow_mark: Mark, task_mark: Mark) -> Any:
    @flow_mark
    @flow
    def ending() -> int:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, Cancelling())
        return 1

    return ending


def exits(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    def step() -> None:
        sys.exit(3)

    @flow_mark
    @flow
    def ending() -> None:
        step()

    return ending


def is_interrupted(flow_mark: Mark, task_mark: Mark) -> Any:
    @flow_mark
    @flow
    def ending() -> None:
        raise KeyboardInterrupt

    return ending


def generates(flow_mark: Mark, task_mark: Mark) -> Any:
    @task_mark
    @task
    def step(to: int) -> Iterator[int]:
        yield from range(to)
        raise ValueError("no more")

    @flow_mark
    @flow
    def ending() -> int:
        return sum(step(2))

    return ending


def has_wrong_parameters(flow_mark: Mark, task_mark: Mark) -> Any:
    @flow_mark
    @flow
    def ending(number: int = "three") -> int:  # type: ignore[assignment]
        return number

    return ending


ENDINGS = {
    "returns": Ending(returns, "FINISHED", ("FINISHED", "FINISHED")),
    "raises": Ending(raises, "FAILED", ("FAILED",)),
    "raises in async": Ending(raises_in_async, "FAILED", ("FAILED",)),
    "one of many fails": Ending(one_of_many_fails, "FAILED", ("FAILED", "FINISHED", "FINISHED")),
    "catches": Ending(catches, "FINISHED", ("FAILED",)),
    "succeeds at the second try": Ending(succeeds_at_the_second_try, "FINISHED", ("FAILED", "FINISHED")),
    "returns a failed state": Ending(returns_a_failed_state, "FAILED"),
    "returns a completed state": Ending(returns_a_completed_state, "FINISHED"),
    "takes too long": Ending(takes_too_long, "FAILED"),
    "takes too long in async": Ending(takes_too_long_in_async, "FAILED", ("KILLED",)),
    "has a task that takes too long": Ending(has_a_task_that_takes_too_long, "FAILED", ("FAILED",)),
    "is cancelled meanwhile": Ending(is_cancelled_meanwhile, "KILLED"),
    "exits": Ending(exits, "FAILED", ("FAILED",)),
    "is interrupted": Ending(is_interrupted, "KILLED"),
    "generates": Ending(generates, "FAILED", ("FAILED",)),
    "has wrong parameters": Ending(has_wrong_parameters, None),
}


def plain(target: T, /) -> T:
    """Leaves a flow or task as it is."""
    return target


@dataclass(frozen=True)
class End:
    """How a call of a flow ended, for its caller and for Prefect."""

    returned: str | None
    error: str | None
    state: str | None


def run(make: Callable[[Mark, Mark], Any], *, tracked: bool) -> End:
    """Run the flow to its end, as a script would."""
    marks: tuple[Any, Any] = (tracked_flow, tracked_task) if tracked else (plain, plain)
    ending = make(*marks)
    states: list[Any] = []

    def keep(flow: Any, flow_run: Any, state: Any) -> None:
        states.append(state)

    for hook in (ending.on_completion, ending.on_failure, ending.on_cancellation, ending.on_crashed):
        hook(keep)
    try:
        result = asyncio.run(ending()) if ending.isasync else ending()
        returned, error = repr(_told(result)), None
    except BaseException as raised:
        returned, error = None, repr(raised).replace(f"after {LIMIT} second", "after LIMIT second")
    state = f"{states[-1].type.value} {states[-1].name}" if states else None
    return End(returned, error, state)


def _told(result: Any) -> Any:
    """What is the same in two runs of one flow: without ids and times."""
    if isinstance(result, list):
        return [_told(item) for item in result]
    return getattr(result, "name", result)
