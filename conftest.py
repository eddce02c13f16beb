"""What every test of core and plugins may ask for: real servers, and an environment without anybody's settings."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.backends import MISSING, Backend, backends
from harness.mlflow import MlflowServer
from harness.proxy import RecordingProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from _pytest.terminal import TerminalReporter

OURS = ("TRACKLAYER_", "MLFLOW_")
KEPT = ("TRACKLAYER_REQUIRE_BACKENDS", "TRACKLAYER_TEST_")
# Where Airflow, Prefect and matplotlib put files of their own when they are imported: not into the home of whoever runs the tests.
HOMES = ("AIRFLOW_HOME", "PREFECT_HOME", "MPLCONFIGDIR")


def pytest_configure(config: pytest.Config) -> None:
    try:
        backends()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if not getattr(config, "workerinput", None):  # xdist's workers inherit that of whoever began them
        _own_temporary_folder(config)


def _own_temporary_folder(config: pytest.Config) -> None:
    """What killed processes leave in the folder for temporary files goes with the tests that killed them.

    And so does what Airflow and its like put beside their settings.
    """
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTEST_DEBUG_TEMPROOT", os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()))
    folder = tempfile.mkdtemp(prefix="tl-")  # short: there are sockets in it
    Path(folder).chmod(0o711)  # PostgreSQL runs as another user than root
    patch.setenv("TMPDIR", folder)
    patch.setattr(tempfile, "tempdir", None)  # it is looked up anew
    for variable in HOMES:
        patch.setenv(variable, str(Path(folder, variable.lower())))
    patch.setenv("DO_NOT_TRACK", "true")  # nor does MLflow keep an id of its own there, or tell anybody of the tests
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(patch.undo)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, what takes long is begun first, and what waits is mixed with what computes: by the file's digest."""
    if not getattr(config, "workerinput", None):  # one after the other, the order is that of the folders
        return
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in long, hashlib.sha256(item.path.name.encode()).hexdigest()))


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: thousands of collections need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    reasons = Counter(
        str(report.longrepr[2]).partition(MISSING)[2].partition(";")[0]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and MISSING in str(report.longrepr[2])
    )
    if reasons:
        terminalreporter.section("back ends and means that were missing")
        for reason, tests in sorted(reasons.items()):
            terminalreporter.write_line(f"{reason}: {tests} test{'s' if tests > 1 else ''} skipped")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of whoever runs the tests: no variables, no settings file above the working directory."""
    for name in list(os.environ):
        if name.startswith(OURS) and not name.startswith(KEPT):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACKLAYER_JOURNAL", str(tmp_path / "journal"))
    # A busy machine is no server that is away; tests of outages say how patient they are.
    monkeypatch.setenv("TRACKLAYER_PATIENCE", "20")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # for settings that a test makes itself
    monkeypatch.chdir(tmp_path)
    yield
    recorders = sys.modules.get("tracklayer.journal.recorders")
    if recorders is not None:
        recorders.close_recorders()
    opening = sys.modules.get("tracklayer.store.opening")
    if opening is not None:
        opening.forget()


@pytest.fixture(scope="session")
def known_backends() -> Mapping[str, Backend]:
    return backends()


@pytest.fixture(scope="session")
def postgresql(known_backends: Mapping[str, Backend]) -> Backend:
    """PostgreSQL, where it is; ``postgresql.database()`` makes a database of a test's own."""
    return known_backends["postgresql"].need()


@pytest.fixture(scope="session")
def mysql(known_backends: Mapping[str, Backend]) -> Backend:
    """MySQL or MariaDB, where it is."""
    return known_backends["mysql"].need()


@pytest.fixture(scope="session")
def redis_uri(known_backends: Mapping[str, Backend]) -> str:
    """URI of a Redis database, where there is one."""
    return known_backends["redis"].need().uri


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server on SQLite, for all tests of the session: make experiments of your own in it."""
    folder = tmp_path_factory.mktemp("mlflow-sqlite")
    with MlflowServer(f"sqlite:///{folder / 'mlflow.db'}", folder) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_postgres(postgresql: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server on a PostgreSQL database of its own."""
    with (
        postgresql.database() as database,
        MlflowServer(database, tmp_path_factory.mktemp("mlflow-postgresql")) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def mlflow_mysql(mysql: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server on a MySQL or MariaDB database of its own."""
    with mysql.database() as database, MlflowServer(database, tmp_path_factory.mktemp("mlflow-mysql")) as server:
        yield server


@pytest.fixture
def proxy_before() -> Iterator[Callable[[str], RecordingProxy]]:
    """Puts a recording proxy before any server: ``proxy_before(uri)``."""
    proxies: list[RecordingProxy] = []

    def put(target: str) -> RecordingProxy:
        proxies.append(RecordingProxy(target))
        return proxies[-1]

    yield put
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def recording_proxy(mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy]) -> RecordingProxy:
    """A recording proxy before the MLflow server on SQLite."""
    return proxy_before(mlflow_server.uri)
