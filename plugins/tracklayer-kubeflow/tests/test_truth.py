"""What KFP's API and the processes of local runs say of pipeline runs, and what reconciling makes of it.

The API is one of the tests' own: it answers KFP's real client as KFP's API server does, of which none runs here.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import psutil
import pytest

from harness.process import Program, free_port, wait_for
from tracklayer.cli import main
from tracklayer.context import State, TaskRun, WorkflowRun
from tracklayer.machine import PROCESS_TAG, process_of, this_process
from tracklayer_kubeflow import truth
from tracklayer_kubeflow.plugin import tracklayer_task_state, tracklayer_workflow_state
from tracklayer_kubeflow.settings import KubeflowSettings
from tracklayer_kubeflow.truth import KubeflowUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kubeflow_story import Story

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning:kfp")

ENDED = "2026-11-21T10:30:00Z"


class Kfp:
    """An HTTP server that answers as KFP's API.

    Attributes:
        runs: pipeline runs by id, as the API tells them.
        asked: the paths and authorizations of all requests.
        broken: True to answer as a proxy does that finds nobody behind it.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.broken = False
        kfp = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kfp.asked.append((self.path, self.headers.get("Authorization")))
                run = kfp.runs.get(self.path.rpartition("/")[2])
                if kfp.broken:
                    self.answer(404, b"<html>no such page</html>", "text/html")
                elif self.path.endswith("healthz"):
                    self.answer(200, b'{"multi_user": false}')
                elif run is not None:
                    self.answer(200, json.dumps(run).encode())
                else:
                    told = {"error": "Failed to get a run", "code": 5, "message": "not found", "details": []}
                    self.answer(404, json.dumps(told).encode())

            def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def run(self, state: str, finished_at: str = "1970-01-01T00:00:00Z", *tasks: dict[str, Any]) -> str:
        """A pipeline run in this state; its id."""
        run_id = str(uuid4())
        details = {"task_details": list(tasks)} if tasks else None
        self.runs[run_id] = {"run_id": run_id, "state": state, "finished_at": finished_at, "run_details": details}
        return run_id

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kfp]:
    monkeypatch.setenv("HOME", str(tmp_path))  # where KFP's client keeps its context
    server = Kfp()
    monkeypatch.setenv("KFP_ENDPOINT", server.uri)
    truth._api.cache_clear()
    yield server
    truth._api.cache_clear()
    server.close()


def pipeline_run(run_id: str, **tags: str) -> WorkflowRun:
    return WorkflowRun(orchestrator="kubeflow", workflow="flights", run_id=run_id, tags=tags)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("PENDING", "RUNNING"),
        ("RUNNING", "RUNNING"),
        ("PAUSED", "RUNNING"),
        ("CANCELING", "RUNNING"),
        ("SUCCEEDED", "FINISHED"),
        ("FAILED", "FAILED"),
        ("CANCELED", "KILLED"),
    ],
)
def test_pipeline_runs_on_a_cluster(kfp: Kfp, state: str, status: str) -> None:
    ended = status != "RUNNING"
    told = tracklayer_workflow_state(pipeline_run(kfp.run(state, ENDED if ended else "1970-01-01T00:00:00Z")))
    ended_at = datetime(2026, 11, 21, 10, 30, tzinfo=UTC) if ended else None
    assert told == State(status=status, ended_at=ended_at, said=state)  # type: ignore[arg-type]  # one of them


def test_a_pipeline_run_that_was_deleted(kfp: Kfp) -> None:
    assert tracklayer_workflow_state(pipeline_run(str(uuid4()))) == State(status="GONE")
    kfp.broken = True
    with pytest.raises(KubeflowUnavailable, match="Not Found"):
        truth.of_pipeline_run(pipeline_run(str(uuid4())))
    with pytest.raises(KubeflowUnavailable, match="a moment ago"):
        truth.of_pipeline_run(pipeline_run(str(uuid4())))


def test_tasks_on_a_cluster(kfp: Kfp) -> None:
    tasks = (
        {"display_name": "train", "state": "FAILED", "end_time": ENDED},
        {"display_name": "fold", "state": "SUCCEEDED", "end_time": ENDED},
        {"display_name": "fold", "state": "RUNNING"},
    )
    run = pipeline_run(kfp.run("RUNNING", "1970-01-01T00:00:00Z", *tasks))
    failed = tracklayer_task_state(run, TaskRun(task="outer.train"))
    assert failed is not None
    assert (failed.status, failed.ended_at) == ("FAILED", datetime(2026, 11, 21, 10, 30, tzinfo=UTC))
    assert tracklayer_task_state(run, TaskRun(task="fold")) is None, "it cannot tell which"
    assert tracklayer_task_state(run, TaskRun(task="train", index="0")) is None
    assert tracklayer_task_state(run, TaskRun(task="other")) is None
    retried = tracklayer_task_state(run, TaskRun(task="fold", tags={"tracklayer.superseded_by": "a" * 32}))
    assert retried == State(status="FAILED", said="was retried")


