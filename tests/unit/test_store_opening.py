from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tracklayer.exceptions import SettingsError, StoreError, StoreUnavailable
from tracklayer.store.library import LibraryStore
from tracklayer.store.models import ModelUri
from tracklayer.store.opening import absolute, forget, open_store
from tracklayer.store.rest import RestStore


def test_http_goes_over_rest_and_all_else_through_the_library() -> None:
    assert isinstance(open_store("http://mlflow:5000"), RestStore)
    assert isinstance(open_store(" HTTPS://mlflow "), RestStore)
    for uri in ("sqlite:///x.db", "postgresql://db/mlflow", "databricks", "databricks://me", "./mlruns", "plugin://x"):
        assert isinstance(open_store(uri), LibraryStore), uri


@pytest.mark.parametrize(
    ("name", "value"), [("MLFLOW_TRACKING_AUTH", "kubernetes"), ("MLFLOW_TRACKING_AWS_SIGV4", "true")]
)
def test_a_login_that_only_mlflow_knows(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert isinstance(open_store("http://mlflow:5000"), LibraryStore)


def test_one_store_for_each_uri_and_set_of_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store("http://mlflow:5000")
    assert open_store("http://mlflow:5000/") is first
    assert open_store("http://other:5000") is not first
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    assert open_store("http://mlflow:5000") is not first
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    assert open_store("http://mlflow:5000") is first
    forget()
    assert open_store("http://mlflow:5000") is not first


def test_relative_paths_mean_the_same_after_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert absolute("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute("./mlruns") == f"{tmp_path}/mlruns"
    assert absolute("sqlite:///:memory:") == "sqlite:///:memory:"
    assert absolute("file:///srv/x") == "file:///srv/x"
    store = open_store("sqlite:///mlflow.db")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir("sub")
    assert open_store("sqlite:///mlflow.db") is not store
    assert open_store("sqlite:///../mlflow.db").uri.endswith("mlflow.db")


@pytest.mark.parametrize("uri", ["", "  ", "http://"])
def test_no_uri(uri: str) -> None:
    with pytest.raises(SettingsError, match="tracking URI"):
        open_store(uri)


def test_opening_imports_neither_mlflow_nor_opens_anything() -> None:
    script = """
import socket, sys
def no(*args, **more): raise AssertionError("a connection")
socket.socket.connect = no
from tracklayer.store.opening import open_store
open_store("sqlite:///x.db"); open_store("http://mlflow:5000"); open_store("databricks")
print("mlflow" in sys.modules, "requests" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False False\n"
    assert not Path("x.db").exists()


def test_without_mlflow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(StoreError, match="needs the mlflow library: install mlflow") as failure:
        open_store("sqlite:///x.db").search_experiments()
    assert not isinstance(failure.value, StoreUnavailable)


def test_a_database_that_is_not_there_costs_one_knock_and_shows_no_password() -> None:
    from harness.proxy import black_hole, refused_port

    for nowhere in (black_hole, refused_port):
        with nowhere() as uri:
            store = LibraryStore(f"postgresql://ann:s3cret@{uri.removeprefix('http://')}/mlflow", connect_timeout=0.3)
            with pytest.raises(StoreUnavailable, match="cannot reach 127") as failure:
                store.search_experiments()
            assert "s3cret" not in str(failure.value) + repr(store)
            with pytest.raises(StoreUnavailable, match="left alone"):
                store.search_experiments()


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("models:/delays/3", ModelUri(name="delays", version="3")),
        ("models:/delays@champion", ModelUri(name="delays", alias="champion")),
        ("models:/main.ml.delays/12", ModelUri(name="main.ml.delays", version="12")),
        ("models:/flight%20delays/1", ModelUri(name="flight delays", version="1")),
        ("models:/m-0af3", ModelUri(model_id="m-0af3")),
        ("m-0af3", ModelUri(model_id="m-0af3")),
    ],
)
def test_names_of_models(uri: str, parts: ModelUri) -> None:
    assert ModelUri.parse(uri) == parts
