"""A real Prefect server for the session, and an experiment for each test on a real MLflow server."""

from __future__ import annotations

import gc
import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.mlflow import MlflowServer

sys.path.insert(0, str(Path(__file__).parent))

from prefect_story import Story

from harness.process import Program


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Prefect's own clients leave sockets open (seen with untracked async flows too): that is no failure of ours."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <(socket|ssl):ResourceWarning"))


@pytest.fixture(scope="package")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server for these tests; whatever Prefect keeps goes to a folder that is thrown away."""
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        PREFECT_SERVER_MEMO_STORE_PATH,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    settings: dict[Any, Any] = {
        PREFECT_HOME: home,
        PREFECT_LOCAL_STORAGE_PATH: home / "storage",
        PREFECT_SERVER_MEMO_STORE_PATH: home / "memo_store.toml",
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_LOGGING_TO_API_ENABLED: False,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # else each flow run waits a second for its heart to stop
    }
    with temporary_settings(settings), prefect_test_harness(server_startup_timeout=180):
        gc.collect()
        gc.freeze()  # Prefect has been imported, and each test collects what it leaves behind
        yield


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> Story:
    """An experiment for the test, where no tracking URI is set."""
    name = f"prefect-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("TRACKLAYER_EXPERIMENT", name)
    return Story("", name)


@pytest.fixture
def orchestrated(prefect_server: None) -> Iterator[None]:
    """The Prefect server; what its clients left behind is collected here and not in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture
def story(orchestrated: None, mlflow_server: MlflowServer, untold: Story, monkeypatch: pytest.MonkeyPatch) -> Story:
    """An experiment for the test on the MLflow server of the session, to which everything is tracked."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    untold.uri = mlflow_server.uri
    return untold


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """The file into which the flow writes its process id when its task runs."""
    return tmp_path / "started"


@pytest.fixture
def start(story: Story, started: Path, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts the script beside the tests' Prefect server."""
    from prefect.settings import get_current_settings

    programs: list[Program] = []
    told = dict(get_current_settings().to_environment_variables(exclude_unset=True).items())
    environ = {**os.environ, **told, "STARTED": str(started)}

    def run(*arguments: str) -> Program:
        command = [sys.executable, str(Path(__file__).with_name("prefect_script.py")), *arguments]
        programs.append(Program(command, log=tmp_path / "log", environ=environ, cwd=tmp_path))
        return programs[-1]

    yield run
    for program in programs:
        program.stop()
