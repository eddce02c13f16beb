"""Processes for user code that need not import anything: forked from one that has imported tracklayer and mlflow.

MLflow takes seconds to import, and the fault tests start hundreds of processes. A fork of a process that has imported
it, and used nothing of it, is what a new process is after its imports; it has its own environment, output and end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.plan import Plan

TESTS = Path(__file__).resolve().parents[1]
OURS = ("MLFLOW_", "TRACKLAYER_")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code; negative: the signal.
        output: what it printed.
        errors: what it wrote to its standard error.
        seconds: how long it ran.
    """

    code: int
    output: str
    errors: str
    seconds: float

    @property
    def exception(self) -> str:
        """What an exception that nobody caught said last; empty if there was none."""
        return self.errors.strip().splitlines()[-1] if self.code == 1 and self.errors.strip() else ""

    def is_as(self, other: Ended) -> None:
        """Raises AssertionError, with what it wrote, if it did not end as another one did."""
        assert self.code == other.code, self.errors[-3000:]
        assert self.output == other.output
        assert self.exception == other.exception, self.errors[-3000:]


class Child:
    """A process that runs user code, or a command of tracklayer's."""

    def __init__(self, pid: int, folder: Path, name: str, program: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.started = time.monotonic()
        self._program = program
        self._code = folder / f"{name}.code"
        self._output = folder / f"{name}.out"
        self._errors = folder / f"{name}.err"

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""
        if self._program is not None:
            code = self._program.poll()
            if code is None:
                return None
        elif self._code.exists():
            code = int(self._code.read_text())
        else:
            return None
        return Ended(code, _text(self._output), _text(self._errors), time.monotonic() - self.started)

    def wait(self, seconds: float = 120.0) -> Ended:
        """Wait for its end.

        Raises:
            TimeoutError: it did not come in time; with what the process has written.
        """
        deadline = time.monotonic() + seconds
        while True:
            ended = self.ended()
            if ended is not None:
                return ended
            if time.monotonic() > deadline:
                told = _text(self._errors)[-3000:]
                raise TimeoutError(f"process {self.pid} still runs after {seconds:g} s:\n{told}")
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it without warning (SIGKILL)."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _text(path: Path) -> str:
    """What is in a file; a process that was killed at once has written none."""
    return path.read_text(errors="replace") if path.exists() else ""


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process under test: nobody's settings but `more`, and no plugin of an orchestrator."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    ours = {
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # of the nested runs, which the untracked code does not start
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))),
        "TRACKLAYER_DISABLED_PLUGINS": "airflow,git,kubeflow,prefect",
    }
    return {**clean, **ours, **more}


def fresh(plan: Plan, folder: Path, environ: Mapping[str, str]) -> Child:
    """User code in a process that imports everything itself."""
    name = f"{plan.label}-fresh"
    with (folder / f"{name}.out").open("wb") as output, (folder / f"{name}.err").open("wb") as errors:
        program = subprocess.Popen(
            [sys.executable, "-m", "harness.workload", plan.text()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment(environ),
            cwd=folder,
        )
    return Child(program.pid, folder, name, program)


class Warm:
    """The process that has imported everything, and makes others from itself until it is closed."""

    def __init__(self, *, command: tuple[str, ...] = ()) -> None:
        """Start it.

        Args:
            command: what it is started with (``ip netns exec …``): its children live there, too.
        """
        self._program = subprocess.Popen(
            [*command, sys.executable, "-m", "harness.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment({}),
            text=True,
        )
        self._count = 0
        assert self._program.stdout is not None
        if not self._program.stdout.readline():
            raise RuntimeError("the warm process ended while it was importing")

    def run(self, plan: Plan, folder: Path, environ: Mapping[str, str], *, hold: str = "") -> Child:
        """Run a plan in a process of its own.

        Args:
            plan: the plan.
            folder: for its output; it is also the working directory.
            environ: variables for it alone.
            hold: Python code to run first, in the same process (to set a limit, to turn the clock).
        """
        return self._start({"main": plan.text(), "before": hold}, folder, environ)

    def command(self, arguments: list[str], folder: Path, environ: Mapping[str, str]) -> Child:
        """Run ``tracklayer ARGUMENTS`` in a process of its own."""
        return self._start({"command": arguments, "before": ""}, folder, environ)

    def close(self) -> None:
        """End it, and every process that it made and that still runs."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(30)
        self._program.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _start(self, job: dict[str, Any], folder: Path, environ: Mapping[str, str]) -> Child:
        self._count += 1
        name = f"process{self._count}"
        job |= {"folder": str(folder), "name": name, "environ": environment(environ)}
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(job) + "\n")
        self._program.stdin.flush()
        return Child(int(self._program.stdout.readline()), folder, name)


def _serve() -> dict[str, Any] | None:
    """Fork for each job that comes in; returns in the forks, with the job, and in the end, with None."""
    running: dict[int, dict[str, Any]] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.01)
        if ready:
            chunk = os.read(0, 1 << 20)
            if not chunk:
                break
            buffer += chunk
        while b"\n" in buffer:
            text, _, buffer = buffer.partition(b"\n")
            job: dict[str, Any] = json.loads(text)
            pid = os.fork()
            if pid == 0:
                return job
            running[pid] = job
            os.write(1, f"{pid}\n".encode())
        _reap(running)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while running:
        _reap(running)
        time.sleep(0.01)
    return None


def _reap(running: dict[int, dict[str, Any]]) -> None:
    for pid in list(running):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            job = running.pop(pid)
            code = Path(job["folder"], f"{job['name']}.code")
            code.with_suffix(".tmp").write_text(str(os.waitstatus_to_exitcode(status)))
            code.with_suffix(".tmp").rename(code)


def _become(job: dict[str, Any]) -> None:
    """Turn this fork into the process of the job: environment, folder, output."""
    os.environ.clear()
    os.environ.update(job["environ"])
    os.chdir(job["folder"])
    tempfile.tempdir = None  # it was found before, for another environment
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, ending in ((1, "out"), (2, "err")):
        path = Path(job["folder"], f"{job['name']}.{ending}")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)


def _main() -> None:
    import mlflow
    import mlflow.data.http_dataset_source
    import mlflow.data.meta_dataset
    import mlflow.tracking.fluent  # noqa: F401 - imported so that the children need not

    import harness.offspring
    import harness.workload  # noqa: F401 - the same
    import tracklayer.cli.app
    import tracklayer.tracking  # noqa: F401 - the same

    os.write(1, b"ready\n")
    job = _serve()
    if job is None:
        return
    _become(job)
    if job["before"]:
        exec(job["before"], {"__name__": "before"})
    if "command" in job:
        from tracklayer.cli import main

        sys.argv = ["tracklayer", *job["command"]]
        main()
        return
    from harness.workload import main as work

    work(job["main"])


if __name__ == "__main__":
    _main()
