"""The harness itself: what other tests rely on without looking."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.backends import backends
from harness.faults import clock_library, disk
from harness.process import Program, free_port, wait_for
from harness.proxy import RecordingProxy, black_hole, refused_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen.append(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass

    seen: list[bytes]


@pytest.fixture
def echo() -> Iterator[tuple[str, list[bytes]]]:
    seen: list[bytes] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Echo", (Echo,), {"seen": seen}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy(echo: tuple[str, list[bytes]]) -> Iterator[RecordingProxy]:
    with RecordingProxy(echo[0]) as proxy:
        yield proxy


def post(
    uri: str, path: str = "/api/2.0/mlflow/runs/create?a=1", body: bytes = b'{"x": 1}', timeout: float = 30
) -> bytes:
    request = urllib.request.Request(uri + path, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return bytes(answer.read())


def test_the_proxy_forwards_and_records(proxy: RecordingProxy) -> None:
    assert post(proxy.uri) == b'{"x": 1}'
    (request,) = proxy.requests
    assert str(request) == "POST runs/create"
    assert request.query == {"a": ["1"]}
    assert request.json == {"x": 1}
    assert request.headers["content-type"] == "application/json"
    assert request.status == 200


def test_a_fault_hits_the_requests_it_names_and_no_others(proxy: RecordingProxy) -> None:
    proxy.answer(503, b"later", path="runs/create", headers={"Retry-After": "3"})
    post(proxy.uri, "/api/2.0/mlflow/runs/update")
    with pytest.raises(urllib.error.HTTPError) as failure:
        post(proxy.uri)
    assert failure.value.code == 503
    assert failure.value.headers["Retry-After"] == "3"
    failure.value.close()
    assert post(proxy.uri)


def test_a_lost_answer_reached_the_server(proxy: RecordingProxy, echo: tuple[str, list[bytes]]) -> None:
    proxy.lost()
    with pytest.raises((ConnectionResetError, urllib.error.URLError)):
        post(proxy.uri, body=b"committed")
    assert echo[1] == [b"committed"]


def test_a_reset_did_not_reach_the_server(proxy: RecordingProxy, echo: tuple[str, list[bytes]]) -> None:
    proxy.reset()
    with pytest.raises((ConnectionResetError, urllib.error.URLError)):
        post(proxy.uri)
    assert echo[1] == []


def test_a_request_is_recorded_before_its_connection_is_reset(proxy: RecordingProxy) -> None:
    recorded: list[list[str]] = []

    def reset(handler: Any) -> None:
        handler.reset()
        recorded.append(proxy.calls)

    proxy.fault(reset)
    with pytest.raises((ConnectionResetError, urllib.error.URLError)):
        post(proxy.uri)
    wait_for(lambda: bool(recorded), 30, "reset")
    assert recorded == [["POST runs/create"]]


def test_half_an_answer(proxy: RecordingProxy) -> None:
    proxy.half()
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        post(proxy.uri)
    proxy.truncated()
    assert post(proxy.uri, body=b"12345678") == b"1234"


def test_silence(proxy: RecordingProxy) -> None:
    proxy.silence()
    with pytest.raises(TimeoutError):
        post(proxy.uri, timeout=0.2)


def test_refused_for_a_while(proxy: RecordingProxy) -> None:
    with proxy.refused(), pytest.raises(urllib.error.URLError, match="refused"):
        post(proxy.uri)
    assert post(proxy.uri)


def test_dead_ends() -> None:
    with black_hole() as uri, socket.socket() as sock:
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.connect(("127.0.0.1", int(uri.rpartition(":")[2])))
    with refused_port() as uri, socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(("127.0.0.1", int(uri.rpartition(":")[2])))


def test_a_free_port_stays_free_for_a_server() -> None:
    port = free_port()
    with socket.socket() as sock, pytest.raises(OSError, match="in use"):
        sock.bind(("127.0.0.1", port))
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)
        with socket.create_server(("127.0.0.1", port)) as server:  # sets SO_REUSEADDR
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
            server.accept()[0].close()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# A program that starts another and ignores polite requests to end.
FAMILY = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def test_a_program_ends_with_its_children(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    program = Program([sys.executable, "-c", FAMILY, str(told)], log=tmp_path / "log")
    wait_for(lambda: told.exists() and bool(told.read_text()), 20, "child", program)
    child = int(told.read_text())
    assert alive(child)
    program.stop(patience=0.5)
    assert not alive(child)
    assert not program.running


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt", "pass"])
def test_a_program_ends_with_the_tests_however_those_end(tmp_path: Path, end: str) -> None:
    told = tmp_path / "pid"
    tests = f"""
import os, pathlib, signal, sys
from harness.faults import clock_library, disk
from harness.process import Program, wait_for
told = pathlib.Path({str(told)!r})
program = Program([sys.executable, "-c", "import os,pathlib,time; pathlib.Path({str(told)!r}).write_text(str(os.getpid())); time.sleep(600)"], log=told.with_name("log"))
wait_for(lambda: told.exists() and bool(told.read_text()), 20, "child", program)
{end}
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    subprocess.run([sys.executable, "-c", tests], env=environ, capture_output=True, timeout=60, check=False)
    child = int(told.read_text())
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_a_program_that_ends_too_early_is_told_with_what_it_said(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", "print('no such port')"], log=tmp_path / "log")
    with pytest.raises(RuntimeError, match="no such port"):
        wait_for(lambda: False, 20, "answer", program)
    program.stop()


def test_a_required_back_end_must_be_one_that_exists() -> None:
    with pytest.raises(ValueError, match=r"oracle.*may name postgresql, mysql, redis, mounts"):
        backends({"TRACKLAYER_REQUIRE_BACKENDS": "redis,oracle"})


@pytest.mark.parametrize("required", ["", "mounts,compiler"])
def test_a_missing_means_of_making_faults_is_skipped_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: str
) -> None:
    monkeypatch.setenv("TRACKLAYER_REQUIRE_BACKENDS", required)
    monkeypatch.setenv("PATH", str(tmp_path))  # no `cc`, no `mount`
    end: type[BaseException] = pytest.fail.Exception if required else pytest.skip.Exception
    with pytest.raises(end, match="compiler"):
        clock_library(tmp_path)
    with pytest.raises(end, match="mounts"), disk(tmp_path / "disk", 4096):
        pass


@pytest.mark.parametrize(("required", "outcome"), [("", "2 skipped"), ("mysql", "2 errors")])
def test_missing_back_ends_are_told_at_the_end_or_fail(tmp_path: Path, required: str, outcome: str) -> None:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text("def test_a(mysql): pass\ndef test_b(mysql): pass\n")
    with refused_port() as uri:
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "tests"),
            "TRACKLAYER_TEST_MYSQL": uri.replace("http", "mysql"),
            "TRACKLAYER_REQUIRE_BACKENDS": required,
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}"]
        told = subprocess.run(
            [*command, str(tmp_path)],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        ).stdout
    assert outcome in told
    if required:
        assert "TRACKLAYER_REQUIRE_BACKENDS asks for it" in told
    else:
        assert "back ends and means that were missing" in told
        assert "refused" in told
        assert "2 tests skipped" in told


def test_no_settings_of_whoever_runs_the_tests() -> None:
    assert not [name for name in os.environ if name.startswith(("TRACKLAYER_PARENT", "MLFLOW_TRACKING"))]
    assert not (Path.cwd() / "pyproject.toml").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
