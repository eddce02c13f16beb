"""A stage's threads log while its main thread forks, or is interrupted by a signal handler that logs: nobody hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient

from harness.outage import flush, journals, runs_of

if TYPE_CHECKING:
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from tracklayer.store import Run

pytestmark = pytest.mark.slow

FORKS = """
import faulthandler, itertools, json, os, signal, sys, threading, time

import mlflow
import tracklayer

THREADS, FORKS, LIMIT = 4, 80, 60.0

def log_all_the_time(number, run):
    for step in itertools.count():
        tracklayer.current_run().log_param(f"thread_{number}", number)
        run.log_params({f"again_{number}": number})
        run.count_nested("fold")
        if step % 100 == 0:
            mlflow.log_param(f"by_mlflow_{number}", number)
            mlflow.log_metric(f"by_mlflow_{number}", step, step=step)
            run.log_metric(f"by_us_{number}", step, step=step)
            begun[number].set()
        if over.is_set():
            return
        if step % 20 == 0:
            time.sleep(0.001)  # for the children, which want a CPU, too

def log_in_child(number):
    run = tracklayer.current_run()  # in a plain thread: it is found without the context variable
    run.log_metric("child", number, step=number)
    run.log_param(f"child_{number}", number)
    if number % 4 == 0:
        mlflow.log_metric("child_by_mlflow", number, step=number)
        mlflow.log_param(f"child_by_mlflow_{number}", number)
    done.append(number)

def fork(number):
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(LIMIT / 2)  # where it hangs, if it does
        thread = threading.Thread(target=log_in_child, args=(number,))
        thread.start()
        thread.join()
        os._exit(0 if done == [number] else 3)
    return pid

def wait_for(pid):
    before = time.monotonic()
    while time.monotonic() < before + LIMIT:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it hung"

over, done = threading.Event(), []
begun = [threading.Event() for _ in range(THREADS)]
with tracklayer.track("training") as run:
    sys.setswitchinterval(1e-5)  # many more moments in which another thread holds something
    threads = [threading.Thread(target=log_all_the_time, args=(number, run)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for event in begun:
        event.wait()  # with its first call of MLflow's a thread imports, which CPython itself does not mend in a fork
    codes = []
    while len(codes) < FORKS and not any(codes):
        codes.append(wait_for(fork(len(codes))))
    over.set()
    for thread in threads:
        thread.join()
print(json.dumps({"codes": codes}))
"""

SIGNALS = """
import faulthandler, itertools, json, signal, sys, threading, time

import mlflow
import tracklayer

CALLS = {
    "params": lambda run, name, n: run.log_params({f"{name}_params_{n}": n}),
    "param": lambda run, name, n: run.log_param(f"{name}_param_{n}", n),
    "metric": lambda run, name, n: run.log_metric(f"{name}_metric", n, step=n),
    "metrics": lambda run, name, n: run.log_metrics({f"{name}_metrics": n}, n),
    "tag": lambda run, name, n: run.set_tag(f"{name}_tag_{n}", n),
    "ml.metric": lambda run, name, n: mlflow.log_metric(f"{name}_ml.metric", n, step=n),
    "ml.param": lambda run, name, n: mlflow.log_param(f"{name}_ml.param_{n}", n),
    "ml.params": lambda run, name, n: mlflow.log_params({f"{name}_ml.params_{n}": n}),
    "ml.tag": lambda run, name, n: mlflow.set_tag(f"{name}_ml.tag_{n}", n),
}
SECONDS, AT_MOST, ENOUGH = 0.5, 60.0, 60

def log(name):
    number, turn = divmod(next(counts[name]), len(CALLS))
    kind = list(CALLS)[turn]
    CALLS[kind](tracklayer.current_run(), name, number)
    heard[name].append((kind, number))

def handler(*_):
    if len(depth) < 3:  # it may itself be interrupted by the next signal
        depth.append(None)
        log("handler")
        depth.pop()

def is_over():
    took = time.monotonic() - begun
    return took > AT_MOST or took > SECONDS and min(map(len, heard.values())) > ENOUGH

def beside():
    while not over.wait(0.001):
        log("thread")

faulthandler.dump_traceback_later(200, exit=True)
heard = {"main": [], "handler": [], "thread": []}
depth = []
counts = {name: itertools.count() for name in heard}
over = threading.Event()
with tracklayer.track("training") as run:
    for call in CALLS.values():
        call(run, "warm", 0)
    thread = threading.Thread(target=beside)
    thread.start()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    begun = time.monotonic()
    try:
        while not is_over():
            log("main")
            if time.monotonic() > begun + SECONDS:
                time.sleep(0.001)  # for the thread, which a busy machine leaves behind
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        over.set()
    thread.join()
print(json.dumps(heard))
"""


class Program:
    """A script in a process of its own, tracked in an experiment of its own."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._uri = uri
        self._experiment = f"threads-{folder.name}-{os.getpid()}"

    def run(self, script: str) -> Any:
        path = self._folder / "program.py"
        path.write_text(script)
        # Without a registry MLflow looks for pyspark with every call, by an import: one that a fork or a signal handler
        # interrupts hangs or fails in CPython 3.11 itself, tracked or not.
        told = {"MLFLOW_TRACKING_URI": self._uri, "MLFLOW_REGISTRY_URI": self._uri}
        done = subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, **told, "TRACKLAYER_EXPERIMENT": self._experiment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        flush(self._uri)
        assert journals() == []
        return json.loads(done.stdout.splitlines()[-1])

    def stage(self) -> Run:
        [stage] = [run for run in runs_of(self._uri, self._experiment) if run.tags.get("tracklayer.stage")]
        return stage

    def steps(self, key: str) -> list[int]:
        history = MlflowClient(self._uri).get_metric_history(self.stage().run_id, key)
        return sorted(point.step for point in history)


@pytest.fixture
def program(mlflow_server: MlflowServer, tmp_path: Path) -> Program:
    return Program(tmp_path, mlflow_server.uri)


def test_forks_log_whatever_other_threads_were_doing(program: Program) -> None:
    codes = program.run(FORKS)["codes"]
    assert set(codes) == {0}
    numbers = list(range(len(codes)))
    assert program.steps("child") == numbers
    assert program.steps("child_by_mlflow") == numbers[::4]
    params = program.stage().params
    assert {name for name in params if name.startswith("child_")} == {
        *(f"child_{number}" for number in numbers),
        *(f"child_by_mlflow_{number}" for number in numbers[::4]),
    }


def test_a_signal_handler_that_logs_neither_hangs_nor_loses(program: Program) -> None:
    heard = program.run(SIGNALS)
    stage = program.stage()
    for who, told in heard.items():
        assert len(told) > 50, who
        for kind in ("metric", "metrics", "ml.metric"):
            assert program.steps(f"{who}_{kind}") == sorted(n for other, n in told if other == kind)
        for kind in ("param", "params", "ml.param", "ml.params"):
            expected = {f"{who}_{kind}_{n}": str(n) for other, n in told if other == kind}
            assert {
                name: value for name, value in stage.params.items() if name.startswith(f"{who}_{kind}_")
            } == expected
        for kind in ("tag", "ml.tag"):
            expected = {f"{who}_{kind}_{n}": str(n) for other, n in told if other == kind}
            assert {name: value for name, value in stage.tags.items() if name.startswith(f"{who}_{kind}_")} == expected
