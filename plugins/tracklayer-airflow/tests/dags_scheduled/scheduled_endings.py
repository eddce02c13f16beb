"""Every way in which a task or a DAG run can end where a real scheduler, supervisors and a triggerer have their hands in it."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException  # 3.1 has them elsewhere
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import (
    DAG,
    BaseOperator,
    BaseSensorOperator,
    PokeReturnValue,
    TaskGroup,
    get_current_context,
    setup,
    task,
    teardown,
)
from fate import die, hold, kill_oneself

import tracklayer
from tracklayer_airflow import Tracked, tracked

BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)
PAUSE = timedelta(seconds=16)
"""Between two parts of one try. Airflow 3.3 fails a try whose next part runs when it hears of the last one's end, and
LocalExecutor's supervisors now and then take five seconds to see that (without tracking, too), and three times as long while
all of these tasks begin."""
FIRST = 100
"""The priority of what is to have begun before the time is up for its DAG run, though others have all of the slots."""
ARGUMENTS: dict[str, Any] = {"retry_delay": timedelta(seconds=1)}


class DefersTwice(BaseOperator):
    """Defers twice, then returns."""

    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(PAUSE), method_name="again")

    def again(self, context: Any, event: Any = None) -> None:
        self.defer(trigger=TimeDeltaTrigger(PAUSE), method_name="finish")

    def finish(self, context: Any, event: Any = None) -> str:
        return "resumed"


class TrackedDefersTwice(Tracked, DefersTwice):
    """The same, tracked."""


class ThirdPoke(BaseSensorOperator):
    """Is satisfied at its third poke."""

    def poke(self, context: Any) -> PokeReturnValue:
        return PokeReturnValue(context["task_reschedule_count"] >= 2)


class TrackedThirdPoke(Tracked, ThirdPoke):
    """The same, tracked."""


def log_try() -> None:
    """Something of each try, so that a lost one would be missed; and where its journal was."""
    run, ti = tracklayer.current_run(), get_current_context()["ti"]
    journal = Path(os.environ["TEST_HOLD"]) / f"{ti.dag_id}.{ti.task_id}.{ti.try_number}.journal"
    journal.write_text(os.environ["TRACKLAYER_JOURNAL"])
    if run is not None:
        run.log_metric("tried", ti.try_number)


with DAG("ends", schedule=None, start_date=BEGINNING, default_args=ARGUMENTS):

    @task.tracked
    def success() -> None:
        log_try()

    @task.tracked
    def exception() -> None:
        log_try()
        raise ValueError("no data")

    @task.tracked(retries=2)
    def airflow_fail() -> None:
        raise AirflowFailException("no retry will help")

    @task.tracked
    def airflow_skip() -> None:
        raise AirflowSkipException("nothing to do")

    @task.tracked
    def sys_exit() -> None:
        sys.exit(3)

    @task.tracked
    def os_exit() -> None:
        log_try()
        die(lambda: os._exit(7))

    @task.tracked(execution_timeout=timedelta(seconds=30))
    def execution_timeout() -> None:
        time.sleep(300)

    @task.tracked
    def sigterm() -> None:
        log_try()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    @task.tracked(retries=1)
    def sigkill_with_retries() -> None:
        log_try()
        if get_current_context()["ti"].try_number == 1:
            die(kill_oneself)

    @task.tracked
    def sigkill() -> None:
        log_try()
        die(kill_oneself)

    @task.tracked
    def holding() -> None:
        """The DAG run goes on while others are killed."""
        hold()

    @task.tracked(retries=1)
    def retried() -> None:
        log_try()
        if get_current_context()["ti"].try_number == 1:
            raise ConnectionError("the first try fails")

    @task.tracked
    def mapped(number: int) -> None:
        if number == 3:
            raise ValueError("three is refused")

    @task.tracked
    def nothing() -> list[int]:
        return []

    @task.tracked
    def over_nothing(number: int) -> None:
        raise AssertionError(number)

    @task.tracked
    def after_failure() -> None:
        raise AssertionError("never runs")

    @task.branch
    def branch() -> str:
        return "taken"

    @task.tracked
    def taken() -> None:
        log_try()

    @task.tracked
    def not_taken() -> None:
        raise AssertionError("never runs")

    @task.short_circuit
    def short_circuit() -> bool:
        return False

    @task.tracked
    def short_circuited() -> None:
        raise AssertionError("never runs")

    @setup
    @task.tracked
    def set_up() -> None:
        log_try()

    @task.tracked
    def between() -> None:
        raise ValueError("the work fails, and is cleaned up after")

    @teardown
    @task.tracked
    def tear_down() -> None:
        log_try()

    ok = success()
    exception() >> after_failure()
    airflow_fail(), airflow_skip(), sys_exit(), os_exit(), execution_timeout(), sigterm()
    sigkill_with_retries(), sigkill(), holding(), retried()
    mapped.expand(number=[1, 2, 3, 4, 5])
    over_nothing.expand(number=nothing())
    TrackedDefersTwice(task_id="deferring")
    TrackedThirdPoke(task_id="rescheduled", mode="reschedule", poke_interval=PAUSE.total_seconds())
    branch() >> [taken(), not_taken()]
    short_circuit() >> short_circuited()
    (set_up() >> between() >> tear_down())
    with TaskGroup("group"):

        @task.tracked
        def grouped() -> None:
            log_try()

        @task.tracked
        def next_of_group() -> None:
            log_try()

        ok >> grouped() >> next_of_group()

with DAG("held", schedule=None, start_date=BEGINNING, default_args=ARGUMENTS):

    @task.tracked
    def hold_on() -> None:
        log_try()
        hold()

    for ending in ("supervisor_killed", "orphaned", "heartbeat_lost", "marked_failed", "marked_success"):
        hold_on.override(task_id=ending)()

with DAG("evicted", schedule=None, start_date=BEGINNING):

    @task.tracked(task_id="sigterm_to_supervisor")
    def sigterm_to_supervisor() -> None:
        """As those get it whose worker is shut down, or whose pod is evicted."""
        log_try()
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(5)

    sigterm_to_supervisor()

with DAG("asked", schedule=None, start_date=BEGINNING):
    tracked(HITLOperator)(task_id="answered", subject="Shall it go on?", options=["yes", "no"])

with DAG("cleared", schedule=None, start_date=BEGINNING):

    @task.tracked(task_id="again")
    def again() -> None:
        log_try()

    again() >> EmptyOperator(task_id="end")

with DAG("timed", schedule=None, start_date=BEGINNING, dagrun_timeout=timedelta(seconds=75)):

    @task.tracked(task_id="endless", priority_weight=FIRST)
    def endless() -> None:
        log_try()
        hold()

    endless()

with DAG("deleted", schedule=None, start_date=BEGINNING):

    @task.tracked(task_id="forgotten")
    def forgotten() -> None:
        log_try()
        hold()

    forgotten()

with DAG("daily", schedule="@daily", start_date=BEGINNING, end_date=datetime(2025, 1, 4, tzinfo=UTC), catchup=False, is_paused_upon_creation=True):  # fmt: skip

    @task.tracked(task_id="day")
    def day() -> None:
        log_try()

    day()

for dag_id in ("one_of_two", "two_of_two"):
    with DAG(dag_id, schedule="@yearly", start_date=BEGINNING, catchup=False, is_paused_upon_creation=True):

        @task.tracked(task_id="same")
        def same() -> None:
            log_try()

        same()
