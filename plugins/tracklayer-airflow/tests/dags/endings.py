"""Every way a task can end, once with Airflow's own operators and once tracked; the two must end alike."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowFailException, AirflowSkipException
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, PokeReturnValue, get_current_context, task

from tracklayer_airflow import Tracked, TrackedPythonOperator


class Deferring(BaseOperator):
    """Defers twice, then returns what it was handed on the way."""

    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="again", kwargs={})

    def again(self, context: Any, event: Any = None) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="finish", kwargs={})

    def finish(self, context: Any, event: Any = None) -> str:
        return "resumed"


class TrackedDeferring(Tracked, Deferring):
    pass


class Rescheduled(BaseSensorOperator):
    """Is satisfied at its third poke."""

    def poke(self, context: Any) -> PokeReturnValue:
        return PokeReturnValue(context["task_reschedule_count"] >= 2, xcom_value="poked")


class TrackedRescheduled(Tracked, Rescheduled):
    pass


class CustomError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this error cannot even be printed")


def ok(number: int = 7, *, text: str = "a word") -> dict[str, int]:
    return {"number": number, "length": len(text)}


def failing() -> None:
    raise ValueError("no data")


def unprintable() -> None:
    raise CustomError


def retried() -> str:
    if get_current_context()["ti"].try_number == 1:
        raise ConnectionError("the first try fails")
    return "second try"


def skipping() -> None:
    raise AirflowSkipException("nothing to do")


def failing_for_good() -> None:
    raise AirflowFailException("no retry will help")


def exiting() -> None:
    sys.exit(3)


def exiting_in_order() -> None:
    sys.exit(0)


def interrupted() -> None:
    raise KeyboardInterrupt


def stopping_iteration() -> None:
    raise StopIteration("from nowhere")


def overdue() -> None:
    import time

    time.sleep(60)


def generating() -> list[int]:
    return [1, 2, 3]


def mapped(number: int) -> int:
    if number == 2:
        raise ValueError("two is refused")
    return number * 10


def reporting() -> str:
    """Says which environment a task sees, as far as tracking could have left something there."""
    return ",".join(sorted(name for name in os.environ if name.startswith("TRACKLAYER_PARENT")))


async def waiting() -> str:
    await asyncio.sleep(0)
    return "awaited"


def returning_none() -> None:
    return None


def unstorable() -> object:
    """Airflow cannot store this as an XCom."""
    return object()


def after(context: Any, result: Any = None) -> None:
    raise LookupError("after the code has returned")


for kind in ("plain", "tracked"):
    decorator = task if kind == "plain" else task.tracked
    python_operator = PythonOperator if kind == "plain" else TrackedPythonOperator
    # Where there is to be a run of what takes too long, it is longer: on a busy machine a second is not enough to open one.
    limit = timedelta(seconds=1 if kind == "plain" else float(os.environ.get("TEST_TIME_LIMIT", "1")))
    with DAG(
        f"{kind}_endings",
        schedule=None,
        start_date=datetime(2025, 1, 1, tzinfo=UTC),
        tags=["test", "flights"],
        default_args={"retry_delay": timedelta(0)},
    ):
        decorator(ok)()
        decorator(failing)()
        decorator(unprintable)()
        decorator(retries=1)(retried)()
        decorator(skipping)()
        decorator(retries=3)(failing_for_good)()
        decorator(retries=1)(exiting)()
        decorator(exiting_in_order)()
        decorator(interrupted)()
        decorator(stopping_iteration)()
        decorator(execution_timeout=limit)(overdue)()
        decorator(waiting)()
        decorator(returning_none)()
        decorator(unstorable)()
        decorator(task_id="after", post_execute=after)(ok)()
        decorator(mapped).expand(number=decorator(generating)())
        decorator(task_id="several", multiple_outputs=True)(ok)(9)
        python_operator(task_id="operator", python_callable=ok, op_args=[8], op_kwargs={"text": "{{ run_id[:6] }}"})
        python_operator.partial(task_id="operators", python_callable=ok).expand(op_kwargs=[{"number": 1}, {}])
        (Deferring if kind == "plain" else TrackedDeferring)(task_id="deferring")
        (Rescheduled if kind == "plain" else TrackedRescheduled)(
            task_id="rescheduled", mode="reschedule", poke_interval=0.1
        )
        task(reporting)()
