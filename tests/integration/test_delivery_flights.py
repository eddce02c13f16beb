"""Thousands of metric points: a request is under way while the next is prepared, and each point arrives once."""

from __future__ import annotations

import gc
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaving import opening_of
from harness.patience import patient
from harness.process import wait_for
from harness.proxy import Answer
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.flight import Flight
from tracklayer.journal.live import open_journal
from tracklayer.journal.operations import End, Header, Log, Point
from tracklayer.journal.parcel import FULL, Parcel
from tracklayer.journal.record import Record

if TYPE_CHECKING:
    from pathlib import Path

    from harness.proxy import RecordingProxy
    from tracklayer.journal.recorder import Recorder
    from tracklayer.settings import Settings

POINTS = 6_500


@pytest.fixture
def settings(proxy: RecordingProxy, tmp_path: Path) -> Settings:
    """What fills no request is sent when somebody waits for it, and not for its age: requests are counted."""
    return patient(proxy.uri, journal=str(tmp_path / "journal"), flush_interval=60.0)


@pytest.fixture
def run(recorder: Recorder) -> str:
    return recorder.begin(opening_of(f"flights-{uuid.uuid4().hex[:12]}"), wait=20).ref.run_id


def log_points(recorder: Recorder, run: str, count: int = POINTS) -> None:
    for step in range(count):
        recorder.append(Log(run, points=(Point("loss", step * 0.5, 1_700_000_001_000 + step, step),)))


def arrived(recorder: Recorder, proxy: RecordingProxy, run: str) -> list[tuple[int, float]]:
    """Step and value of every point that the server has once everything is delivered."""
    import mlflow

    deadline = time.monotonic() + 60
    while not recorder.flush(5) or recorder.away or recorder.held:
        assert time.monotonic() < deadline, f"not delivered: {recorder.error} {recorder.held}"
        time.sleep(0.05)
    points = mlflow.MlflowClient(tracking_uri=proxy.target).get_metric_history(recorder.resolve(run) or "", "loss")
    return sorted((point.step, point.value) for point in points)


EVERY = [(step, step * 0.5) for step in range(POINTS)]


def test_one_request_at_a_time_each_of_a_thousand_points(recorder: Recorder, proxy: RecordingProxy, run: str) -> None:
    under_way, most = 0, 0
    lock = threading.Lock()

    def watch(handler: Any) -> Answer:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        answer: Answer = handler.forwarded()
        with lock:
            under_way -= 1
        return answer

    proxy.forget()
    proxy.fault(watch, "runs/", 10_000)
    log_points(recorder, run)
    recorder.append(Log(run, params={"lr": "0.1"}))
    recorder.append(End(run, "FINISHED", 1_700_000_002_000))
    assert recorder.drain()
    sent = [len(request.json["metrics"]) for request in proxy.of("runs/log-batch")]
    assert (sum(sent), len(sent)) == (POINTS, 7)
    written = [request.path for request in proxy.requests if request.path not in {"runs/search", "runs/get"}]
    assert written[-2:] == ["runs/log-batch", "runs/update"]
    assert most == 1
    assert arrived(recorder, proxy, run) == EVERY


def test_a_request_that_has_landed_holds_no_memory(recorder: Recorder, proxy: RecordingProxy, run: str) -> None:
    """However many follow each other in one thread: an hour's outage may leave thousands."""
    alive: list[int] = []

    def watch(handler: Any) -> Answer:
        time.sleep(0.05)  # so that the next one is ready, and takes off in the same thread
        alive.append(sum(type(item) is Flight for item in gc.get_objects()))
        answer: Answer = handler.forwarded()
        return answer

    proxy.fault(watch, "runs/log-batch", 10_000)
    log_points(recorder, run, 12_000)
    assert recorder.flush(30)
    assert len(alive) == 12
    assert max(alive) <= 4  # under way, next, and the first one, which the thread was started with


@pytest.mark.parametrize("fault", ["lost", "reset", "half", "truncated"])
def test_a_request_that_fails_under_way_is_made_again(
    recorder: Recorder, proxy: RecordingProxy, run: str, fault: str
) -> None:
    for _ in range(2):  # also while the one after it waits
        proxy.fault(lambda handler: handler.forwarded(), "runs/log-batch", 1)
        getattr(proxy, fault)(path="runs/log-batch", times=2)
    log_points(recorder, run)
    recorder.append(End(run, "FINISHED", 1_700_000_002_000))
    assert arrived(recorder, proxy, run) == EVERY
    assert recorder.backend.store.get_run(recorder.resolve(run) or "").status == "FINISHED"


def test_a_server_that_goes_away_under_way(recorder: Recorder, proxy: RecordingProxy, run: str) -> None:
    gone = threading.Event()
    gone.set()

    def fail(handler: Any) -> Answer:
        if gone.is_set():
            return Answer(503, b"")
        answer: Answer = handler.forwarded()
        return answer

    proxy.fault(lambda handler: handler.forwarded(), "runs/log-batch", 1)
    proxy.fault(fail, "runs/log-batch", 100_000)
    log_points(recorder, run)
    wait_for(lambda: recorder.away, 60, "notice that the server is away")
    recorder.append(Log(run, tags={"meanwhile": "yes"}))
    gone.clear()
    assert arrived(recorder, proxy, run) == EVERY
    assert recorder.backend.store.get_run(recorder.resolve(run) or "").tags["meanwhile"] == "yes"


