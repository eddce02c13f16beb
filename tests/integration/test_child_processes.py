"""Processes that a stage's code starts: what they log is in the stage's run, and none of them ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harness.outage import flush, journals, runs_of
from harness.proxy import refused_port
from tracklayer.journal.carrying import carried
from tracklayer.provisional import is_provisional

if TYPE_CHECKING:
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy

pytestmark = pytest.mark.slow

METHODS = ("fork", "spawn", "forkserver")

SCRIPT = """
import concurrent.futures, json, multiprocessing, os, signal, subprocess, sys
from pathlib import Path
import mlflow
import tracklayer

def both_ways(number):
    run = tracklayer.current_run()
    mlflow.log_metric(f"by_mlflow_{number}", number)
    run.log_metrics({f"by_us_{number}": number})
    mlflow.log_param(f"param_{number}", number)
    return run.run_id

def nested(number):
    with mlflow.start_run(run_name=f"trial {number}"):
        mlflow.log_metric("loss", number)

def own_stage(number):
    with tracklayer.track("fold") as run:
        run.log_metrics({"fold": number})

def ending(number):
    run = tracklayer.current_run()
    run.log_metrics({f"before_{number}": number})
    run.end("FAILED")
    mlflow.end_run()

def dying(number):
    run = tracklayer.current_run()
    run.log_metrics({f"last_{number}": number})
    mlflow.log_metric(f"last_by_mlflow_{number}", number)
    if number % 2:
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)

def grandchildren(number):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        list(pool.map(both_ways, [number * 10]))

def logging_at_the_end(number):
    both_ways(number)

method, work, *rest = sys.argv[1:]
context = multiprocessing.get_context(method)

