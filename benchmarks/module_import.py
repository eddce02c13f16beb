"""What it costs to import a DAG, flow or pipeline file where the orchestrator itself is imported already.

Run as a program (``python benchmarks/module_import.py PLAIN TRACKED``) it imports the plain file, and with it whatever
of the orchestrator such a file needs, and then forks one child for each measurement, as Airflow's DAG processor does
for each file; it prints one JSON line.
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HEAVY = ("mlflow", "urllib3", "requests", "httpx")
"""What a file must not import beyond what its orchestrator has imported already."""

_REPETITIONS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """The cost of importing one file.

    Attributes:
        cpu: milliseconds of CPU, median.
        memory: megabytes of resident memory that it adds, median.
        heavy: which of `HEAVY` it imported.
    """

    cpu: float
    memory: float
    heavy: list[str]


def measure(plain: Path, tracked: Path, environ: Mapping[str, str]) -> tuple[Import, Import]:
    """Measure the import of a file without and with our decorators, in a process that knows the orchestrator.

    Raises:
        subprocess.CalledProcessError: a file cannot be imported; its error is on the standard error.
    """
    command = [sys.executable, __file__, str(plain), str(tracked)]
    answer = subprocess.run(command, env=dict(environ), stdout=subprocess.PIPE, text=True, check=True)
    first, second = json.loads(answer.stdout)
    return Import(**first), Import(**second)


def _main(plain: str, tracked: str) -> None:
    output = os.dup(1)
    os.dup2(2, 1)  # whatever the orchestrator prints does not end up in the JSON
    runpy.run_path(plain, run_name="bench_module")
    taken: dict[str, list[Import]] = {plain: [], tracked: []}
    for file in taken:
        _in_child(file)  # writes the byte code, warms the disk's cache
    for _ in range(_REPETITIONS):
        for file, runs in taken.items():
            runs.append(_in_child(file))
    medians = [
        Import(
            cpu=statistics.median(run.cpu for run in runs),
            memory=statistics.median(run.memory for run in runs),
            heavy=runs[0].heavy,
        )
        for runs in taken.values()
    ]
    os.write(output, json.dumps([asdict(median) for median in medians]).encode())


def _in_child(file: str) -> Import:
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            known, process = set(sys.modules), psutil.Process()
            memory, began = process.memory_info().rss, time.process_time()
            runpy.run_path(file, run_name="bench_module")
            cpu = (time.process_time() - began) * 1000
            grown = (process.memory_info().rss - memory) / 1e6
            heavy = [name for name in HEAVY if name in sys.modules and name not in known]
            os.write(writing, json.dumps({"cpu": cpu, "memory": grown, "heavy": heavy}).encode())
        except BaseException as error:
            print(f"{file}: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{file} cannot be imported")
    return Import(**json.loads(content))


if __name__ == "__main__":
    _main(*sys.argv[1:])
