"""What user code of the fault tests does with processes and threads of its own, inside a stage."""

# ruff: noqa: T201 - user code prints

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import TYPE_CHECKING, Any

from harness.ledger import value_of
from harness.plan import Plan
from harness.workload import Book

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

THREADS = 8


def _log(book: Book, stage: Any, label: str, who: str, count: int) -> None:
    """Log as one of several: by both ways, under keys of its own and under one that all share."""
    if not book.plan.tracked:
        return
    import mlflow

    logs: dict[str, Any] = {"ml": mlflow.log_metric}
    if stage is not None:
        logs["own"] = stage.log_metric
    for way, log in logs.items():
        book.points(f"{way}.{who}", label, log, count)
    book.call("param", label, lambda: mlflow.log_param(f"ml.{who}", who), key=f"ml.{who}", value=who)
    book.call("tag", label, lambda: mlflow.set_tag(f"ml.{who}", who), key=f"ml.{who}", value=who)
    with book.nested(f"{label}.{who}", label):
        book.call("param", f"{label}.{who}", lambda: mlflow.log_param("ml.who", who), key="ml.who", value=who)


def threads(book: Book, stage: Any, label: str) -> None:
    """Eight threads log at once, each under keys of its own and all of them points of one."""
    start = threading.Barrier(THREADS)

    def work(number: int) -> None:
        start.wait()
        _log(book, stage, label, f"thread{number}", 40)
        if book.plan.tracked:
            for step in range(1000 * number, 1000 * number + 40):
                book.call(
                    "points",
                    label,
                    lambda step=step: stage.log_metric("own.shared", value_of("own.shared", step), step=step),
                    key="own.shared",
                    first=step,
                    last=step,
                )

    all_of_them = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()


def fork(book: Book, stage: Any, label: str, *, leave: Callable[[int], Any] = os._exit) -> None:
    """Two forks log to the stage, which goes on logging meanwhile; they leave without a word (``os._exit``)."""
    pids = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _log(book, stage, label, f"fork{number}", 10)
                code = 0
            finally:
                leave(code)
        pids.append(pid)
    _log(book, stage, label, "forker", 10)
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        print("a fork ended with", os.waitstatus_to_exitcode(status), flush=True)


def _forked(plan: str, label: str, who: str) -> None:
    import tracklayer

    book = Book(Plan.parse(plan))
    _log(book, tracklayer.current_run() if book.plan.tracked else None, label, who, 10)


def _by(method: str) -> Callable[[Book, Any, str], None]:
    """Processes of `multiprocessing`, started by `method`, log to the stage."""

    def work(book: Book, stage: Any, label: str) -> None:
        context: Any = multiprocessing.get_context(method)
        processes = [
            context.Process(target=_forked, args=(book.plan.text(), label, f"{method}{number}")) for number in range(2)
        ]
        for process in processes:
            process.start()
        _log(book, stage, label, "starter", 10)
        for process in processes:
            process.join()
            print("a process ended with", process.exitcode, flush=True)

    return work


def volume(book: Book, stage: Any, label: str) -> None:
    """Very many points, half of them one by one, half of them by MLflow's own client in batches of a thousand."""
    if not book.plan.tracked:
        return
    import time

    import mlflow
    from mlflow.entities import Metric

    count = book.plan.points
    chunk = 1_000
    for first in range(0, count // 2, chunk):

        def some(first: int = first) -> None:
            for step in range(first, first + chunk):
                stage.log_metric("own.volume", value_of("own.volume", step), step=step)

        book.call("points", label, some, key="own.volume", first=first, last=first + chunk - 1)
    client = mlflow.MlflowClient()
    for first in range(0, count - count // 2, chunk):
        now = time.time_ns() // 1_000_000
        metrics = [Metric("ml.volume", value_of("ml.volume", step), now, step) for step in range(first, first + chunk)]
        book.call(
            "points",
            label,
            lambda metrics=metrics: client.log_batch(stage.run_id, metrics=metrics),
            key="ml.volume",
            first=first,
            last=first + chunk - 1,
        )


OFFSPRING: Mapping[str, Callable[[Book, Any, str], None]] = {
    "threads": threads,
    "fork": fork,
    "multiprocessing-fork": _by("fork"),
    "spawn": _by("spawn"),
    "volume": volume,
}
"""By the name that a plan gives."""
