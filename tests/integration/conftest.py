"""Fixtures for the tests of what MLflow's own calls do inside stages, of reconciling, and of the journal's files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness.faults import disk
from harness.forgiving import Forgiving
from harness.guarded import guarded_server
from harness.line import Line
from harness.orchestrator import VARIABLE, Truth
from harness.patience import patient
from harness.pipeline import Pipeline
from harness.world import World
from tracklayer.backend import open_backend
from tracklayer.journal.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.backend import Backend
    from tracklayer.settings import Settings


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking URI that the mlflow library serves in this very process; one database for all tests of the session."""
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'mlflow.db'}"


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server that wants credentials; see `harness.guarded`."""
    with guarded_server(tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture
def fresh_mlflow() -> Iterator[None]:
    """MLflow as in a new process: no experiment set, no tracking URI, no run active."""
    yield
    import mlflow
    from mlflow.tracking import fluent

    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # MLflow takes it for "none"
    fluent._active_experiment_id = None
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]  # else traces go to the tracking URI of the test before
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]


@pytest.fixture
def line(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], fresh_mlflow: None
) -> Iterator[Line]:
    """A way to the MLflow server on SQLite that can be cut, and is mended in the end; MLflow's own calls take it."""
    import mlflow

    line = Line(mlflow_server, proxy_before(mlflow_server.uri))
    mlflow.set_tracking_uri(line.proxy.uri)
    yield line
    line.mend()


@pytest.fixture
def proxy(mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy]) -> RecordingProxy:
    """A way to the MLflow server on SQLite that can injure or record requests."""
    return proxy_before(mlflow_server.uri)


@pytest.fixture
def settings(proxy: RecordingProxy, tmp_path: Path) -> Settings:
    """Tracking through the proxy, with a journal of the test's own, and enough patience for a busy machine."""
    return patient(proxy.uri, journal=str(tmp_path / "journal"))


@pytest.fixture
def backend(settings: Settings) -> Backend:
    """The tracking back end of these settings."""
    found = open_backend(settings)
    assert found
    return found


@pytest.fixture
def recorder(backend: Backend, settings: Settings) -> Iterator[Recorder]:
    """What records a stage with these settings."""
    made = Recorder(backend, settings)
    yield made
    made.close()


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that count requests: on a busy machine an end comes late, which takes two more than one in good time."""
    monkeypatch.setattr("tracklayer.journal.late_ends.LATE", 60_000)


@pytest.fixture
def away(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], fresh_mlflow: None
) -> tuple[Pipeline, RecordingProxy]:
    """A pipeline that is tracked through a proxy which can be made to go away, and asks the server itself."""
    from mlflow import MlflowClient

    proxy = proxy_before(mlflow_server.uri)
    pipeline = Forgiving(proxy.uri)
    pipeline.client = MlflowClient(mlflow_server.uri)
    return pipeline, proxy


@pytest.fixture(params=["http", "sqlite"])
def pipeline(request: pytest.FixtureRequest, fresh_mlflow: None) -> Pipeline:
    """A pipeline that is tracked on a real MLflow server, and then in a database through the mlflow library."""
    server = request.param == "http"
    return Pipeline(request.getfixturevalue("mlflow_server").uri if server else request.getfixturevalue("sqlite_uri"))


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Truth:
    """What the orchestrator of `harness.orchestrator` says, for a test to write down."""
    path = tmp_path / "truth.json"
    monkeypatch.setenv(VARIABLE, str(path))
    return Truth(path)


@pytest.fixture
def world(mlflow_server: MlflowServer, truth: Truth) -> World:
    """A world on the MLflow server on SQLite."""
    return World(mlflow_server.uri, truth)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    with disk(tmp_path / "disk", 262_144) as mounted:
        yield mounted
