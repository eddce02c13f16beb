"""Servers that may be hurt, and scenes in which that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.faults import STRICT
from harness.mlflow import MlflowServer
from harness.scene import Scene
from harness.warm import Warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.backends import Backend


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that has imported everything, to fork user code from."""
    with Warm() as process:
        yield process


@pytest.fixture(scope="session")
def sqlite_victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server on SQLite that the tests of this folder may kill and freeze."""
    folder = tmp_path_factory.mktemp("victim-sqlite")
    with MlflowServer(f"sqlite:///{folder / 'mlflow.db'}", folder, environ=STRICT) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_victim(postgresql: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The same on PostgreSQL."""
    with (
        postgresql.database() as database,
        MlflowServer(database, tmp_path_factory.mktemp("victim-postgresql"), environ=STRICT) as server,
    ):
        yield server


@pytest.fixture(scope="module", params=["sqlite_victim", "postgres_victim"], ids=["sqlite", "postgresql"])
def victim(request: pytest.FixtureRequest) -> MlflowServer:
    """A server that may be hurt, on each database; whoever hurts it heals it."""
    server: MlflowServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def scene(warm: Warm, tmp_path: Path) -> Callable[..., Scene]:
    """Makes scenes: ``scene(uri)``, each with a folder of its own."""
    count = 0

    def make(uri: str, **options: object) -> Scene:
        nonlocal count
        count += 1
        return Scene(warm, tmp_path / f"scene{count}", uri, **options)  # type: ignore[arg-type]

    return make
