"""Twice the same task in each way of tracking, and untracked; each writes down for how long its process has waited."""

from __future__ import annotations

import atexit
import time
from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

import tracklayer


def waited() -> float:
    """Seconds, from no moment in particular, in which this thread neither had a CPU nor stood in the queue for one.

    So what others do on this machine does not count, but by how long they take to answer.
    """
    try:
        ran, queued = Path("/proc/self/schedstat").read_text().split()[:2]
    except OSError:  # a kernel that does not say
        return time.monotonic() - time.thread_time()
    return time.monotonic() - (int(ran) + int(queued)) / 1e9


BEGAN = waited()
TOLD: dict[Path, float] = {}


@atexit.register  # as early as can be, so that it comes after all that tracking does at the end of the process
def leave_word() -> None:
    for path, own in TOLD.items():
        path.with_suffix(".new").write_text(str(waited() - BEGAN - own))
        path.with_suffix(".new").rename(path)


def worked(since: float) -> None:
    """Have word left at the end of this process, without the seconds for which the task's own code has waited."""
    context = get_current_context()
    ti = context["ti"]
    TOLD[Path(context["params"]["waited"]) / f"{ti.task_id}.{ti.map_index}"] = waited() - since


with DAG("black_holed", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"waited": ""}):

    @task.tracked
    def managed(number: int) -> int:
        worked(waited())
        run = tracklayer.current_run()
        assert run is not None
        run.log_metric("number", number)
        return number

    @task
    def observed(number: int) -> int:
        since = waited()
        import mlflow

        worked(since)
        with mlflow.start_run():
            mlflow.log_metric("number", number)
        return number

    @task
    def own_run(number: int) -> int:
        worked(waited())
        return number

    @task
    def untracked(number: int) -> int:
        worked(waited())
        return number

    for each in (managed, observed, own_run, untracked):
        each.expand(number=[0, 1])

with DAG("black_holed_failing", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"waited": ""}):

    @task
    def failing(number: int) -> None:
        worked(waited())
        raise ValueError(number)

    failing.expand(number=[0, 1])
