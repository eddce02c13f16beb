"""What `RestStore` does when the server, or the way to it, fails: real requests to a real server, really injured."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from harness.proxy import HTML, RecordingProxy, black_hole, refused_port
from tracklayer.exceptions import AccessDenied, Refused, StoreError, StoreUnavailable
from tracklayer.store import Metric, Run, connection
from tracklayer.store.delivery import deliver
from tracklayer.store.endpoint import Endpoint
from tracklayer.store.rest import RestStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer

JSON = {"Content-Type": "application/json"}
POOL = json.dumps({"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 overflow 10 reached"}).encode()


@pytest.fixture(scope="module")
def experiment(mlflow_server: MlflowServer) -> str:
    return RestStore(Endpoint.find(mlflow_server.uri)).create_experiment(f"faults-{uuid.uuid4().hex}", {})


@pytest.fixture
def proxy(recording_proxy: RecordingProxy) -> RecordingProxy:
    return recording_proxy


@pytest.fixture
def store(proxy: RecordingProxy) -> RestStore:
    return RestStore(Endpoint.find(proxy.uri), connect_timeout=1, timeout=20)


@pytest.fixture
def run(mlflow_server: MlflowServer, experiment: str) -> Run:
    beside = RestStore(Endpoint.find(mlflow_server.uri), timeout=20)
    return beside.create_run(experiment, name="r", start_time=1, tags={})


@pytest.fixture
def made(mlflow_server: MlflowServer, experiment: str) -> Callable[[str], int]:
    """How many runs of this name the server has."""
    beside = RestStore(Endpoint.find(mlflow_server.uri), timeout=20)
    return lambda name: len(beside.search_runs([experiment], f"attributes.run_name = '{name}'"))


def create(store: RestStore, experiment: str, name: str) -> Run:
    return store.create_run(experiment, name=name, start_time=1, tags={})


def seconds(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable):
        action()
    return time.monotonic() - begin


def left_alone(action: Callable[[], object]) -> None:
    """The action fails at once: the server is not asked."""
    with pytest.raises(StoreUnavailable, match="it is left alone for another"):
        action()


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts to which connections were tried."""
    hosts: list[str] = []
    dial = connection.dial

    def noting(host: str, *more: Any) -> socket.socket:
        hosts.append(host)
        return dial(host, *more)

    monkeypatch.setattr(connection, "dial", noting)
    return hosts


# One run, whatever happens


@pytest.mark.parametrize("fault", ["lost", "half", "truncated", "reset"])
def test_a_run_is_never_created_twice(
    store: RestStore, proxy: RecordingProxy, experiment: str, made: Callable[[str], int], fault: str
) -> None:
    getattr(proxy, fault)("runs/create", times=5)
    with pytest.raises(StoreUnavailable):
        create(store, experiment, f"once-{fault}")
    assert proxy.calls == ["POST runs/create"]
    assert made(f"once-{fault}") == (0 if fault == "reset" else 1)


def test_where_nobody_listens_a_call_fails_at_once_and_the_next_one_works(
    store: RestStore, proxy: RecordingProxy, experiment: str, made: Callable[[str], int]
) -> None:
    """The sender asks again, later; a call that waited here would hold up the end of a task."""
    with proxy.refused(), pytest.raises(StoreUnavailable, match="Connection refused"):
        create(store, experiment, "late")
    store.try_again()
    assert create(store, experiment, "late").name == "late"
    assert made("late") == 1


def test_a_connection_that_the_server_dropped_is_not_used(
    store: RestStore, proxy: RecordingProxy, experiment: str, made: Callable[[str], int]
) -> None:
    store.ping()
    proxy.hang_up()
    time.sleep(0.05)
    create(store, experiment, "dropped")
    assert made("dropped") == 1


