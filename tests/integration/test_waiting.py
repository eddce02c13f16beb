"""How long calls wait for a tracking server that takes connections and answers nothing, and what they do to memory and order."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from mlflow import MlflowClient

from harness.leaving import opening_of
from harness.process import wait_for
from tracklayer import RunContext, TaskRun, WorkflowRun, track
from tracklayer.backend import open_backend
from tracklayer.journal.operations import End, Log
from tracklayer.journal.recorder import Recorder
from tracklayer.journal.sender import REST
from tracklayer.settings import Settings
from tracklayer.store.opening import open_store
from tracklayer.store.transport import DELAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer import StageRun

MB = 1_048_576

PATIENCE = 6.0
"""Seconds; more than the default, for a machine that does other things, and stands still for seconds now and then."""

TIMEOUT = 20.0
"""Seconds for an answer: far more than patience, so that it is patience that tells that a server is away."""

SHORT = 15.0
"""Seconds that the first wait of an outage may take in all."""

NO_TIME = 5.0
"""Seconds that calls may take which wait for nobody: one that waited would take as long as there is patience."""

SLOW = PATIENCE + 1.5
"""Seconds after which a slow server answers: somebody who heeds nothing but patience has given up before that."""


@contextmanager
def taking(seconds: float) -> Iterator[None]:
    """The block takes less than so many seconds."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@contextmanager
def frozen(server: MlflowServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@pytest.fixture
def context() -> RunContext:
    workflow = f"waiting-{uuid.uuid4().hex[:10]}"
    return RunContext(
        workflow_run=WorkflowRun(orchestrator="test", workflow=workflow, run_id="r1"), task_run=TaskRun(task="fit")
    )


def recording(uri: str, tmp_path: Path, *, timeout: float = 30.0) -> tuple[Recorder, str]:
    """A recorder, and the id of a run that the server has."""
    settings = Settings(tracking_uri=uri, journal=str(tmp_path / "journal"), patience=20.0, timeout=timeout)
    backend = open_backend(settings)
    assert backend is not None
    recorder = Recorder(backend, settings)
    return recorder, recorder.begin(opening_of("waiting"), wait=30).ref.run_id


def ends(recorder: Recorder, run_id: str) -> None:
    """The run's end arrives, and nothing is left."""
    recorder.append(End(run_id, "FINISHED", 1))
    wait_for(lambda: recorder.flush(30), 60, "delivery")
    assert recorder.close()


def test_a_server_that_is_away_is_asked_ever_more_seldom(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], tmp_path: Path
) -> None:
    proxy = proxy_before(mlflow_server.uri)
    recorder, run_id = recording(proxy.uri, tmp_path)
    asked: list[float] = []

    def reset(handler: Any) -> None:
        asked.append(time.monotonic())
        handler.reset()

    proxy.fault(reset, times=1_000)
    recorder.append(Log(run_id, params={"lr": "0.1"}))
    assert not recorder.flush(0.5)
    tries = len(DELAYS) + 1
    wait_for(lambda: len(asked) > 3 * tries, 30, "four attempts")
    third = asked[3 * tries] - asked[3 * tries - 1]
    assert third > 2 * REST[0], "the first pause is that long at most, and each twice the one before"
    proxy.forget()
    ends(recorder, run_id)


def test_a_server_that_says_when_to_come_again_is_left_alone_until_then(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], tmp_path: Path
) -> None:
    proxy = proxy_before(mlflow_server.uri)
    recorder, run_id = recording(proxy.uri, tmp_path, timeout=5.0)  # a request alone does not wait that long
    proxy.forget()
    proxy.answer(429, headers={"Retry-After": "6"})
    begun = time.monotonic()
    recorder.append(Log(run_id, params={"lr": "0.1"}))
    assert not recorder.flush(1.0)
    wait_for(lambda: len(proxy.requests) > 1, 30, "another try")
    assert 5.9 < time.monotonic() - begun < 20
    ends(recorder, run_id)


