"""One DAG starts another and waits for it; sensors that are rescheduled and deferred. For a scheduler."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.sensors.external_task import ExternalTaskSensor
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, PokeReturnValue, task

from tracklayer_airflow import tracked

TRIGGERED_AT = "2026-01-02T03:04:05+00:00"
PAUSE = 15
"""Seconds between two parts of one try. Airflow fails a try whose next part is due when it hears of the last one's end,
and LocalExecutor's supervisors now and then take five seconds to see that (without tracking, too), and longer on a busy
machine. So what is waited for takes as long, from when the test has seen that it is waited for: a trigger that finds it done
at once would come too early."""
OF_AWAITED: dict[str, Any] = {"external_dag_id": "awaited", "execution_date_fn": lambda _: moment()}
QUICK: dict[str, Any] = {**OF_AWAITED, "poke_interval": 1}


def moment() -> datetime:
    return datetime.fromisoformat(TRIGGERED_AT)


class Rescheduled(BaseSensorOperator):
    """Is satisfied at its third poke."""

    def poke(self, context: Any) -> PokeReturnValue:
        return PokeReturnValue(context["task_reschedule_count"] >= 2, xcom_value="poked")


class FromTrigger(BaseOperator):
    """Is deferred for good: its trigger ends it."""

    end_from_trigger = True

    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=PAUSE), end_from_trigger=True), method_name="never")


with DAG("awaited", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task.tracked(stage="data-prep")
    def prepare() -> list[int]:
        return [1]  # of several instances Airflow's sensor wants exactly one to be ready

    @task.tracked
    def part(number: int) -> int:
        deadline = time.monotonic() + 600
        while Path(os.environ["TEST_HOLD"]).exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(PAUSE)
        return number

    part.expand(number=prepare())

with DAG("slow", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task
    def nothing() -> None:
        time.sleep(PAUSE)

    nothing()

with DAG("started_plainly", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task.tracked(task_id="begin")
    def begin() -> None: ...

    begin()

with DAG("waiting", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
    start = tracked(TriggerDagRunOperator)(
        task_id="start", trigger_dag_id="awaited", logical_date=TRIGGERED_AT, conf={"rows": 7}
    )
    # It is there already.
    start >> tracked(TriggerDagRunOperator)(
        task_id="again", trigger_dag_id="awaited", logical_date=TRIGGERED_AT, skip_when_already_exists=True
    )
    after = {
        "one": tracked(ExternalTaskSensor)(
            task_id="one", external_task_id="prepare", mode="reschedule", poke_interval=PAUSE, **OF_AWAITED
        ),
        "mapped": tracked(ExternalTaskSensor)(task_id="mapped", external_task_ids=["part"], **QUICK),
        "observed": ExternalTaskSensor(task_id="observed", external_task_id="prepare", **QUICK),
        "whole": tracked(ExternalTaskSensor)(task_id="whole", deferrable=True, **QUICK),
    }

    @task.tracked
    def use() -> None: ...

    start >> list(after.values()) >> use()
    tracked(TriggerDagRunOperator)(
        task_id="start_and_wait", trigger_dag_id="slow", wait_for_completion=True, deferrable=True, poke_interval=1
    )
    # One that is not tracked, with the rule `pass_tokens`.
    TriggerDagRunOperator(task_id="plain", trigger_dag_id="started_plainly", conf={"rows": 8})
    tracked(Rescheduled)(task_id="rescheduled", mode="reschedule", poke_interval=PAUSE)
    tracked(FromTrigger)(task_id="from_trigger")
    tracked(TimeDeltaSensor)(task_id="deferred", delta=timedelta(seconds=PAUSE), deferrable=True)