def test_no_run_is_sent_over_a_connection_that_was_idle_for_long(
    store: RestStore, proxy: RecordingProxy, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_LIMIT", 0.1)
    store.ping()
    time.sleep(0.2)
    create(store, experiment, "idle")
    monkeypatch.setattr(connection, "IDLE_LIMIT", 60.0)
    create(store, experiment, "at once")
    used = [request.connection for request in proxy.requests]
    assert used[-2] > used[-3]
    assert used[-1] == used[-2]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_run_that_may_have_been_created_is_not_asked_for_again(
    store: RestStore, proxy: RecordingProxy, experiment: str, status: int
) -> None:
    proxy.answer(status, path="runs/create")
    with pytest.raises(StoreUnavailable, match=str(status)):
        create(store, experiment, "maybe")
    assert proxy.calls == ["POST runs/create"]


def test_a_run_that_was_turned_away_is_asked_for_again(
    store: RestStore, proxy: RecordingProxy, experiment: str, made: Callable[[str], int]
) -> None:
    proxy.answer(429, path="runs/create", headers={"Retry-After": "0"})
    create(store, experiment, "again")
    assert made("again") == 1


# Repeats


@pytest.mark.parametrize("fault", ["lost", "half", "truncated", "reset"])
def test_what_is_harmless_to_repeat_is_repeated(store: RestStore, proxy: RecordingProxy, run: Run, fault: str) -> None:
    getattr(proxy, fault)("runs/log-batch")
    store.log_batch(run.run_id, metrics=[Metric(key="m", value=1, timestamp=1)], params={"p": "1"}, tags={"t": "1"})
    getattr(proxy, fault)("runs/update")
    store.update_run(run.run_id, status="FINISHED", end_time=2)
    getattr(proxy, fault)("runs/get")
    found = store.get_run(run.run_id)
    assert (found.params, found.metrics, found.status) == ({"p": "1"}, {"m": 1}, "FINISHED")
    assert all(proxy.calls.count(call) == 2 for call in ("POST runs/log-batch", "POST runs/update", "GET runs/get"))


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [(500, HTML, None), (502, HTML, None), (503, b"", {"Retry-After": "0"}), (408, b"", None), (400, POOL, JSON)],
)
def test_answers_that_say_later(
    store: RestStore, proxy: RecordingProxy, run: Run, status: int, body: bytes, headers: dict[str, str] | None
) -> None:
    proxy.answer(status, body, times=2, headers=headers)
    store.log_batch(run.run_id, tags={"t": "1"})
    assert len(proxy.calls) == 3


def test_repeats_come_to_an_end(store: RestStore, proxy: RecordingProxy, run: Run) -> None:
    proxy.answer(500, HTML, times=50)
    with pytest.raises(StoreUnavailable, match=r"could not find the run: it answered 500 \(Sign in Please sign in\)"):
        store.get_run(run.run_id)
    assert len(proxy.calls) == 4


def test_repeats_stay_within_the_timeout(proxy: RecordingProxy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracklayer.store.transport.DELAYS", (0.1, 60.0, 60.0))
    store = RestStore(Endpoint.find(proxy.uri), timeout=20)
    proxy.answer(500, times=50)
    assert seconds(lambda: store.get_run(run.run_id)) < 15, "nobody waits for a repeat that would come too late"
    assert len(proxy.calls) == 2


def test_retry_after_is_respected(store: RestStore, proxy: RecordingProxy, run: Run) -> None:
    proxy.answer(429, headers={"Retry-After": "1"})
    begin = time.monotonic()
    store.get_run(run.run_id)
    assert time.monotonic() - begin > 0.7


def test_retry_after_longer_than_there_is_patience(store: RestStore, proxy: RecordingProxy, run: Run) -> None:
    proxy.answer(429, headers={"Retry-After": "600"})
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match="in 600 s"):
        store.get_run(run.run_id)
    with pytest.raises(StoreUnavailable, match=r"left alone for another (30|2\d) s"):
        store.get_run(run.run_id)
    assert time.monotonic() - begin < 10
    assert len(proxy.calls) == 1


