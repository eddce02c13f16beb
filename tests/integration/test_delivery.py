"""What was recorded is at the server: in few requests, in order, once, whatever happens to the server meanwhile."""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlflow
import pytest

from harness.leaving import opening_of
from harness.patience import patient
from harness.process import wait_for
from harness.proxy import Answer
from tracklayer.backend import open_backend
from tracklayer.exceptions import StoreUnavailable
from tracklayer.identity import SUPERSEDED_TAG, run_key
from tracklayer.journal.operations import Artifact, Create, End, Inputs, Log, Point
from tracklayer.journal.recorder import Recorder
from tracklayer.journal.recorders import close_recorders, recorder_of
from tracklayer.journal.recovery import left_behind
from tracklayer.provisional import PENDING, id_tag, is_provisional, provisional_id
from tracklayer.store import Dataset
from tracklayer.store.transport import DELAYS
from tracklayer.tags import run_tags

if TYPE_CHECKING:
    from pathlib import Path

    from harness.proxy import RecordingProxy
    from tracklayer.opening import Opened
    from tracklayer.settings import Settings
    from tracklayer.store import Run


@pytest.fixture
def name() -> str:
    return f"delivery-{uuid.uuid4().hex[:12]}"


def paths(proxy: RecordingProxy) -> list[str]:
    return [request.path for request in proxy.requests]


@pytest.mark.usefixtures("in_time")
def test_a_stage_takes_three_requests_beside_those_for_experiment_and_parent(
    recorder: Recorder, proxy: RecordingProxy, name: str
) -> None:
    for task, count in (("first", 9), ("second", 3)):
        proxy.forget()
        opened = recorder.begin(opening_of(name, task), wait=20)
        run_id = opened.ref.run_id
        assert not is_provisional(run_id)
        for number in range(20):
            recorder.append(Log(run_id, params={f"p{number}": "1"}))
        for number in range(10):
            recorder.append(Log(run_id, points=(Point(f"m{number}", 1.0, 1_700_000_001_000),)))
        ended_at = time.time_ns() // 1_000_000  # an end that is late takes more
        recorder.append(End(run_id, "FINISHED", ended_at))
        assert recorder.drain()
        assert len(proxy.requests) == count, paths(proxy)
        run = recorder.backend.store.get_run(run_id)
        assert len(run.params) == 20
        assert len(run.metrics) == 10
        assert (run.status, run.end_time) == ("FINISHED", ended_at)
    assert recorder.close()


