"""How tasks of these DAGs are struck: they die without a word, or wait for what the test does to them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import get_current_context

if TYPE_CHECKING:
    from collections.abc import Callable


def die(how: Callable[[], object]) -> None:
    """End this process without a word, having said when: the test looks how long it takes until somebody knows."""
    ti = get_current_context()["ti"]
    died = Path(os.environ["TEST_HOLD"]) / f"{ti.dag_id}.{ti.task_id}.{ti.try_number}.died"
    died.write_text(str(time.time()))
    how()


def kill_oneself() -> None:
    """As the kernel does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def hold(seconds: float = 2_400) -> None:
    """Wait until the test says go on, having said who and where we are; no longer than the test itself may take."""
    ti = get_current_context()["ti"]
    folder = Path(os.environ["TEST_HOLD"])
    (folder / f"{ti.dag_id}.{ti.task_id}.{ti.try_number}.pid").write_text(f"{os.getpid()} {os.getppid()}")
    end = time.monotonic() + seconds
    while not (folder / f"{ti.dag_id}.{ti.task_id}.go").exists() and time.monotonic() < end:
        time.sleep(0.1)
