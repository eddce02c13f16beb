"""The database below the server is killed and started again, or locked; the server itself goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from harness.faults import STRICT, locked
from harness.mlflow import MlflowServer
from harness.postgres import PostgresCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresCluster]:
    """A PostgreSQL of its own: that of the machine belongs to everybody."""
    postgres = PostgresCluster(tmp_path_factory.mktemp("cluster"))
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.close()


def test_postgresql_is_killed_and_started_again(
    cluster: PostgresCluster, scene: Callable[..., Scene], tmp_path: Path
) -> None:
    with MlflowServer(cluster.uri, tmp_path / "server", environ=STRICT) as server:
        before, across = scene(server.uri), scene(server.uri)
        first = before.start("before", pauses=("train-0",))
        second = across.start("across", pauses=("train-0", "evaluate-0"))
        for task in (first, second):
            task.at("train-0")
        cluster.kill()
        for task in (first, second):
            task.go("train-0")
        before.ends_as_untracked(first)
        second.at("evaluate-0")
        cluster.start()
        second.go("evaluate-0")
        across.ends_as_untracked(second)
        for stage in (before, across):
            stage.deliver()
            assert stage.differences(server) == []


def test_sqlite_is_locked(sqlite_victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    stage = scene(sqlite_victim.uri)
    task = stage.start("a", pauses=("train-0", "evaluate-1"))
    task.at("train-0")
    with locked(sqlite_victim):
        task.go("train-0")
        task.at("evaluate-1")
        time.sleep(6)  # longer than SQLite waits for a lock
    task.go("evaluate-1")
    stage.ends_as_untracked(task)
    stage.deliver()
    assert stage.differences(sqlite_victim) == []
