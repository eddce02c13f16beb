"""Tasks that end in every way of which Airflow's API has a word; one is killed, and one waits to be let go."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.exceptions import AirflowSkipException
from airflow.sdk import DAG, get_current_context, task


@task.tracked(stage="data-prep")
def prepare() -> list[int]:
    return [0, 1]


@task.tracked(stage="training", retries=1, retry_delay=timedelta(0))
def train(number: int) -> int:
    if number == 1 and get_current_context()["ti"].try_number == 1:
        raise ValueError("the first try fails")
    return number


@task.tracked
def skip() -> None:
    raise AirflowSkipException("nothing to do")


@task.tracked
def die() -> None:
    import tracklayer

    run = tracklayer.current_run()
    if run is not None:
        run.flush()
    os.kill(os.getpid(), signal.SIGKILL)


@task.tracked
def never() -> None:
    """Is downstream of what has died."""


@task.tracked
def wait() -> None:
    hold = Path(get_current_context()["params"]["hold"])
    deadline = time.monotonic() + 900  # no longer than the tests may take
    while hold.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


with DAG("truth", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
    train.expand(number=prepare())
    skip()
    die() >> never()

with DAG("waits", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"hold": "/nonexistent"}):
    wait()
