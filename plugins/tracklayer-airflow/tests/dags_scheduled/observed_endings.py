"""The ways to end of ``scheduled_endings.py`` for tasks that are observed: plain MLflow, and nothing of tracklayer."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException  # 3.1 has them elsewhere
from airflow.sdk import DAG, BaseSensorOperator, PokeReturnValue, get_current_context, setup, task, teardown
from fate import die, hold, kill_oneself

if TYPE_CHECKING:
    from mlflow import ActiveRun

BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)
POKE_INTERVAL = 16.0
"""See ``PAUSE`` in ``scheduled_endings.py``."""
FIRST = 100
"""See there, too."""
ARGUMENTS: dict[str, Any] = {"retry_delay": timedelta(seconds=1)}


def start_run() -> ActiveRun:
    """As such code does: its own experiment, its own name."""
    import mlflow

    ti = get_current_context()["ti"]
    mlflow.set_experiment("endings, chosen by the code")
    run = mlflow.start_run(run_name=f"{ti.task_id} by itself")
    mlflow.log_metric("tried", ti.try_number)
    return run


class ThirdPoke(BaseSensorOperator):
    """Is satisfied at its third poke, each of which is a process that calls MLflow."""

    def poke(self, context: Any) -> PokeReturnValue:
        import mlflow

        with start_run():
            mlflow.log_metric("pokes", context["task_reschedule_count"] + 1)
        return PokeReturnValue(context["task_reschedule_count"] >= 2)


with DAG("observed_ends", schedule=None, start_date=BEGINNING, default_args=ARGUMENTS):

    @task
    def success() -> None:
        with start_run():
            pass

    @task
    def exception() -> None:
        with start_run():
            raise ValueError("no data")

    @task(retries=2)
    def airflow_fail() -> None:
        with start_run():
            raise AirflowFailException("no retry will help")

    @task
    def airflow_skip() -> None:
        with start_run():
            raise AirflowSkipException("nothing to do")

    @task
    def sys_exit() -> None:
        with start_run():
            sys.exit(3)

    @task
    def os_exit() -> None:
        with start_run():
            die(lambda: os._exit(7))

    @task
    def os_exit_afterwards() -> None:
        """Its own run has gone well by then."""
        with start_run():
            pass
        die(lambda: os._exit(7))

    @task(execution_timeout=timedelta(seconds=60))
    def execution_timeout() -> None:
        with start_run():
            time.sleep(300)

    @task
    def sigterm() -> None:
        with start_run():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    @task
    def sigterm_to_supervisor() -> None:
        with start_run():
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(5)

    @task(retries=1)
    def sigkill_with_retries() -> None:
        with start_run():
            if get_current_context()["ti"].try_number == 1:
                die(kill_oneself)

    @task
    def sigkill() -> None:
        with start_run():
            die(kill_oneself)

    @task
    def holding() -> None:
        """The DAG run goes on while others are killed. It has no run: it does not call MLflow."""
        hold()

    @task(retries=1)
    def retried() -> None:
        with start_run():
            if get_current_context()["ti"].try_number == 1:
                raise ConnectionError("the first try fails")

    @setup
    @task
    def set_up() -> None:
        start_run()  # and nobody ends it but the task's end

    @task
    def between() -> None:
        with start_run():
            raise ValueError("the work fails, and is cleaned up after")

    @teardown
    @task
    def tear_down() -> None:
        with start_run():
            pass

    success(), exception(), airflow_fail(), airflow_skip(), sys_exit(), os_exit(), os_exit_afterwards()
    execution_timeout(), sigterm(), sigterm_to_supervisor(), sigkill_with_retries(), sigkill(), holding(), retried()
    ThirdPoke(task_id="rescheduled", mode="reschedule", poke_interval=POKE_INTERVAL)
    (set_up() >> between() >> tear_down())

with DAG("observed_held", schedule=None, start_date=BEGINNING, default_args=ARGUMENTS):

    @task
    def hold_on() -> None:
        with start_run():
            hold()

    for ending in ("supervisor_killed", "orphaned", "heartbeat_lost", "marked_failed", "marked_success"):
        hold_on.override(task_id=ending)()

with DAG("observed_cleared", schedule=None, start_date=BEGINNING):

    @task
    def again() -> None:
        with start_run():
            pass

    again()

with DAG("observed_timed", schedule=None, start_date=BEGINNING, dagrun_timeout=timedelta(seconds=75)):

    @task(priority_weight=FIRST)
    def endless() -> None:
        with start_run():
            hold()

    endless()

with DAG("observed_deleted", schedule=None, start_date=BEGINNING):

    @task
    def forgotten() -> None:
        with start_run():
            hold()

    forgotten()


def report(context: Any) -> None:
    """Somebody is told, which takes longer than the end of a DAG run waits for its tasks' own ends."""
    time.sleep(16)


def report_for_long(context: Any) -> None:
    """Longer than Airflow waits (`task_success_overtime`): it kills the process, which is never told the end then."""
    time.sleep(120)


with DAG("observed_slow", schedule=None, start_date=BEGINNING):

    @task(on_success_callback=report)
    def told_slowly() -> None:
        with start_run():
            pass

    told_slowly()

    @task(on_success_callback=report_for_long)
    def told_too_slowly() -> None:
        with start_run():
            pass

    told_too_slowly()

    @task(on_failure_callback=report_for_long)
    def failure_told_too_slowly() -> None:
        with start_run():
            raise ValueError("it cannot work")

    failure_told_too_slowly()