def complete(recorder: Recorder, seconds: float = 60.0) -> None:
    """Wait until everything is delivered, held things too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if recorder.flush(5) and not recorder.away and not recorder.held:
            return
        time.sleep(0.05)
    pytest.fail(f"not delivered: away={recorder.away} {recorder.error} held={recorder.held}")


def found(recorder: Recorder, identifier: str) -> Run:
    """The one run that was given out as `identifier`."""
    (run,) = recorder.backend.store.search_runs([], f"tags.`{id_tag(identifier)}` != ''")
    return recorder.backend.store.get_run(run.run_id)


def test_what_was_recorded_while_the_server_was_away_is_there_once_it_is_back(
    recorder: Recorder, proxy: RecordingProxy, name: str
) -> None:
    with proxy.refused():
        opened = recorder.begin(opening_of(name), wait=5)
        local = opened.ref.run_id
        assert is_provisional(local)
        assert opened.ref.experiment_id == PENDING
        assert recorder.away
        nested = recorder.create(
            Create(provisional_id(), PENDING, "fold", 1_700_000_000_700, {"mlflow.parentRunId": local}, local), wait=5
        )
        recorder.append(Log(local, params={"lr": "0.1"}, tags={"who": "me"}))
        recorder.append(
            Log(local, points=tuple(Point("loss", 1 / (n + 1), 1_700_000_001_000 + n, n) for n in range(50)))
        )
        recorder.append(Log(nested.run_id, points=(Point("auc", 0.9, 1_700_000_001_000),)))
        recorder.append(Inputs(local, (Dataset(name="d", digest="1", source_type="uri", source="{}"),)))
        recorder.append(Artifact(local, "notes/a.txt", recorder.keep(b"hello")))
        recorder.append(End(nested.run_id, "FINISHED", 1_700_000_001_500))
        recorder.append(End(local, "FAILED", 1_700_000_002_000))
        assert not recorder.drain()
    complete(recorder)
    run = found(recorder, local)
    assert recorder.resolve(local) == run.run_id
    assert (run.status, run.start_time, run.end_time) == ("FAILED", 1_700_000_000_500, 1_700_000_002_000)
    assert (run.params, run.tags["who"]) == ({"lr": "0.1"}, "me")
    assert run.metrics["loss"] == 1 / 50
    assert [dataset.name for dataset in run.datasets] == ["d"]
    assert recorder.backend.store.read_artifact(run, "notes/a.txt") == b"hello"
    below = found(recorder, nested.run_id)
    assert below.tags["mlflow.parentRunId"] == run.run_id
    assert (below.status, below.name, below.experiment_id) == ("FINISHED", "fold", run.experiment_id)
    parent = recorder.backend.store.get_run(run.tags["mlflow.parentRunId"])
    assert parent.name == "r1"


@pytest.mark.parametrize("fault", ["lost", "reset", "half", "truncated"])
def test_an_answer_that_is_lost_leaves_one_run_and_every_point_once(
    recorder: Recorder, proxy: RecordingProxy, name: str, fault: str
) -> None:
    for path in ("runs/create", "runs/log-batch", "runs/update", "runs/log-inputs"):
        getattr(proxy, fault)(path)
    opened = recorder.begin(opening_of(name), wait=20)
    local = opened.ref.run_id
    recorder.append(Log(local, points=tuple(Point("loss", n, 1_700_000_001_000 + n, n) for n in range(1_500))))
    recorder.append(Log(local, params={"lr": "0.1"}))
    recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    complete(recorder)
    store = recorder.backend.store
    experiment = store.get_experiment_by_name(name)
    assert experiment
    runs = store.search_runs([experiment.experiment_id])
    assert sorted(run.name for run in runs) == ["r1", "train"]
    (stage,) = [run for run in runs if run.name == "train"]
    assert stage.status == "FINISHED"
    assert history(proxy, stage.run_id, "loss") == [(n, float(n)) for n in range(1_500)]


@pytest.mark.parametrize("fault", ["lost", "away"])
def test_an_earlier_try_is_superseded_although_the_answer_to_the_later_one_is_lost(
    recorder: Recorder, proxy: RecordingProxy, name: str, fault: str
) -> None:
    first = opening_of(name)
    assert first.context.task_run
    context = replace(first.context, task_run=replace(first.context.task_run, try_number=2))
    second = replace(first, context=context, key=run_key(context), tags=run_tags(context))
    begun = recorder.begin(first, wait=20).ref.run_id
    if fault == "lost":
        proxy.lost("runs/create")
    else:
        proxy.answer(503, path="runs/search", times=1 + len(DELAYS))
    recorder.begin(second, wait=20)
    complete(recorder)
    runs = recorder.backend.store.search_runs([recorder.backend.store.get_run(begun).experiment_id])
    (later,) = [run for run in runs if run.tags.get("tracklayer.key") == second.key]
    assert recorder.backend.store.get_run(begun).tags[SUPERSEDED_TAG] == later.run_id


def test_a_request_that_the_server_carries_out_late_leaves_one_run(
    recorder: Recorder, proxy: RecordingProxy, name: str
) -> None:
    """The server hangs: what was asked for, in vain, and asked for again, comes to be twice."""
    store = recorder.backend.store
    proxy.late(2.0, "runs/create")  # the parent
    first = recorder.begin(opening_of(name), wait=20).ref.run_id
    complete(recorder)
    proxy.late(2.0, "runs/create")
    create = Create(provisional_id(), PENDING, "fold", 1_700_000_000_700, {"mlflow.parentRunId": first}, first)
    fold = recorder.create(create, wait=20).run_id
    proxy.late(2.0, "runs/create")
    second = recorder.begin(opening_of(name, "second"), wait=20).ref.run_id
    complete(recorder)
    experiment_id = found(recorder, first).experiment_id
    deadline = time.monotonic() + 30
    while len(store.search_runs([experiment_id])) < 7:
        assert time.monotonic() < deadline, "the requests that were put off did not come"
        time.sleep(0.1)
    for local in (fold, second, first):
        recorder.append(Log(local, params={"lr": "0.1"}))
        recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    complete(recorder)
    runs = store.search_runs([experiment_id])
    assert sorted((run.name, run.status) for run in runs) == [
        ("fold", "FINISHED"),
        ("r1", "RUNNING"),
        ("second", "FINISHED"),
        ("train", "FINISHED"),
    ]


@pytest.mark.parametrize("journal", ["off", "on the disk"])
def test_what_would_end_with_the_process_is_tried_once_more_in_the_end(
    proxy: RecordingProxy, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    """The server is back, and the sender would look for it in half a minute."""
    monkeypatch.setattr("tracklayer.journal.sender.REST", (60.0, 60.0))
    where = journal if journal == "off" else str(tmp_path / "journal")
    settings = patient(proxy.uri, journal=where)
    backend = open_backend(settings)
    assert backend
    recorder = Recorder(backend, settings)
    with proxy.refused():
        local = recorder.begin(opening_of(name), wait=5).ref.run_id
        recorder.append(Log(local, params={"lr": "0.1"}))
        recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    assert recorder.away
    began = time.monotonic()
    assert recorder.close() is (journal == "off")
    assert time.monotonic() - began < 15
    if journal == "off":
        assert found(recorder, local).params == {"lr": "0.1"}


def history(proxy: RecordingProxy, run_id: str, key: str) -> list[tuple[int, float]]:
    import mlflow

    points = mlflow.MlflowClient(tracking_uri=proxy.target).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


def test_what_the_server_refuses_is_kept_and_holds_up_nothing(recorder: Recorder, name: str) -> None:
    local = recorder.begin(opening_of(name), wait=20).ref.run_id
    recorder.append(Log(local, params={"lr": "0.1", "bad//key": "1"}, tags={"fine": "yes"}))
    recorder.append(Log(local, params={"lr": "0.2"}))
    recorder.append(Log(local, params={"lr": "0.3", "more": "1"}, yielding=True))
    recorder.append(Log(local, points=(Point("loss", 1.0, 1_700_000_001_000),)))
    recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    complete(recorder)
    run = recorder.backend.store.get_run(recorder.resolve(local) or "")
    assert run.params == {"lr": "0.1", "more": "1"}
    assert (run.tags["fine"], run.metrics["loss"], run.status) == ("yes", 1.0, "FINISHED")
    assert run.tags["tracklayer.refused"].startswith("2: ")
    assert recorder.refused == 2


def test_a_run_that_was_deleted_holds_up_no_other(recorder: Recorder, name: str) -> None:
    first = recorder.begin(opening_of(name, "first"), wait=20).ref.run_id
    second = recorder.begin(opening_of(name, "second"), wait=20).ref.run_id
    recorder.backend.store.delete_run(first)
    for local in (first, second):
        recorder.append(Log(local, params={"lr": "0.1"}))
        recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    complete(recorder)
    assert recorder.backend.store.get_run(second).status == "FINISHED"
    assert recorder.refused == 2


def test_a_run_that_the_server_fails_with_holds_up_no_other(
    recorder: Recorder, proxy: RecordingProxy, name: str
) -> None:
    first = recorder.begin(opening_of(name, "first"), wait=20).ref.run_id
    second = recorder.begin(opening_of(name, "second"), wait=20).ref.run_id
    proxy.fault(lambda handler: poisoned(handler, first), "runs/log-batch", 10_000)
    recorder.append(Log(first, params={"lr": "0.1"}))
    recorder.append(Log(second, params={"lr": "0.1"}))
    recorder.append(End(first, "FINISHED", 1_700_000_002_000))
    recorder.append(End(second, "FINISHED", 1_700_000_002_000))
    deadline = time.monotonic() + 60
    while recorder.backend.store.get_run(second).status != "FINISHED":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert recorder.backend.store.get_run(first).status == "RUNNING"
    proxy.forget()
    complete(recorder)
    run = recorder.backend.store.get_run(first)
    assert (run.status, run.params) == ("FINISHED", {"lr": "0.1"})


@pytest.mark.parametrize("count", [1, 1_500], ids=["a point", "more than a request"])
def test_a_failure_of_our_own_with_one_run_holds_up_no_other(
    recorder: Recorder, name: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Such as a bug, or a certificate bundle that is no text: not the server's word."""
    first = recorder.begin(opening_of(name, "first"), wait=20).ref.run_id
    second = recorder.begin(opening_of(name, "second"), wait=20).ref.run_id
    assert recorder.flush(20)
    store = recorder.backend.store

    def failing(method: Any) -> Any:
        def call(run_id: str, *args: Any, **more: Any) -> Any:
            if run_id == first:
                raise TypeError("a bug")
            return method(run_id, *args, **more)

        return call

    with monkeypatch.context() as patched:
        for method in ("log_batch", "prepared_batch"):
            patched.setattr(store, method, failing(getattr(store, method)))
        for local in (first, second):
            for step in range(count):
                recorder.append(Log(local, (Point("loss", step / 3, 1_700_000_001_000, step),)))
            recorder.append(End(local, "FINISHED", 1_700_000_002_000))
        wait_for(lambda: store.get_run(second).status == "FINISHED", 30, "the end of the other run")
        assert store.get_run(first).status == "RUNNING"
        assert recorder.held == {first: "a bug"}
    complete(recorder)
    client = mlflow.MlflowClient(tracking_uri=recorder.settings.tracking_uri)
    for run_id in (first, second):
        assert store.get_run(run_id).status == "FINISHED"
        assert len(client.get_metric_history(run_id, "loss")) == count


