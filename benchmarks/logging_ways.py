"""The ways to log metrics that are compared, each in a process of its own that does what it is asked, line by line.

Run as a program (``python benchmarks/logging_ways.py WAY``) it reads one JSON line ``[what, number]`` for each thing to do
and answers it with one JSON line. It imports only what its way needs: one of them runs in an environment that has
neither mlflow nor tracklayer.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FOREIGN = ("MLFLOW_", "TRACKLAYER_", "WANDB_", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
"""How the variables begin that a way does not inherit."""

DELIVERED = 600
"""Seconds after which a way no longer waits for the server to have everything."""


class Way:
    """A process that logs in one way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, what: str, number: int = 0) -> Any:
        """Have it do something; its answer.

        ``log``: that many points, one call each: nanoseconds of each call. ``points``: the same, untimed.
        ``deliver``: so many points, until the server has them: seconds. ``wait``: until everything is delivered.
        ``memory``: megabytes that it holds now, and at most so far. ``run``: id of the run it logs to.
        ``tutorial``, ``nothing``: see `tutorial.py`.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, number]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended; its error is above")
        return json.loads(line)


@contextmanager
def started(
    way: str, environ: Mapping[str, str], *, python: str = sys.executable, program: str = __file__
) -> Iterator[Way]:
    """Start the process of a way with these variables, and end it: by the end of its input, then by force."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env = {**inherited, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", **environ}
    process = subprocess.Popen(
        [python, program, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    with process:
        try:
            yield Way(process)
        finally:
            try:
                if process.stdin is not None:
                    process.stdin.close()
                process.wait(60)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                process.kill()


def memory() -> dict[str, float]:
    """Megabytes of resident memory: now, and at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    told = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"now": int(told["VmRSS"]) / 1024, "most": int(told["VmHWM"]) / 1024}


class Logger:
    """What a way does: `log` logs one point, `wait` waits until the server has it all."""

    run_id: str = ""

    def __init__(self, log: Callable[[int], object], wait: Callable[[], object], end: Callable[[], object]) -> None:
        self.log = log
        self.wait = wait
        self.end = end
        self._step = 0

    def do(self, what: str, number: int) -> Any:
        """What `Way.ask` asks for."""
        clock, log = time.perf_counter_ns, self.log
        if what == "memory":
            return memory()
        if what == "run":
            return self.run_id
        began, taken = clock(), []
        if what == "log":
            for step in range(self._step, self._step + number):
                before = clock()
                log(step)
                taken.append(clock() - before)
        else:
            for step in range(self._step, self._step + number):
                log(step)
        self._step += number
        if what in {"deliver", "wait"}:
            self.wait()
        return taken if what == "log" else (clock() - began) / 1e9


def _nothing() -> None:
    """Nothing to wait for, nothing to end."""


def _stage(task: str) -> Any:
    from tracklayer import RunContext, TaskRun, WorkflowRun, track

    workflow_run = WorkflowRun(orchestrator="bench", workflow="bench-journal", run_id=f"r{time.time_ns()}")
    return track("training", context=RunContext(workflow_run=workflow_run, task_run=TaskRun(task=task)))


def _entered(manager: Any) -> tuple[Any, Callable[[], object]]:
    return manager.__enter__(), lambda: manager.__exit__(None, None, None)


def _deliver(run: Any) -> None:
    """Wait until the server has all; a flush gives up where the server is away, as a slow machine's may seem to be.

    Raises:
        TimeoutError: it does not have it within `DELIVERED` seconds.
    """
    end = time.monotonic() + DELIVERED
    while not run.flush():
        if time.monotonic() > end:
            raise TimeoutError(f"what was logged is not delivered within {DELIVERED} s")
        time.sleep(0.01)


def _tracked() -> Logger:
    """``run.log_metric`` in a tracked stage."""
    run, end = _entered(_stage("run"))
    logger = Logger(lambda step: run.log_metric("loss", step * 0.1, step), partial(_deliver, run), end)
    logger.run_id = run.run_id or ""
    return logger


def _untracked() -> Logger:
    """The loop without tracking: what it holds is what the interpreter and its lists hold."""
    return Logger(lambda step: step * 0.1, _nothing, _nothing)


def _fluent_in_stage() -> Logger:
    """``mlflow.log_metric`` in a tracked stage."""
    import mlflow

    run, end = _entered(_stage("fluent"))
    mlflow.log_metric("loss", 0.0, 0)
    return Logger(lambda step: mlflow.log_metric("loss", step * 0.1, step), partial(_deliver, run), end)


def _fluent_over_nothing() -> Logger:
    """``mlflow.log_metric`` over a store that does nothing."""
    import mlflow
    from store_of_nothing import use_store_of_nothing

    use_store_of_nothing()
    mlflow.start_run()
    mlflow.log_metric("loss", 0.0, 0)
    return Logger(lambda step: mlflow.log_metric("loss", step * 0.1, step), _nothing, mlflow.end_run)


def _fluent() -> Logger:
    """Plain ``mlflow.log_metric``, one request each."""
    import mlflow

    mlflow.set_experiment("bench-journal-plain")
    run = mlflow.start_run()
    logger = Logger(lambda step: mlflow.log_metric("loss", step * 0.1, step), _nothing, mlflow.end_run)
    logger.run_id = run.info.run_id
    return logger


def _fluent_asynchronous() -> Logger:
    """MLflow's own asynchronous logging."""
    import mlflow

    mlflow.set_experiment("bench-journal-plain")
    run = mlflow.start_run()
    logger = Logger(
        lambda step: mlflow.log_metric("loss", step * 0.1, step, synchronous=False),
        mlflow.flush_async_logging,
        mlflow.end_run,
    )
    logger.run_id = run.info.run_id
    return logger


def _append() -> Logger:
    """One append to a journal, and nothing else."""
    from tracklayer.journal.live import open_journal
    from tracklayer.journal.operations import Header, Log, Point
    from tracklayer.settings import load

    now = time.time_ns() // 1_000_000
    journal = open_journal(load(), Header(1, "http://127.0.0.1", "bench", os.getpid(), now))
    return Logger(
        lambda step: journal.append(Log("0" * 32, (Point("loss", step * 0.1, now, step),))),
        _nothing,
        lambda: journal.close(remove=True),
    )


def _wandb() -> Logger:
    """Weights & Biases, offline: nothing leaves the machine."""
    import wandb  # type: ignore[import-not-found]  # it is in an environment of its own

    run = wandb.init(project="bench", mode="offline", dir=os.environ["WANDB_DIR"])
    return Logger(lambda step: run.log({"loss": step * 0.1}, step=step), _nothing, run.finish)


_WAYS: dict[str, Callable[[], Logger]] = {
    "tracked": _tracked,
    "untracked": _untracked,
    "fluent in a stage": _fluent_in_stage,
    "fluent over nothing": _fluent_over_nothing,
    "fluent": _fluent,
    "fluent asynchronous": _fluent_asynchronous,
    "append": _append,
    "wandb": _wandb,
}


def serve(do: Callable[[str, int], Any]) -> None:
    """Read lines, do what they say, and answer them; what libraries print is no answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(do(*json.loads(line))), file=answers, flush=True)


def _main(way: str) -> None:
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    ready: list[Logger] = []

    def do(what: str, number: int) -> Any:
        if not ready:
            ready.append(_WAYS[way]())
        return ready[0].do(what, number)

    serve(do)
    if ready:
        ready[0].end()


if __name__ == "__main__":
    _main(sys.argv[1])