def test_what_the_server_refuses_is_not_repeated(store: RestStore, proxy: RecordingProxy, run: Run) -> None:
    with pytest.raises(Refused):
        store.log_batch(run.run_id, params={"bad\nkey": "1"})
    assert len(proxy.calls) == 1


def test_a_batch_that_is_too_large_for_a_proxy_is_halved(store: RestStore, proxy: RecordingProxy, run: Run) -> None:
    proxy.answer(413, HTML, path="runs/log-batch")
    params = {f"p{number}": str(number) for number in range(10)}
    assert deliver(store, run.run_id, params=params) == []
    assert proxy.calls == ["POST runs/log-batch", "GET runs/get", "POST runs/log-batch", "POST runs/log-batch"]
    assert store.get_run(run.run_id).params == params


# Dead servers


def test_a_black_hole_costs_one_connect_timeout_in_all(dialled: list[str]) -> None:
    with black_hole() as uri:
        store = RestStore(Endpoint.find(uri), connect_timeout=0.5, timeout=30)
        assert 0.4 < seconds(lambda: store.get_run("a")) < 10
        left_alone(lambda: create(store, "0", "x"))
        left_alone(lambda: store.get_run("a"))
    assert dialled == ["127.0.0.1"]


def test_a_refused_port_is_given_up_soon(dialled: list[str]) -> None:
    with refused_port() as uri:
        store = RestStore(Endpoint.find(uri), connect_timeout=1, timeout=30)
        with pytest.raises(StoreUnavailable, match=r"cannot reach .*refused.*is it running"):
            store.get_run("a")
        left_alone(lambda: store.get_run("a"))
        assert len(dialled) == 1
        store.close()  # and is tried again at once after that
        with pytest.raises(StoreUnavailable, match="cannot reach"):
            store.get_run("a")


def test_a_host_that_is_not_there() -> None:
    store = RestStore(Endpoint.find("http://no-such-host.invalid:5000"), connect_timeout=2, timeout=2)
    with pytest.raises(StoreUnavailable, match=r"cannot reach the MLflow server at http://no-such-host\.invalid:5000"):
        store.get_run("a")


def test_a_name_server_that_does_not_answer(dialled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def look_up(*args: object) -> list[object]:
        if args[5]:
            raise socket.gaierror
        asked.wait(20)
        return []

    # No test can take the machine's name server away.
    monkeypatch.setattr("tracklayer.store.connection.socket.getaddrinfo", look_up)
    store = RestStore(Endpoint.find("http://mlflow.example:5000"), connect_timeout=0.3, timeout=30)
    try:
        assert 0.2 < seconds(lambda: store.get_run("a")) < 10
    finally:
        asked.set()
    assert dialled == ["mlflow.example"]


def test_the_second_address_of_a_host_is_tried(
    mlflow_server: MlflowServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole() as uri:
        dead = int(uri.rpartition(":")[2])

        def look_up(host: str, *args: object) -> list[object]:
            if args[4]:
                raise socket.gaierror
            tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*tcp, ("127.0.0.1", dead)), (*tcp, ("127.0.0.1", mlflow_server.port))]

        monkeypatch.setattr("tracklayer.store.connection.socket.getaddrinfo", look_up)
        store = RestStore(Endpoint.find(f"http://localhost:{mlflow_server.port}"), connect_timeout=4, timeout=20)
        begin = time.monotonic()
        assert store.get_run(run.run_id) == run
        assert 1.9 < time.monotonic() - begin < 20


def test_a_frozen_server_costs_two_timeouts_in_all(mlflow_server: MlflowServer, run: Run) -> None:
    store = RestStore(Endpoint.find(mlflow_server.uri), timeout=0.4)
    mlflow_server.freeze()
    try:
        for _ in range(2):
            assert 0.3 < seconds(lambda: store.get_run(run.run_id)) < 10
        left_alone(lambda: store.get_run(run.run_id))
    finally:
        mlflow_server.thaw()
    store.close()
    patient = RestStore(Endpoint.find(mlflow_server.uri), timeout=20)
    assert patient.get_run(run.run_id) == run