if __name__ == "__main__":
    work = globals()[work]
    with tracklayer.track("training") as run:
        if "pool" in rest:  # ends its workers with SIGTERM
            with context.Pool(2) as pool:
                pool.map(work, range(4))
        else:
            workers = [context.Process(target=work, args=(number,)) for number in range(2)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        run.log_metrics({"in_the_stage": 1})
    print(json.dumps({"run_id": run.run_id, "codes": [worker.exitcode for worker in workers] if not rest else []}))
"""


class Program:
    """The script above, in a process of its own, tracked in an experiment of its own."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.path = folder / "program.py"
        self.path.write_text(SCRIPT)
        self.uri = uri
        self.experiment = f"children-{folder.name}-{os.getpid()}"

    def run(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, str(self.path), *arguments],
            env={**os.environ, "MLFLOW_TRACKING_URI": self.uri, "TRACKLAYER_EXPERIMENT": self.experiment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    def stage(self) -> Any:
        runs = [run for run in runs_of(self.uri, self.experiment) if run.tags.get("tracklayer.stage") == "training"]
        (stage,) = [run for run in runs if "tracklayer.key" in run.tags]
        return stage

    def below(self, run_id: str) -> list[Any]:
        runs = runs_of(self.uri, self.experiment)
        return [run for run in runs if run.tags.get("mlflow.parentRunId") == run_id]


@pytest.fixture
def program(mlflow_server: MlflowServer, tmp_path: Path) -> Program:
    return Program(tmp_path, mlflow_server.uri)


@pytest.fixture
def cut_off(recording_proxy: RecordingProxy, tmp_path: Path) -> Program:
    """Tracked where `recording_proxy` is, which can refuse connections for a while."""
    return Program(tmp_path, recording_proxy.uri)


def in_default(server: MlflowServer) -> set[str]:
    return {run.run_id for run in runs_of(server.uri, "Default")}


@pytest.mark.parametrize("how", ["process", "pool"])
@pytest.mark.parametrize("method", METHODS)
def test_what_workers_log_is_in_the_run_of_their_stage(
    program: Program, mlflow_server: MlflowServer, method: str, how: str
) -> None:
    before = in_default(mlflow_server)
    told = program.run(method, "both_ways", *([how] if how == "pool" else []))
    stage = program.stage()
    numbers = range(4 if how == "pool" else 2)
    expected = {f"{way}_{number}": number for way in ("by_mlflow", "by_us") for number in numbers}
    assert stage.metrics == {**expected, "in_the_stage": 1}
    assert stage.params == {f"param_{number}": str(number) for number in numbers}
    assert (stage.run_id, stage.status) == (told["run_id"], "FINISHED")
    assert program.below(stage.run_id) == []
    assert in_default(mlflow_server) == before
    assert journals() == []


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_a_worker_starts_is_below_the_stage(program: Program, method: str) -> None:
    program.run(method, "nested")
    stage = program.stage()
    trials = program.below(stage.run_id)
    assert sorted((run.name, run.status, run.metrics["loss"]) for run in trials) == [
        ("trial 0", "FINISHED", 0),
        ("trial 1", "FINISHED", 1),
    ]
    assert stage.metrics == {"in_the_stage": 1}


@pytest.mark.parametrize("method", METHODS)
def test_stages_of_workers_side_by_side_are_runs_of_their_own(program: Program, method: str) -> None:
    program.run(method, "own_stage")
    stage = program.stage()
    folds = program.below(stage.run_id)
    assert sorted(run.metrics["fold"] for run in folds) == [0, 1]
    assert {run.status for run in folds} == {"FINISHED"}


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_does_not_end_the_stage(program: Program, method: str) -> None:
    program.run(method, "ending")
    stage = program.stage()
    assert (stage.status, stage.metrics) == ("FINISHED", {"before_0": 0, "before_1": 1, "in_the_stage": 1})
    assert "tracklayer.outcome" not in stage.tags


@pytest.mark.parametrize("method", METHODS)
def test_the_workers_of_workers_belong_to_the_stage_too(program: Program, method: str) -> None:
    program.run(method, "grandchildren")
    assert program.stage().metrics == {
        "in_the_stage": 1,
        **{f"{way}_{number}": number for way in ("by_mlflow", "by_us") for number in (0, 10)},
    }


@pytest.mark.parametrize("method", METHODS)
def test_what_a_worker_logged_before_it_was_killed_is_delivered(program: Program, method: str) -> None:
    told = program.run(method, "dying")
    assert told["codes"] == [-9, 3]
    flush(program.uri)
    assert program.stage().metrics == {
        "in_the_stage": 1,
        **{f"{name}_{number}": number for name in ("last", "last_by_mlflow") for number in (0, 1)},
    }
    assert program.stage().status == "FINISHED"
    assert journals() == []


@pytest.mark.parametrize("work", ["both_ways", "nested", "own_stage", "dying"])
@pytest.mark.parametrize("method", METHODS)
def test_workers_while_the_server_is_away(
    cut_off: Program, recording_proxy: RecordingProxy, method: str, work: str
) -> None:
    with recording_proxy.refused():
        told = cut_off.run(method, work)
    assert is_provisional(told["run_id"])
    assert runs_of(cut_off.uri, cut_off.experiment) == []
    flush(cut_off.uri)
    stage = cut_off.stage()
    assert stage.status == "FINISHED"
    below = cut_off.below(stage.run_id)
    if work == "both_ways":
        expected = {f"{way}_{number}": number for way in ("by_mlflow", "by_us") for number in range(2)}
    elif work == "dying":
        expected = {f"{name}_{number}": number for name in ("last", "last_by_mlflow") for number in (0, 1)}
    else:
        expected = {}
        key = "loss" if work == "nested" else "fold"
        assert sorted((run.status, run.metrics[key]) for run in below) == [("FINISHED", 0), ("FINISHED", 1)]
    assert stage.metrics == {**expected, "in_the_stage": 1}
    assert len(runs_of(cut_off.uri, cut_off.experiment)) == 2 + len(below)
    assert journals() == []


def test_any_other_subprocess_is_only_linked(program: Program, tmp_path: Path) -> None:
    script = tmp_path / "other.py"
    script.write_text("import tracklayer\nwith tracklayer.track('score') as run:\n    run.log_metrics({'x': 1})\n")
    program.path.write_text(
        "import json, subprocess, sys, tracklayer\n"
        "with tracklayer.track('training') as run:\n"
        f"    subprocess.run([sys.executable, {str(script)!r}], check=True)\n"
        "print(json.dumps({'run_id': run.run_id}))\n"
    )
    told = program.run()
    (score,) = [run for run in runs_of(program.uri, program.experiment) if run.tags.get("tracklayer.stage") == "score"]
    assert f"mlflow.tracklayer.upstream.{told['run_id']}" in score.tags
    assert score.tags["mlflow.parentRunId"] != told["run_id"]
    assert program.stage().metrics == {}


FORKED_BY_A_WORKER = """
import atexit, multiprocessing, os, sys
import mlflow
import tracklayer

def task():
    with tracklayer.track("training") as run:
        run.log_metrics({"auc": 0.9})
        pid = os.fork()  # by the task's code, and inherits what is registered for the end of the task's process
        if pid == 0:
            atexit._run_exitfuncs()
            os._exit(0)
        os.waitpid(pid, 0)
        with mlflow.start_run(run_name="below"):
            mlflow.log_metric("loss", 0.1)

def supervise():
    pid = os.fork()
    if pid == 0:
        atexit._clear()
        code = 1
        try:
            task()
            code = 0
        finally:
            atexit._run_exitfuncs()
            os._exit(code)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

if __name__ == "__main__":
    worker = multiprocessing.get_context("fork").Process(target=supervise)
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
"""


def test_what_a_worker_has_forked_by_itself_ends_in_order_too(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    """As a task of Airflow's LocalExecutor does: its supervisor, a worker of multiprocessing, forks it."""
    script, journal, bucket = tmp_path / "program.py", tmp_path / "journal", tmp_path / "bucket"
    script.write_text(FORKED_BY_A_WORKER)
    experiment = f"local-executor-{os.getpid()}"
    with refused_port() as uri:
        told = {"MLFLOW_TRACKING_URI": uri, "TRACKLAYER_EXPERIMENT": experiment}
        told |= {"TRACKLAYER_JOURNAL": str(journal), "TRACKLAYER_CARRY": str(bucket)}
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert journals(journal) == []
    assert len(carried(str(bucket))) == 1
    flush(mlflow_server.uri, arguments=("--from", str(bucket), "--instead-of", uri), journal=journal)
    runs = runs_of(mlflow_server.uri, experiment)
    assert {run.status for run in runs} == {"FINISHED"}
    assert {name: value for run in runs for name, value in run.metrics.items()} == {"auc": 0.9, "loss": 0.1}