def test_whom_to_ask_and_how(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = kfp.run("FAILED", ENDED)
    another = WorkflowRun(orchestrator="kubeflow", instance="another", workflow="flights", run_id=run_id)
    airflow = WorkflowRun(orchestrator="airflow", workflow="flights", run_id=run_id)
    for run in (another, airflow):
        assert tracklayer_workflow_state(run) is None
        assert tracklayer_task_state(run, TaskRun(task="train")) is None
    assert not kfp.asked
    monkeypatch.setenv("TRACKLAYER_KUBEFLOW_API_TOKEN", "open sesame")
    assert tracklayer_workflow_state(pipeline_run(run_id)) is not None
    assert kfp.asked[-1][1] == "Bearer open sesame"
    assert "sesame" not in repr(KubeflowSettings(api_token="open sesame"))
    monkeypatch.setenv("KFP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("TRACKLAYER_KUBEFLOW_ENDPOINT", kfp.uri)
    assert tracklayer_workflow_state(pipeline_run(run_id)) is not None
    for name in ("KFP_ENDPOINT", "TRACKLAYER_KUBEFLOW_ENDPOINT"):
        monkeypatch.delenv(name)
    with pytest.raises(truth.KubeflowUnavailable, match="TRACKLAYER_KUBEFLOW_ENDPOINT"):
        tracklayer_workflow_state(pipeline_run(run_id))


def test_a_local_run_is_its_process() -> None:
    local = "flights-2026-11-21-10-00-00-123456"
    mine = process_of(this_process())
    assert mine is not None
    dead = msgspec.json.encode(msgspec.structs.replace(mine, start=1)).decode()
    elsewhere = msgspec.json.encode(msgspec.structs.replace(mine, boot="another")).decode()
    told = [
        tracklayer_workflow_state(pipeline_run(local, **{PROCESS_TAG: tag}))
        for tag in (this_process(), dead, elsewhere)
    ]
    assert [state and state.status for state in told] == ["RUNNING", "KILLED", None]
    assert tracklayer_workflow_state(pipeline_run(local)) is None
    state = tracklayer_task_state(pipeline_run(local), TaskRun(task="train", tags={PROCESS_TAG: dead}))
    assert state is not None
    assert (state.status, state.note) == ("KILLED", "died")


SCRIPT = """
import os, sys
from kfp import dsl, local
from tracklayer_kubeflow import tracked_component, tracked_pipeline

@tracked_component(stage="training")
@dsl.component(base_image="python:3.11", install_kfp_package=False)
def train(started: str) -> str:
    import time
    import tracklayer
    tracklayer.current_run().flush()
    with open(started, "w") as file:
        file.write("started")
    time.sleep(300)
    return "trained"

@tracked_pipeline
@dsl.pipeline(name="waiting")
def waiting(started: str) -> None:
    train(started=started)

if __name__ == "__main__":
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], workspace_root=sys.argv[2])
    with open(sys.argv[3], "w") as file:
        file.write(str(os.getpid()))
    waiting(started=sys.argv[1])
"""


def test_reconciling_ends_the_runs_of_a_killed_local_run(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, started, pid = tmp_path / "script.py", tmp_path / "started", tmp_path / "pid"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(started), str(tmp_path / "outputs"), str(pid)]
    program = Program(command, log=tmp_path / "log", environ=dict(os.environ))
    arguments = ["reconcile", "--experiment", story.experiment, "--format", "json"]
    try:
        wait_for(lambda: started.exists() and bool(started.read_text()), 90, "start of the component", program)
        assert run(arguments) == 0, "it lives"
        process = psutil.Process(int(pid.read_text()))
        killed = [*process.children(recursive=True), process]
        for one in reversed(killed):
            one.kill()
        psutil.wait_procs(killed, timeout=30)
    finally:
        program.stop()
    capsys.readouterr()
    assert run(arguments) == 3
    assert run([*arguments, "--apply"]) == 0
    assert story.parent.status == "KILLED"
    assert [stage.status for stage in story.stages] == ["KILLED"]


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)