def test_a_look_whether_all_is_delivered_says_nothing_about_the_server(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    recorder, run_id = recording(mlflow_server.uri, tmp_path)
    with frozen(mlflow_server):  # else it may be delivered before one looks
        recorder.append(Log(run_id, params={"lr": "0.1"}))
        assert not recorder.flush(0.0)
        assert not recorder.away
    ends(recorder, run_id)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_PATIENCE", str(PATIENCE))
    monkeypatch.setenv("TRACKLAYER_TIMEOUT", str(TIMEOUT))


@pytest.fixture
def stage(mlflow_server: MlflowServer, context: RunContext, impatient: None) -> Iterator[StageRun]:
    """A stage on a real server, which is not waited for long."""
    with track("training", context=context, tracking_uri=mlflow_server.uri) as run:
        delivered(run)
        yield run


def artifact(stage: StageRun, path: str) -> bytes:
    """What the server has at that place, once all was delivered."""
    delivered(stage)
    store = open_store(stage.tracking_uri or "", connect_timeout=5, timeout=30)
    return store.read_artifact(store.get_run(stage.ref.run_id if stage.ref else ""), path)


def delivered(stage: StageRun) -> None:
    deadline = time.monotonic() + 60
    while not stage.flush():
        assert time.monotonic() < deadline
        time.sleep(0.1)


LARGE = """
import resource, sys
from tracklayer import RunContext, TaskRun, WorkflowRun, track

context = RunContext(
    workflow_run=WorkflowRun(orchestrator="test", workflow=sys.argv[2], run_id="r1"), task_run=TaskRun(task="fit")
)
with track("training", context=context) as run:
    run.log_text("small", "first.txt")
    run.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run.log_artifact(sys.argv[1])
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_artifact_is_not_held_in_memory(
    mlflow_server: MlflowServer, tmp_path: Path, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.bin"
    with model.open("wb") as file:
        file.truncate(160 * MB)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    command = [sys.executable, "-c", LARGE, str(model), context.workflow_run.workflow]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert grown < 30
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    experiment = store.get_experiment_by_name(context.workflow_run.workflow)
    assert experiment is not None
    where = "tags.`tracklayer.stage` = 'training'"
    (run,) = store.search_runs([experiment.experiment_id], where)
    (stored,) = MlflowClient(mlflow_server.uri).list_artifacts(run.run_id, "model.bin") or (
        file for file in MlflowClient(mlflow_server.uri).list_artifacts(run.run_id) if file.path == "model.bin"
    )
    assert stored.file_size == 160 * MB


@pytest.mark.parametrize("by", ["tracklayer", "mlflow"])
def test_a_newer_artifact_is_not_overtaken_by_an_older_one_that_waits(
    recording_proxy: RecordingProxy, context: RunContext, tmp_path: Path, fresh_mlflow: None, by: str
) -> None:
    def slowly(handler: Any) -> Any:
        time.sleep(1.5)
        return handler.forwarded()

    new = tmp_path / "model.bin"
    new.write_bytes(b"n" * 2 * MB)
    mlflow.set_tracking_uri(recording_proxy.uri)
    with track("training", context=context, tracking_uri=recording_proxy.uri) as run:
        assert run.flush()
        recording_proxy.fault(slowly, "/api/2.0/mlflow-artifacts/artifacts")
        run.log_text("old", "model.bin")
        time.sleep(0.3)  # it is on its way
        if by == "tracklayer":
            run.log_artifact(new)
        else:
            mlflow.log_artifact(str(new))
        assert artifact(run, "model.bin") == new.read_bytes()


def test_a_server_that_freezes_is_waited_for_once(mlflow_server: MlflowServer, stage: StageRun, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"a" * 3 * MB)
    stage.log_artifact(model)
    with frozen(mlflow_server):
        model.write_bytes(b"b" * 3 * MB)
        with taking(SHORT):
            stage.log_artifact(model)
        model.write_bytes(b"c" * 3 * MB)
        with taking(NO_TIME):
            stage.log_artifact(model)
            assert stage.consumes("s3://bucket/nobody/made/it") is None
            assert not stage.flush()
    assert artifact(stage, "model.bin") == model.read_bytes()


def test_finding_a_producer_is_given_up_with_the_server(mlflow_server: MlflowServer, stage: StageRun) -> None:
    uri = f"s3://bucket/{uuid.uuid4().hex}"
    with frozen(mlflow_server):
        with taking(SHORT):
            assert stage.consumes(uri) is None
        with taking(NO_TIME):
            assert stage.consumes(uri) is None


def test_a_server_that_is_slow_and_there_is_waited_for(
    recording_proxy: RecordingProxy, context: RunContext, tmp_path: Path, impatient: None
) -> None:
    def slowly(handler: Any) -> Any:
        time.sleep(SLOW)
        return handler.forwarded()

    uri = f"s3://bucket/{uuid.uuid4().hex}"
    model = tmp_path / "model.bin"
    model.write_bytes(b"a" * 2 * MB)
    with track("data-prep", context=context, tracking_uri=recording_proxy.uri) as run:
        run.produces(uri)
        delivered(run)
        other = RunContext(workflow_run=context.workflow_run, task_run=TaskRun(task="eval"))
        with track("training", context=other, tracking_uri=recording_proxy.uri) as inner:
            delivered(inner)
            recording_proxy.fault(slowly, "runs/search")
            assert inner.consumes(uri) is not None
            recording_proxy.fault(slowly, "/api/2.0/mlflow-artifacts/artifacts")
            inner.log_artifact(model)
            assert "away" not in repr(inner.recorder)
            run_id = inner.ref.run_id if inner.ref else ""
            assert [file.path for file in MlflowClient(recording_proxy.uri).list_artifacts(run_id)] == ["model.bin"]


def test_the_server_is_looked_for_although_nothing_is_to_be_sent(mlflow_server: MlflowServer, stage: StageRun) -> None:
    recorder = stage.recorder
    assert recorder is not None
    delivered(stage)  # an answer that is on its way would say that it is there
    with frozen(mlflow_server):
        recorder.unanswered()
        time.sleep(0.5)  # it is asked meanwhile
        # A look of the sender's that had begun before may say otherwise, until nothing answers that question.
        wait_for(lambda: recorder.away, 2 * TIMEOUT, "knowledge that it is away")
    wait_for(lambda: not recorder.away, 60, "knowledge that it is back")


def test_a_description_waits_for_nobody_and_keeps_the_links_below_it(
    mlflow_server: MlflowServer, stage: StageRun, fresh_mlflow: None
) -> None:
    mlflow.set_tracking_uri(mlflow_server.uri)
    client = MlflowClient()
    client.log_metric(stage.run_id or "", "loss", 0.5)
    with frozen(mlflow_server):
        with taking(NO_TIME):
            client.set_tag(stage.run_id or "", "mlflow.note.content", "What we **tried**")
        with taking(NO_TIME), mlflow.start_run(description="Another *word*"):
            mlflow.log_metric("loss", 0.25, step=1)
    delivered(stage)
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    told = store.get_run(stage.ref.run_id if stage.ref else "")
    note = told.tags["mlflow.note.content"]
    assert note.startswith("Another *word*")
    assert "**Parent**" in note
    assert told.metrics == {"loss": 0.25}


def test_an_artifact_that_is_not_taken_is_the_first_and_last_wait_of_an_outage(
    mlflow_server: MlflowServer, stage: StageRun, tmp_path: Path, fresh_mlflow: None
) -> None:
    mlflow.set_tracking_uri(mlflow_server.uri)
    file = tmp_path / "plot.svg"
    file.write_text("<svg/>")
    mlflow.log_artifact(str(file))
    with frozen(mlflow_server):
        with taking(SHORT):
            mlflow.log_artifact(str(file), "later")
        with taking(NO_TIME):
            for _ in range(3):
                with mlflow.start_run(nested=True):
                    mlflow.log_metric("loss", 0.5)
    assert artifact(stage, "later/plot.svg") == b"<svg/>"