def poisoned(handler: Any, run_id: str) -> Answer:
    if run_id.encode() in handler.body:
        return Answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "boom"}')
    forwarded: Answer = handler.forwarded()
    return forwarded


def test_threads_and_forks_log_at_once(settings: Settings, name: str) -> None:
    backend = open_backend(settings)
    assert backend
    recorder = recorder_of(backend, settings)
    local = recorder.begin(opening_of(name), wait=20).ref.run_id

    def log_points(worker: int) -> None:
        for number in range(200):
            recorder.append(Log(local, points=(Point(f"worker-{worker}", number, 1_700_000_001_000, number),)))

    threads = [threading.Thread(target=log_points, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    children = []
    for worker in range(4, 7):  # while other threads are in the middle of something
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                log_points(worker)
                nested = Create(provisional_id(), PENDING, f"fold-{worker}", 1, {"mlflow.parentRunId": local}, local)
                run_id = recorder.create(nested, wait=20).run_id
                recorder.append(End(run_id, "FINISHED", 1_700_000_002_000))
                close_recorders()
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    for thread in threads:
        thread.join()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    close_recorders()
    run = backend.store.get_run(local)
    assert run.metrics == {f"worker-{worker}": 199.0 for worker in range(7)}
    below = backend.store.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{local}'")
    assert {(found.name, found.status) for found in below} == {(f"fold-{n}", "FINISHED") for n in range(4, 7)}
    assert not list(left_behind(settings))


def test_a_database_is_served_in_the_same_way(sqlite_uri: str, tmp_path: Path, name: str) -> None:
    settings = patient(sqlite_uri, journal=str(tmp_path / "journal"))
    backend = open_backend(settings)
    assert backend
    recorder = Recorder(backend, settings)
    # However long importing mlflow takes; the first to open the database makes its tables, too.
    local = recorder.begin(opening_of(name), wait=120).ref.run_id
    assert not is_provisional(local)
    recorder.append(Log(local, params={"lr": "0.1"}, points=(Point("loss", 1.0, 1_700_000_001_000),)))
    recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    assert recorder.close()
    run = backend.store.get_run(local)
    assert (run.status, run.params, run.metrics) == ("FINISHED", {"lr": "0.1"}, {"loss": 1.0})


def test_whoever_wants_to_know_is_told_that_the_server_is_away(
    recorder: Recorder, proxy: RecordingProxy, name: str
) -> None:
    with proxy.refused(), pytest.raises(StoreUnavailable, match="cannot reach"):
        recorder.begin(opening_of(name), wait=20, strict=True)
    complete(recorder)
    assert recorder.backend.store.get_experiment_by_name(name) is None  # nobody was promised anything
    opened = recorder.begin(opening_of(name), wait=20, strict=True)
    assert not is_provisional(opened.ref.run_id)


def test_what_is_given_out_is_announced_when_it_comes_to_be_and_kept_by_nobody(
    recorder: Recorder, proxy: RecordingProxy, name: str
) -> None:
    class Stage:
        def __init__(self) -> None:
            self.opened: Opened | None = None

        def named(self, opened: Opened) -> None:
            self.opened = opened

    one, other = Stage(), Stage()
    with proxy.refused():
        local = recorder.begin(opening_of(name, "one"), wait=5, named=one.named).ref.run_id
        recorder.begin(opening_of(name, "other"), wait=5, named=other.named)
        gone = weakref.ref(other)
        del other
        assert gone() is None
    complete(recorder)
    assert one.opened
    assert one.opened.ref.run_id == recorder.resolve(local)
    assert one.opened.made_parent
