"""The process that ends parents: it does what it is told, keeps at it, and is never waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from dag_run_ends import DAG, end_of

from harness.outage import flush, journals
from harness.process import wait_for
from tracklayer.context import RunContext, RunRef, TaskRun
from tracklayer.journal.recorders import close_recorders
from tracklayer.store.opening import open_store
from tracklayer.tracking import open_stage, open_workflow_run
from tracklayer_airflow import closer as closer_module
from tracklayer_airflow.closer import Closer
from tracklayer_airflow.closing import _lines, close
from tracklayer_airflow.listener import DagRunListener
from tracklayer_airflow.rules import Rules
from tracklayer_airflow.workflow import workflow_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy


@pytest.fixture
def tracked(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    return mlflow_server


@pytest.fixture
def closer() -> Iterator[Closer]:
    """A closer whose process has ended when the test has."""
    closer = Closer()
    yield closer
    process = closer._process
    closer._farewell()
    if process is not None:
        process.kill()
        process.wait(10)


def parent_of(run_id: str) -> RunRef:
    """A DAG run's parent, made as its first task makes it."""
    context = RunContext(workflow_run=workflow_run(end_of(run_id)["facts"], instance="default"))
    parent = open_workflow_run(context)
    assert parent is not None
    return parent


def status_of(server: MlflowServer, run: RunRef) -> str:
    return status_at(server.uri, run)


def status_at(uri: str, run: RunRef) -> str:
    return open_store(uri, connect_timeout=5, timeout=30).get_run(run.run_id).status


def closes_in_journals() -> list[Path]:
    """Files of journals that hold the end of the DAG run `away`."""
    folder = Path(os.environ["TRACKLAYER_JOURNAL"])
    return [path for path in folder.rglob("*.seg") if b"away" in path.read_bytes()]


def process_of(closer: Closer) -> subprocess.Popen[bytes]:
    assert closer._process is not None
    return closer._process


def test_a_parent_is_ended_in_another_process(tracked: MlflowServer, closer: Closer) -> None:
    first, second = parent_of("run 1"), parent_of("run 2")
    closer.submit(end_of("run 1"))
    closer.submit(end_of("run 2", "FAILED", "the DAG run failed: task_failure"))
    wait_for(lambda: status_of(tracked, first) == "FINISHED", 60, "end of the first parent")
    wait_for(lambda: status_of(tracked, second) == "FAILED", 60, "end of the second parent")
    assert process_of(closer).pid != os.getpid()


NESTED: dict[str, Any] = {}
for _ in range(5_000):
    NESTED = {"a": NESTED}


