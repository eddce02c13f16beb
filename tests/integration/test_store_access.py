"""Credentials, TLS and proxies, as MLflow's own variables give them, against real servers that want them."""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from harness.certificates import Authority
from harness.guarded import ADMIN, PASSWORD
from harness.proxy import RecordingProxy
from tracklayer.exceptions import AccessDenied, SettingsError, StoreError, StoreUnavailable
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from tracklayer.store import Store


def opened(uri: str) -> Store:
    return open_store(uri, connect_timeout=5, timeout=20)


# MLflow's own basic authentication


def test_without_credentials(guarded: MlflowServer) -> None:
    with pytest.raises(AccessDenied, match=r"wants credentials \(401\): set MLFLOW_TRACKING_USERNAME and"):
        opened(guarded.uri).ping()


def test_with_the_variables_of_mlflow(guarded: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    store = opened(guarded.uri)
    assert store.ping()
    run = store.create_run(store.create_experiment("mine", {}), name="r", start_time=1, tags={})
    store.log_artifact(run, "a.txt", b"a")
    assert store.read_artifact(run, "a.txt") == b"a"


def test_with_credentials_in_the_uri(guarded: MlflowServer) -> None:
    uri = guarded.uri.replace("http://", "http://admin:S3cret%2Fpass%3Aword@")
    store = opened(uri)
    assert store.ping()
    assert store.uri == guarded.uri
    assert "S3cret" not in repr(store)


def test_with_a_credentials_file(guarded: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = {ADMIN}\nmlflow_tracking_password = {PASSWORD}\n"
    )
    assert opened(guarded.uri).ping()


def test_a_wrong_password_is_named_and_not_shown(guarded: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng-password")
    store = opened(guarded.uri)
    with pytest.raises(AccessDenied) as failure:
        store.create_run("0", name="r", start_time=1, tags={})
    assert "refused the credentials of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (401)" in str(
        failure.value
    )
    assert "wr0ng" not in str(failure.value)
    assert guarded.uri in str(failure.value)


def test_a_changed_password_is_noticed(guarded: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng-password")
    with pytest.raises(AccessDenied):
        opened(guarded.uri).ping()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert opened(guarded.uri).ping()


def test_a_user_who_may_only_read(guarded: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "r34der-password")
    with pytest.raises(AccessDenied, match="create the run") as failure:
        opened(guarded.uri).create_run("0", name="r", start_time=1, tags={})
    assert "r34der" not in str(failure.value)


# Headers


def test_a_token_and_a_workspace_are_sent(recording_proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc.def")
    monkeypatch.setenv("MLFLOW_WORKSPACE", " team-rail ")
    recording_proxy.answer(200, b'{"experiments": []}', times=9)
    opened(recording_proxy.uri).search_experiments()
    headers = recording_proxy.requests[0].headers
    assert headers["authorization"] == "Bearer abc.def"
    assert headers["x-mlflow-workspace"] == "team-rail"


def test_the_server_without_workspaces_says_so(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-rail")
    with pytest.raises(StoreError, match=r"(?i)workspace"):
        opened(mlflow_server.uri).search_experiments()


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(mlflow_server: MlflowServer, authority: Authority) -> Iterator[RecordingProxy]:
    with RecordingProxy(mlflow_server.uri, tls=authority.server_context()) as proxy:
        yield proxy


def test_a_server_whose_authority_nobody_knows(secure: RecordingProxy) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be verified: set MLFLOW_TRACKING_SERVER_CERT_PATH"):
        opened(secure.uri).ping()
    assert secure.requests == []


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE"])
def test_an_authority_of_our_own(
    secure: RecordingProxy, authority: Authority, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(authority.bundle))
    assert opened(secure.uri).ping()


def test_another_authority(secure: RecordingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(Authority(tmp_path / "other").bundle))
    with pytest.raises(StoreUnavailable, match="cannot be verified"):
        opened(secure.uri).ping()


def test_a_certificate_for_another_name(
    mlflow_server: MlflowServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.bundle))
    with (
        RecordingProxy(mlflow_server.uri, tls=authority.server_context("mlflow.example")) as proxy,
        pytest.raises(StoreUnavailable, match="cannot be verified"),
    ):
        opened(proxy.uri).ping()


def test_no_verification_if_asked_for(secure: RecordingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert opened(secure.uri).ping()


def test_a_certificate_of_the_client(
    mlflow_server: MlflowServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.bundle))
    with RecordingProxy(mlflow_server.uri, tls=authority.server_context(clients=True)) as proxy:
        with pytest.raises(StoreUnavailable):
            opened(proxy.uri).ping()
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(authority.certificate("client")))
        assert opened(proxy.uri).ping()


def test_a_file_that_holds_no_certificate(
    secure: RecordingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "ca.pem"))
    with pytest.raises(StoreError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
        opened(secure.uri).ping()


def test_a_file_that_is_not_there(secure: RecordingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "/no/such/file.pem")
    with pytest.raises(SettingsError, match=r"MLFLOW_TRACKING_SERVER_CERT_PATH names /no/such/file\.pem"):
        opened(secure.uri)


def test_a_server_without_tls(mlflow_server: MlflowServer) -> None:
    with pytest.raises(StoreUnavailable, match="should the tracking URI begin with http://"):
        opened(mlflow_server.uri.replace("http://", "https://")).ping()


# Proxies, which no test may reach the world by: the host behind it is one that only the proxy knows.


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, str | None]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.command, self.path, self.headers["Proxy-Authorization"]))
        body = b'{"experiments": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.seen.append((self.command, self.path, self.headers["Proxy-Authorization"]))
        self.send_error(403)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def forward() -> Iterator[tuple[str, list[tuple[str, str, str | None]]]]:
    seen: list[Any] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Forward", (_Forward,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_proxy_is_gone_through(
    forward: tuple[str, list[tuple[str, str, str | None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = forward
    monkeypatch.setenv("HTTP_PROXY", f"http://ann:pr0xy%40@{address}")
    assert opened("http://mlflow.internal:5000").search_experiments() == []
    login = "Basic " + base64.b64encode(b"ann:pr0xy@").decode()
    assert seen == [("POST", "http://mlflow.internal:5000/api/2.0/mlflow/experiments/search", login)]


def test_a_proxy_that_refuses_the_tunnel(
    forward: tuple[str, list[tuple[str, str, str | None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = forward
    monkeypatch.setenv("HTTPS_PROXY", f"http://ann:pr0xy@{address}")
    with pytest.raises(StoreUnavailable, match=r"through the proxy of the \*_proxy variables") as failure:
        opened("https://mlflow.internal").search_experiments()
    assert "pr0xy" not in str(failure.value)
    assert {path for _, path, _ in seen} == {"mlflow.internal:443"}


def test_no_proxy_for_this_machine(
    forward: tuple[str, list[tuple[str, str, str | None]]], mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{forward[0]}")
    assert opened(mlflow_server.uri).ping()
    assert opened(mlflow_server.uri.replace("127.0.0.1", "localhost")).ping()
    assert forward[1] == []
