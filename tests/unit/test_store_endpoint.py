from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from tracklayer.exceptions import SettingsError
from tracklayer.store.endpoint import Endpoint, without_credentials

if TYPE_CHECKING:
    from pathlib import Path


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("http://mlflow:5000/", "http://mlflow:5000"),
        ("https://mlflow.example/team/mlflow/", "https://mlflow.example/team/mlflow"),
        ("http://mlflow:80", "http://mlflow"),
        ("https://ann:pw@[::1]:5000/x", "https://[::1]:5000/x"),
        (" HTTP://MLflow:5000 ", "http://mlflow:5000"),
    ],
)
def test_the_address(uri: str, url: str) -> None:
    assert Endpoint.find(uri, {}).url == url


@pytest.mark.parametrize(
    "uri", ["mlflow:5000", "http://", "http:///x", "ftp://mlflow", "http://mlflow:port", "sqlite:///x"]
)
def test_what_is_no_address(uri: str) -> None:
    with pytest.raises(SettingsError, match="tracking URI"):
        Endpoint.find(uri, {})


def test_where_credentials_come_from(tmp_path: Path) -> None:
    (tmp_path / ".mlflow").mkdir()
    stored = tmp_path / ".mlflow" / "credentials"
    stored.write_text("[mlflow]\nmlflow_tracking_username = file\nmlflow_tracking_password = 50%off\n")
    environ = {"HOME": str(tmp_path), "MLFLOW_TRACKING_TOKEN": "t0ken"}
    uri = "https://mlflow.example"
    assert Endpoint.find(uri, environ).authorization == basic("file", "50%off")
    assert Endpoint.find(uri, {"MLFLOW_TRACKING_TOKEN": "t0ken"}).authorization == "Bearer t0ken"
    environ |= {"MLFLOW_TRACKING_USERNAME": "env", "MLFLOW_TRACKING_PASSWORD": "pä:ss"}
    assert Endpoint.find(uri, environ).authorization == basic("env", "pä:ss")
    assert Endpoint.find("https://uri:p%40ss@mlflow.example", environ).authorization == basic("uri", "p@ss")
    assert Endpoint.find(uri, {"MLFLOW_TRACKING_USERNAME": "only a name"}).authorization is None
    assert Endpoint.find(uri, {}).credentials_from is None
    assert "USERNAME" in (Endpoint.find(uri, environ).credentials_from or "")


def test_nothing_secret_is_shown() -> None:
    environ = {"MLFLOW_TRACKING_TOKEN": "t0ken", "HTTPS_PROXY": "http://ann:pr0xy@proxy:3128"}
    endpoint = Endpoint.find("https://ann@mlflow.example", environ)
    assert endpoint.authorization == "Bearer t0ken"
    assert endpoint.proxy == "http://ann:pr0xy@proxy:3128"
    for secret in ("t0ken", "pr0xy"):
        assert secret not in repr(endpoint) + endpoint.url


@pytest.mark.parametrize(
    "environ",
    [
        {"MLFLOW_TRACKING_TOKEN": "two\nlines-s3cret"},
        {"MLFLOW_WORKSPACE": "two\nlines-s3cret"},
        {"MLFLOW_TRACKING_INSECURE_TLS": "s3cret"},
        {"MLFLOW_TRACKING_CLIENT_CERT_PATH": "/no/such/file"},
        {"MLFLOW_TRACKING_INSECURE_TLS": "1", "MLFLOW_TRACKING_SERVER_CERT_PATH": "/"},
    ],
)
def test_variables_that_are_wrong_are_named(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(environ))) as failure:
        Endpoint.find("https://mlflow.example", environ)
    assert "s3cret" not in str(failure.value)


def test_a_credentials_file_that_cannot_be_read_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("s3cret without a section")
    with pytest.raises(SettingsError, match=r"\[mlflow\] section") as failure:
        Endpoint.find("http://mlflow.example", {"HOME": str(tmp_path)})
    assert "s3cret" not in str(failure.value)


@pytest.mark.parametrize(
    ("uri", "environ", "proxy"),
    [
        ("http://mlflow.example", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://mlflow.example", {"HTTP_PROXY": "http://p:1", "http_proxy": "http://q:1"}, "http://q:1"),
        ("http://mlflow.example", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://mlflow.example", {"ALL_PROXY": "p:1"}, "http://p:1"),
        ("https://mlflow.example", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.b, .example"}, None),
        ("https://mlflow.example", {"HTTPS_PROXY": "http://p:1", "no_proxy": "low.example"}, "http://p:1"),
        ("https://mlflow.example:8443", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "mlflow.example:443"}, "http://p:1"),
        ("https://mlflow.example:8443", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "mlflow.example:8443"}, None),
        ("http://10.1.2.3:5000", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://11.1.2.3:5000", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://p:1"),
        ("http://mlflow.example", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://127.0.0.1:5000", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://localhost:5000", {"ALL_PROXY": "http://p:1"}, None),
        ("http://[::1]:5000", {"ALL_PROXY": "http://p:1"}, None),
    ],
)
def test_proxies(uri: str, environ: dict[str, str], proxy: str | None) -> None:
    assert Endpoint.find(uri, environ).proxy == proxy


def test_a_proxy_of_another_kind() -> None:
    with pytest.raises(SettingsError, match="NO_PROXY") as failure:
        Endpoint.find("http://mlflow.example", {"ALL_PROXY": "socks5://ann:s3cret@p:1"})
    assert "s3cret" not in str(failure.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://ann:s3cret@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql://ann:s3c@ret@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://ann:s3c/ret@db/mlflow", "postgresql://db/mlflow"),
        (
            "postgresql://db/mlflow?user=ann&password=s3cret&sslmode=require",
            "postgresql://db/mlflow?user=ann&password=***&sslmode=require",
        ),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("http://mlflow:5000/a@b", "http://mlflow:5000/a@b"),
        ("http://[::1]:5000/a@b", "http://[::1]:5000/a@b"),
        ("databricks://profile", "databricks://profile"),
        ("databricks", "databricks"),
        ("/srv/mlruns", "/srv/mlruns"),
    ],
)
def test_uris_as_they_may_be_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown
