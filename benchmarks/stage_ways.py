"""The ways to record one stage with 20 params and 10 metrics, each in a process of its own.

Run as a program (``python benchmarks/stage_ways.py WAY URI [BODIES]``) it records one stage for each line that it
reads, and answers each with one JSON line: milliseconds of wall time and of CPU, and megabytes of resident memory.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PARAMS = {f"param_{number}": number * 0.1 for number in range(20)}
METRICS = {f"metric_{number}": number * 0.1 for number in range(10)}

_IDLE = 3.0
"""Seconds after which the server may have closed a connection that nobody used; it does after five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one stage cost: milliseconds of wall time and of CPU, and the megabytes that its process holds after it."""

    wall: float
    cpu: float
    memory: float


class Way:
    """A process that records stages in one way, one whenever it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def stage(self) -> Sample:
        """Record one stage."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended; its error is above")
        return Sample(**json.loads(line))


@contextmanager
def started(way: str, uri: str, bodies: Path | None = None) -> Iterator[Way]:
    """Start the process of `way` (``raw``, ``tracklayer``, ``fluent``, ``nothing``) against the server at `uri`.

    Args:
        way: which way.
        uri: the server, or a proxy before it.
        bodies: for ``raw``: a JSON file with the path and body of each request.
    """
    command = [sys.executable, __file__, way, uri, *([str(bodies)] if bodies else [])]
    foreign = ("MLFLOW_", "TRACKLAYER_", "PYTHONDONTWRITEBYTECODE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    with process:
        try:
            yield Way(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(30)


def _tracklayer(_uri: str, _bodies: str | None) -> Callable[[int], None]:
    from tracklayer import RunContext, TaskRun, WorkflowRun, track

    workflow_run = WorkflowRun(orchestrator="bench", workflow="bench-stage", run_id=f"r{time.time_ns()}")

    def stage(number: int) -> None:
        context = RunContext(workflow_run=workflow_run, task_run=TaskRun(task=f"t{number}"), owns_workflow_run=True)
        with track("training", context=context) as run:
            run.log_params(PARAMS)
            run.log_metrics(METRICS)

    return stage


def _fluent(_uri: str, _bodies: str | None) -> Callable[[int], None]:
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_experiment("bench-stage-fluent")

    def stage(number: int) -> None:
        with mlflow.start_run(run_name=f"t{number}"):
            for key, value in PARAMS.items():
                mlflow.log_param(key, value)
            for key, value in METRICS.items():
                mlflow.log_metric(key, value)

    return stage


def _raw(uri: str, bodies: str | None) -> Callable[[int], None]:
    assert bodies is not None
    requests: Sequence[tuple[str, dict[str, Any]]] = json.loads(Path(bodies).read_text())
    address = urlsplit(uri)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    headers = {"Content-Type": "application/json"}

    def send(path: str, body: dict[str, Any]) -> Any:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content)

    last = 0.0

    def stage(_number: int) -> None:
        nonlocal last
        if time.monotonic() - last > _IDLE:
            connection.close()  # and opened again by the next request
        run_id = None
        for path, body in requests:
            answer = send(path, body if run_id is None else body | {"run_id": run_id})
            run_id = run_id or answer["run"]["info"]["run_id"]
        last = time.monotonic()

    return stage


def _nothing(_uri: str, _bodies: str | None) -> Callable[[int], None]:
    return lambda _number: None


_WAYS = {"tracklayer": _tracklayer, "fluent": _fluent, "raw": _raw, "nothing": _nothing}


def _main(way: str, uri: str, bodies: str | None = None) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what mlflow prints is no answer
    stage, process = _WAYS[way](uri, bodies), psutil.Process()
    for number, _ in enumerate(sys.stdin):
        wall, cpu = time.perf_counter(), time.process_time()
        stage(number)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        sample = {"wall": wall * 1000, "cpu": cpu * 1000, "memory": process.memory_info().rss / 1e6}
        print(json.dumps(sample), file=answers, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
