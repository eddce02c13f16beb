"""Two DAGs that an asset joins: the first makes it, the second is started by it."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, Param, task

FLIGHTS = Asset("scheduled flights", uri="s3://warehouse/scheduled-flights")

with DAG(
    "makes_asset", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"hold": Param("", type="string")}
):

    @task.tracked(stage="data-prep", outlets=[FLIGHTS])
    def make(*, params: Any = None) -> list[int]:
        while params["hold"] and Path(params["hold"]).exists():  # until whoever watches has seen it running
            time.sleep(0.1)
        return [1, 2]

    @task.tracked(retries=1, retry_delay=timedelta(0))
    def check(number: int) -> int:
        from airflow.sdk import get_current_context

        hold = Path(f"{get_current_context()['params']['hold']}.mapped")
        while hold.is_absolute() and hold.exists():
            time.sleep(0.1)
        if number == 2 and get_current_context()["ti"].try_number == 1:
            raise ValueError("not at once")
        return number

    check.expand(number=make())

with DAG("uses_asset", schedule=[FLIGHTS], start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task.tracked(stage="training")
    def use() -> str:
        return "used"

    @task.tracked
    def die(what: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    die(use())