@pytest.mark.parametrize(
    "params",
    [
        {"year": 2013, "rows": "x" * 5_000_000},
        {"year": 2013, "rows": list(range(1_000_000))},
        {"year": 2013, **{f"name {number}": "x" * 100 for number in range(100_000)}},
        {"year": 2013, "deep": NESTED},
        {"year": 2013, "odd": {(1, 2): 3}},
    ],
    ids=["a text", "a list", "many", "nested", "keys that are no text"],
)
def test_the_end_of_a_dag_run_with_a_large_conf_is_told(
    params: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What is large is cut: it is of no use to the server, and the parent would stay open for good."""
    end = end_of("large", "FAILED", "why")
    line = closer_module._line({**end, "facts": {**end["facts"], "params": params, "description": "d" * 5_000}})
    assert len(line) <= closer_module.LARGEST
    told = json.loads(line)
    assert (told["status"], told["error"]) == ("FAILED", "why")
    assert {**told["facts"], "params": {}, "description": None} == {**end["facts"], "params": {}}
    assert told["facts"]["params"].get("year", 2013) == 2013
    assert workflow_run(told["facts"], instance="default") is not None
    assert "documentation of closing, large cannot be handed on whole" in caplog.text


def test_the_end_of_a_dag_run_with_ever_so_many_tries_is_told() -> None:
    one = {"task_id": "t" * 200, "map_index": 1, "try_number": 1, "state": "success", "ended_at": "2026-11-21"}
    told = json.loads(closer_module._line({**end_of("many"), "deferred": [one] * 100_000}))
    assert told["deferred"] == [one] * closer_module.LONGEST


def test_what_is_not_too_large_is_told_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    end = end_of("plain")
    end["facts"]["params"] = {"rows": "x" * 100_000, "nested": {"a": [1]}}
    assert json.loads(closer_module._line(end)) == end
    assert not caplog.messages


def test_a_parent_ends_when_its_dag_run_did(tracked: MlflowServer) -> None:
    """Not when somebody came to do it."""
    parent = parent_of("ended at")
    ended_at = datetime(2026, 11, 21, 11, tzinfo=UTC)
    listener = DagRunListener()
    dag_run = SimpleNamespace(dag_id=DAG, run_id="ended at", end_date=ended_at, triggered_by="test", dag=None)
    listener.on_dag_run_success(dag_run, "")
    run = open_store(tracked.uri, connect_timeout=5, timeout=30).get_run(parent.run_id)
    assert (run.status, run.end_time) == ("FINISHED", int(ended_at.timestamp() * 1_000))


def test_a_task_in_an_experiment_of_its_own_ends_with_its_dag_run(tracked: MlflowServer) -> None:
    """As the operator's argument `experiment` places it, in a DAG none of whose tasks is observed."""
    parent = parent_of("placed")
    dag_run = workflow_run(end_of("placed")["facts"], instance="default")
    pod, waits = (
        open_stage(
            context=RunContext(workflow_run=dag_run, task_run=TaskRun(task=task)), experiment="closing, elsewhere"
        )
        for task in ("pod", "waits")
    )
    for stage in (pod, waits):
        stage.end("RUNNING")  # it is left: with its journal, or to its trigger
    by_trigger = {"task_id": "waits", "map_index": -1, "try_number": 1, "state": "success"}
    end = {**end_of("placed"), "tracked": True, "observed": False}
    close({**end, "deferred": [{**by_trigger, "ended_at": datetime.now(UTC).isoformat()}]})
    store = open_store(tracked.uri, connect_timeout=5, timeout=30)
    assert [store.get_run(run.run_id or "").status for run in (pod, waits)] == ["KILLED", "FINISHED"]
    assert status_of(tracked, parent) == "FINISHED"


def test_the_parent_of_a_dag_run_whose_dag_is_not_told_is_found(
    tracked: MlflowServer, closer: Closer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the API server of Airflow 3.1 and 3.2 tells that somebody has marked it: nobody knows the DAG's params then."""
    monkeypatch.setenv("TRACKLAYER_EXPERIMENT", "{workflow}-{params.year}")
    parent = parent_of("marked")
    listener = DagRunListener(Rules())
    listener._closer = closer
    dag_run = SimpleNamespace(
        dag_id=DAG, run_id="marked", end_date=datetime.now(UTC), triggered_by="ui", dag=None, conf={}
    )
    listener.on_dag_run_failed(dag_run, "")
    wait_for(lambda: status_of(tracked, parent) == "FAILED", 60, "end of the parent")


def test_nothing_waits_for_the_parent_of_a_dag_run_of_which_nobody_knows_anything(tracked: MlflowServer) -> None:
    end = end_of("somebody else's")
    end["facts"]["ended_at"] = datetime.now(UTC).isoformat()
    close({**end, "unknown": True, "observed": True})
    close_recorders()
    assert journals() == [], "the end is kept, for another look"


def test_at_the_end_everything_is_done_and_the_process_is_gone(tracked: MlflowServer, closer: Closer) -> None:
    parents = [parent_of(f"last {number}") for number in range(5)]
    for number in range(5):
        closer.submit(end_of(f"last {number}"))
    process = process_of(closer)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    assert {status_of(tracked, parent) for parent in parents} == {"FINISHED"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_loses_nothing(tracked: MlflowServer, closer: Closer, number: signal.Signals) -> None:
    closer.submit(end_of("no such run"))
    warm = parent_of(f"warm {number.name}")
    closer.submit(end_of(f"warm {number.name}"))
    wait_for(lambda: status_of(tracked, warm) == "FINISHED", 60, "process that is up")
    parents = [parent_of(f"signal {number.name} {one}") for one in range(8)]
    for one in range(8):
        closer.submit(end_of(f"signal {number.name} {one}"))
    process_of(closer).send_signal(number)
    wait_for(lambda: {status_of(tracked, parent) for parent in parents} == {"FINISHED"}, 60, "end of the parents")


@pytest.mark.parametrize("why", ["signal", "orphaned"])
def test_what_was_written_before_it_stops_is_still_read(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    read, write = os.pipe()
    stopping: list[int] = []
    with os.fdopen(read), os.fdopen(write, "wb", buffering=0) as pipe:
        lines = _lines(read, stopping)
        pipe.write(b"first\n")
        assert next(lines) == b"first"
        pipe.write(b"second\n")
        if why == "signal":
            stopping.append(signal.SIGTERM)
        else:
            monkeypatch.setattr(os, "getppid", lambda: 1)
        assert list(lines) == [b"second"]


def test_a_line_is_written_whole_to_the_process_that_follows(closer: Closer, tmp_path: Path) -> None:
    """One that dies in the middle of a line has not done what it says, and half of one says nothing."""
    closer._process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, bufsize=0)
    closer._pid = os.getpid()
    stdin = closer._process.stdin
    assert stdin is not None
    os.set_blocking(stdin.fileno(), False)
    closer._process.send_signal(signal.SIGSTOP)
    long = end_of("x" * 200_000)
    closer.submit(long)  # longer than the pipe takes
    assert 0 < closer._written < len(closer._backlog)
    process_of(closer).kill()
    process_of(closer).wait(10)
    stdin.close()
    closer._drop()
    with (tmp_path / "read").open("wb") as read:
        closer._process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=read, bufsize=0)
    closer.begin()  # which also writes what waits
    following = process_of(closer)
    assert following.stdin is not None
    following.stdin.close()
    assert following.wait(10) == 0
    assert json.loads((tmp_path / "read").read_bytes()) == long


def test_what_lies_in_the_working_folder_is_not_imported(
    tracked: MlflowServer, closer: Closer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('a stray module')\n")
    monkeypatch.chdir(tmp_path)
    parent = parent_of("stray")
    closer.submit(end_of("stray"))
    wait_for(lambda: status_of(tracked, parent) == "FINISHED", 60, "end of the parent")


def test_what_a_process_that_was_killed_had_been_told_the_next_one_does(tracked: MlflowServer, closer: Closer) -> None:
    """It had read it, or it lay in the pipe: nobody but the scheduler knows of it."""
    parents = [parent_of(f"killed {number}") for number in range(2)]
    closer.submit(end_of("killed 0"))
    process_of(closer).kill()
    process_of(closer).wait(10)
    closer.submit(end_of("killed 1", "FAILED"))
    wait_for(
        lambda: [status_of(tracked, parent) for parent in parents] == ["FINISHED", "FAILED"], 60, "end of the parents"
    )


def test_nobody_waits_for_a_process_that_does_not_read(
    tracked: MlflowServer, closer: Closer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closer.submit(end_of("stopped"))
    process = process_of(closer)
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(closer_module, "BACKLOG", 200_000)
    took = []
    for number in range(2_000):  # some 700 kB, the pipe takes 64
        started = time.monotonic()
        closer.submit(end_of(f"stopped {number}"))
        took.append(time.monotonic() - started)
    took.sort()
    assert took[-10] < 1, "it was waited for"
    assert took[-1] < 30, "it was waited for once"  # the machine itself may stand still for seconds, now and then
    assert len(closer._backlog) <= 200_000
    assert "one was left out" in caplog.text
    process.kill()


def test_a_server_that_is_away_is_asked_again(
    recording_proxy: RecordingProxy, closer: Closer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    parent = parent_of("away")
    warm = parent_of("warm")
    closer.submit(end_of("warm"))
    wait_for(lambda: status_at(recording_proxy.target, warm) == "FINISHED", 60, "process that is up")
    with recording_proxy.refused():
        closer.submit(end_of("away"))
        wait_for(lambda: bool(closes_in_journals()), 30, "end of the DAG run in the journal")
        assert status_at(recording_proxy.target, parent) == "RUNNING"
    wait_for(lambda: status_at(recording_proxy.target, parent) == "FINISHED", 60, "end of the parent")


def test_what_the_process_could_not_do_the_next_one_does(
    recording_proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    parent = parent_of("before a restart")
    close_recorders()  # of this process
    with recording_proxy.refused():
        done = subprocess.run(
            [sys.executable, "-m", "tracklayer_airflow.closing"], input=closer_line("before a restart"), timeout=60
        )
        assert done.returncode == 0
    assert status_at(recording_proxy.target, parent) == "RUNNING"
    flush(recording_proxy.uri)
    assert status_at(recording_proxy.target, parent) == "FINISHED"
    assert journals() == []


def test_what_cannot_be_read_is_passed_over(tracked: MlflowServer) -> None:
    parent = parent_of("readable")
    done = subprocess.run(
        [sys.executable, "-m", "tracklayer_airflow.closing"],
        input=b'sword": "hunter2"}, "run_id": "r1"}\n[1]\n' + closer_line("readable"),
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 0
    assert b"could not be read" in done.stderr
    assert b"hunter2" not in done.stderr, "what is left of a line is not masked"
    assert status_of(tracked, parent) == "FINISHED"


def test_a_dag_run_of_which_nothing_was_tracked_leaves_nothing(tracked: MlflowServer) -> None:
    close(end_of("nothing tracked"))
    store = open_store(tracked.uri, connect_timeout=5, timeout=30)
    experiment = store.get_experiment_by_name(DAG)
    runs = store.search_runs([experiment.experiment_id]) if experiment else []
    assert "nothing tracked" not in {run.tags["tracklayer.workflow_run"] for run in runs}


def closer_line(run_id: str) -> bytes:
    return json.dumps(end_of(run_id)).encode() + b"\n"


def test_the_server_of_a_connection_is_spoken_to(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as within:
        within.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
        parent = parent_of("connected")
    done = subprocess.run(
        [sys.executable, "-m", "tracklayer_airflow.closing", "mlflow_team"],
        input=closer_line("connected"),
        env={**os.environ, "AIRFLOW_CONN_MLFLOW_TEAM": f'{{"conn_type": "mlflow", "host": "{mlflow_server.uri}"}}'},
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert status_of(mlflow_server, parent) == "FINISHED"


def test_a_connection_that_is_in_the_database_only_is_told(tracked: MlflowServer) -> None:
    parent = parent_of("by variable")
    done = subprocess.run(
        [sys.executable, "-m", "tracklayer_airflow.closing", "mlflow_team"],
        input=closer_line("by variable"),
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 0
    assert b"not the connection 'mlflow_team': it is not to be had without the metadata database" in done.stderr
    assert status_of(tracked, parent) == "FINISHED"


KILLED = """
import os, signal, sys
import tracklayer

with tracklayer.track("train") as run:
    run.log_metric("before", 1.0)
    print(run.run_id, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_killed_on_this_machine_is_ended_within_the_minute(tracked: MlflowServer, closer: Closer) -> None:
    """Though nobody has a word for the process that would do it: no DAG run ends, no other process tracks."""
    closer.begin()
    task = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert task.stdin is not None
    assert task.stdout is not None
    run_id = task.stdout.readline().strip()
    store = open_store(tracked.uri, connect_timeout=5, timeout=30)
    time.sleep(8)  # it has looked around once, and found nothing
    assert store.get_run(run_id).status == "RUNNING"
    task.stdin.write("go\n")
    task.stdin.flush()
    assert task.wait(30) == -signal.SIGKILL
    wait_for(lambda: store.get_run(run_id).status == "KILLED", 60, "end of the run of a process that was killed")
    assert store.get_run(run_id).metrics == {"before": 1.0}
    task.stdin.close()
    task.stdout.close()


LOST = """
import os, signal, sys
from tracklayer import RunContext, TaskRun, WorkflowRun, track

run = WorkflowRun(orchestrator="airflow", workflow=sys.argv[1], run_id="r1")
with track(context=RunContext(workflow_run=run, task_run=TaskRun(task="train", index="2", try_number=3))) as stage:
    print(stage.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_try_that_airflow_has_lost_is_ended_within_the_minute(
    tracked: MlflowServer, closer: Closer, tmp_path: Path
) -> None:
    """Its journal is on another machine, which may never come back."""
    environ = {**os.environ, "TRACKLAYER_JOURNAL": str(tmp_path / "elsewhere")}
    dag_id = f"lost-{uuid.uuid4().hex[:8]}"
    done = subprocess.run(
        [sys.executable, "-c", LOST, dag_id], stdout=subprocess.PIPE, text=True, env=environ, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    run_id = done.stdout.strip()
    store = open_store(tracked.uri, connect_timeout=5, timeout=30)
    assert store.get_run(run_id).status == "RUNNING"
    closer.submit({"dag_id": dag_id, "run_id": "r1", "task_id": "train", "map_index": 2, "try_number": 3})
    wait_for(lambda: store.get_run(run_id).status == "KILLED", 60, "end of the run of a try that was lost")
    assert store.get_run(run_id).tags["tracklayer.outcome"] == "left open"