def test_one_slow_answer_is_no_reason_to_give_up(
    proxy: RecordingProxy, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RestStore(Endpoint.find(proxy.uri), timeout=2)
    proxy.silence("runs/search")
    with pytest.raises(StoreUnavailable, match="did not search runs within 2 s"):
        store.search_runs(["0"])
    monkeypatch.setattr(store._transport, "_timeout", 20.0)
    assert store.get_run(run.run_id) == run


def test_a_server_that_is_back_is_noticed(proxy: RecordingProxy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RestStore(Endpoint.find(proxy.uri), timeout=20)
    now = time.monotonic()
    monkeypatch.setattr(store._transport._breaker, "_clock", lambda: now)
    with proxy.refused(), pytest.raises(StoreUnavailable, match="cannot reach"):
        store.get_run(run.run_id)
    with pytest.raises(StoreUnavailable, match="left alone"):
        store.get_run(run.run_id)
    monkeypatch.setattr(store._transport._breaker, "_clock", lambda: now + 31)
    assert store.get_run(run.run_id) == run
    assert store.get_run(run.run_id) == run


# What is not MLflow


def test_a_login_page_is_not_taken_for_an_answer(store: RestStore, proxy: RecordingProxy) -> None:
    proxy.answer(200, HTML)
    with pytest.raises(StoreError, match="is a web page, not MLflow's REST API: check the tracking URI") as failure:
        store.get_run("a")
    assert not isinstance(failure.value, StoreUnavailable)
    assert len(proxy.calls) == 1


def test_a_redirect_says_where_to(store: RestStore, proxy: RecordingProxy) -> None:
    proxy.answer(302, headers={"Location": "https://ann:s3cret@sso.example/login?token=s3cret"})
    with pytest.raises(StoreError, match=r"redirects to https://sso\.example/login: set the tracking URI") as failure:
        store.get_run("a")
    assert "s3cret" not in str(failure.value)


def test_a_wrong_path(mlflow_server: MlflowServer) -> None:
    store = RestStore(Endpoint.find(f"{mlflow_server.uri}/mlflow"), timeout=20)
    with pytest.raises(
        StoreError, match=r"no MLflow REST API at http://127\.0\.0\.1:\d+/mlflow .*check the tracking URI"
    ):
        store.get_run("a")


def test_a_host_name_that_the_server_does_not_answer_to(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(host: str, port: int, *args: int) -> list[object]:
        if args[3]:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("tracklayer.store.connection.socket.getaddrinfo", look_up)
    store = RestStore(Endpoint.find(f"http://mlflow.example:{mlflow_server.port}"), timeout=20)
    with pytest.raises(AccessDenied, match=r"start it with --allowed-hosts mlflow\.example"):
        store.ping()


# Connections and processes


def test_requests_share_a_connection(
    store: RestStore, proxy: RecordingProxy, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_LIMIT", 60.0)
    run = create(store, experiment, "alive")
    store.log_batch(run.run_id, params={"p": "1"})
    store.update_run(run.run_id, status="FINISHED", end_time=2)
    assert proxy.calls == ["POST runs/create", "POST runs/log-batch", "POST runs/update"]
    assert len({request.connection for request in proxy.requests}) == 1


def test_a_server_below_a_path(proxy: RecordingProxy, experiment: str) -> None:
    def without_prefix(handler: Any) -> Any:
        assert handler.path.startswith("/tools/mlflow/")
        handler.path = handler.path.removeprefix("/tools/mlflow")
        return handler.forwarded()

    proxy.fault(without_prefix, times=100)
    store = RestStore(Endpoint.find(f"{proxy.uri}/tools/mlflow/"), timeout=20)
    assert store.ping()
    run = create(store, experiment, "below")
    store.log_artifact(run, "a/b.txt", b"b")
    assert store.read_artifact(run, "a/b.txt") == b"b"


def test_a_search_everywhere_asks_for_the_newest_experiment_only(store: RestStore, proxy: RecordingProxy) -> None:
    assert store.search_runs([], "tags.none = '1'") == []
    assert proxy.calls == ["POST experiments/search", "POST runs/search"]
    assert proxy.requests[0].json["max_results"] == 1


def test_experiments_whose_ids_are_not_counted_are_listed(store: RestStore, proxy: RecordingProxy) -> None:
    page = {"experiments": [{"experiment_id": "839254116071936021", "name": "x"}]}
    proxy.answer(200, json.dumps(page).encode(), path="experiments/search", times=2, headers=JSON)
    store.search_runs([], "tags.none = '1'")
    assert proxy.calls == ["POST experiments/search", "POST experiments/search", "POST runs/search"]
    assert proxy.requests[-1].json["experiment_ids"] == ["839254116071936021"]


def test_a_fork_uses_connections_of_its_own(proxy: RecordingProxy, run: Run) -> None:
    script = f"""
import os, sys
from tracklayer.store.opening import open_store
store = open_store({proxy.uri!r}, timeout=20)
store.log_batch({run.run_id!r}, tags={{"parent": "1"}})
child = os.fork()
if child == 0:
    store.log_batch({run.run_id!r}, tags={{"child": "1"}})
    same = open_store({proxy.uri!r}, timeout=20) is store
    os._exit(7 if same else 0)
store.log_batch({run.run_id!r}, tags={{"parent": "2"}})
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    sent = {request.json["tags"][0]["key"]: request.connection for request in proxy.requests}
    assert sent["child"] != sent["parent"]
    assert len(proxy.requests) == 3


def test_neither_mlflow_nor_requests_is_imported(proxy: RecordingProxy, run: Run) -> None:
    script = f"""
import sys
from tracklayer.store.opening import open_store
store = open_store({proxy.uri!r}, timeout=20)
store.log_batch({run.run_id!r}, params={{"p": "1"}})
run = store.get_run({run.run_id!r})
store.log_artifact(run, "a.txt", b"x")
print([name for name in ("mlflow", "requests", "pandas", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout == "[]\n"


# Secrets


def test_no_failure_shows_a_password(
    proxy: RecordingProxy, run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    uri = proxy.uri.replace("http://", "http://ann:s3cr%2Fet@")
    told: list[str] = []

    def note(store: RestStore, action: Callable[[RestStore], object]) -> None:
        try:
            told.append(repr(action(store)))
        except StoreError as error:
            told.extend(traceback.format_exception(error))

    for fault in ("lost", "half", "truncated", "reset", "silence"):
        store = RestStore(Endpoint.find(uri), timeout=0.3)
        getattr(proxy, fault)(times=9)
        note(store, lambda store: store.get_run(run.run_id))
        proxy.forget()
    for status in (200, 302, 400, 401, 403, 404, 413, 429, 500, 503):
        store = RestStore(Endpoint.find(uri), timeout=0.3)
        proxy.answer(status, HTML, times=9)
        note(store, lambda store: store.get_run(run.run_id))
        proxy.forget()
    with proxy.refused():
        note(RestStore(Endpoint.find(uri), timeout=0.3), lambda store: store.get_run(run.run_id))
    store = RestStore(Endpoint.find(uri), timeout=20)
    told += [repr(store), store.uri, repr(store._endpoint), repr(vars(store)), store.get_run(run.run_id).run_id]
    assert proxy.requests[-1].headers["authorization"] == "Basic YW5uOnMzY3IvZXQ="
    everything = "\n".join(told) + caplog.text
    assert run.run_id in everything
    for secret in ("s3cr", "YW5uOnMzY3IvZXQ"):
        assert secret not in everything
    assert "s3cr" not in str(os.environ)