def test_what_the_server_refuses_of_it_is_kept_and_the_rest_arrives(
    recorder: Recorder, proxy: RecordingProxy, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    log_points(recorder, run, 2_500)
    recorder.append(Log(run, points=(Point("no//name", 1.0, 1_700_000_001_000, 0),)))
    recorder.append(Log(run, points=(Point("loss", 1.0, 1_700_000_001_000, 2**63),)))  # the journal takes that
    for step in range(2_500, POINTS):
        recorder.append(Log(run, points=(Point("loss", step * 0.5, 1_700_000_001_000 + step, step),)))
    assert arrived(recorder, proxy, run) == EVERY
    assert recorder.refused == 2
    assert "the tracking server is away" not in caplog.text


def test_a_run_that_is_deleted_under_way_holds_up_no_other(recorder: Recorder, proxy: RecordingProxy, run: str) -> None:
    other = recorder.begin(opening_of(f"flights-{uuid.uuid4().hex[:12]}"), wait=20).ref.run_id

    def delete(handler: Any) -> Answer:
        recorder.backend.store.delete_run(recorder.resolve(run) or "")
        answer: Answer = handler.forwarded()
        return answer

    proxy.fault(lambda handler: handler.forwarded(), "runs/log-batch", 2)
    proxy.fault(delete, "runs/log-batch", 1)
    log_points(recorder, run)
    recorder.append(Log(other, params={"lr": "0.1"}))
    assert recorder.flush(30)
    there = arrived(recorder, proxy, run)
    assert there == EVERY[: len(there)]
    assert len(there) == 2_000
    assert recorder.refused == POINTS - 2_000
    assert recorder.backend.store.get_run(other).params == {"lr": "0.1"}


def test_a_run_with_which_the_server_always_fails_is_passed_over_and_comes_later(
    recorder: Recorder, proxy: RecordingProxy, run: str
) -> None:
    other = recorder.begin(opening_of(f"flights-{uuid.uuid4().hex[:12]}"), wait=20).ref.run_id
    real = recorder.resolve(run) or ""
    failing = threading.Event()
    failing.set()

    def fail(handler: Any) -> Answer:
        if failing.is_set() and real.encode() in handler.body:
            return Answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "boom"}')
        answer: Answer = handler.forwarded()
        return answer

    proxy.fault(lambda handler: handler.forwarded(), "runs/log-batch", 2)
    proxy.fault(fail, "runs/log-batch", 100_000)
    log_points(recorder, run)
    recorder.append(Log(other, params={"lr": "0.1"}))
    recorder.append(End(other, "FINISHED", 1_700_000_002_000))
    deadline = time.monotonic() + 60
    while recorder.backend.store.get_run(other).status != "FINISHED":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert run in recorder.held
    failing.clear()
    assert arrived(recorder, proxy, run) == EVERY


@pytest.mark.parametrize("before", [1, 2, 3])
def test_what_was_prepared_behind_a_request_that_failed_is_prepared_anew(
    recorder: Recorder, proxy: RecordingProxy, run: str, tmp_path: Path, before: int
) -> None:
    """The server failed inside with one request: it is made again, with as many points of the next as fill another."""
    settings = patient(proxy.uri, journal=str(tmp_path / "left"))
    real = recorder.resolve(run) or ""
    journal = open_journal(settings, Header(1, proxy.uri, "test", os.getpid(), 1_700_000_000_000))
    for begin in range(0, POINTS, 65):
        steps = range(begin, min(begin + 65, POINTS))
        points = tuple(Point("loss", step * 0.5, 1_700_000_001_000 + step, step) for step in steps)
        journal.append(Log(real, points=points))
    for _ in range(before):
        proxy.fault(lambda handler: handler.forwarded(), "runs/log-batch", 1)
    proxy.answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "boom"}', path="runs/log-batch", times=4)
    delivery = Delivery(journal, recorder.backend, settings, recovering=True)
    while delivery.step():
        pass
    assert delivery.delivered == journal.end
    journal.close(remove=True)
    assert arrived(recorder, proxy, run) == EVERY


# Where a parcel's points stand in the journal: whoever comes after a kill has to find what was not sent.


def record(position: int, count: int = 1) -> Record:
    """A record of so many points, of which the first has the step that says where it stands."""
    points = (Point("loss", 0.5, 1_700_000_000_000, step) for step in range(position, position + count))
    return Record(position, position + 1, 1_700_000_000_000, Log("run", tuple(points)))


@pytest.fixture
def parcel(recorder: Recorder, run: str) -> Parcel:
    """Empty."""
    return Parcel(recorder.resolve(run) or "", 0)


def test_points_that_came_back_keep_the_position_of_those_behind_them(recorder: Recorder, parcel: Parcel) -> None:
    """A request failed when half of the next one was gathered; then it arrives without them."""
    records = [record(position) for position in range(FULL + 500)]
    assert parcel.take_points("run", records, 0) == FULL
    assert parcel.take_off(parcel.request())
    assert parcel.take_points("run", records, FULL) == 500
    parcel.came_back()
    assert parcel.send(recorder.backend.store, whole=False) == []
    assert parcel.size == 500
    assert parcel.position <= FULL
    assert parcel.send(recorder.backend.store, whole=True) == []
    assert parcel.position == FULL + 499


@pytest.mark.parametrize("flies", [False, True])
def test_what_is_left_of_a_record_begins_with_it(recorder: Recorder, parcel: Parcel, *, flies: bool) -> None:
    records = [*(record(position) for position in range(FULL - 10)), record(FULL - 10, 30), record(FULL + 20)]
    assert parcel.take_points("run", records, 0) == FULL - 9
    if flies:
        assert parcel.take_off(parcel.request())
        parcel.arrived()
    else:
        parcel.send(recorder.backend.store, whole=False)
    assert (parcel.size, parcel.position) == (20, FULL - 10)
