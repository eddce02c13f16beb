"""Forks, spawned processes and threads log inside a stage, and very many points are logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from harness.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_700)]

POINTS = 100_000

LONG = 1_200.0
"""Seconds that a million points may take: two or three minutes where a machine does nothing else."""


@pytest.mark.parametrize("away", [False, True], ids=["server there", "server away"])
@pytest.mark.parametrize("children", ["fork", "multiprocessing-fork", "spawn", "threads"])
def test_what_they_log_is_the_stages(
    victim: MlflowServer,
    scene: Callable[..., Scene],
    proxy_before: Callable[[str], RecordingProxy],
    children: str,
    away: bool,
) -> None:
    proxy = proxy_before(victim.uri)
    stage = scene(proxy.uri)
    if away:
        with proxy.refused():
            stage.ends_as_untracked(stage.start("a", children=children, rounds=1))
    else:
        stage.ends_as_untracked(stage.start("a", children=children, rounds=1))
    stage.deliver()
    assert stage.differences(victim) == []


@pytest.mark.parametrize(
    ("database", "points"), [("sqlite_victim", 1_000_000), ("postgres_victim", POINTS)], ids=["sqlite", "postgresql"]
)
def test_very_many_points(
    database: str, points: int, request: pytest.FixtureRequest, scene: Callable[..., Scene]
) -> None:
    server: MlflowServer = request.getfixturevalue(database)
    stage = scene(server.uri)
    task = stage.start("a", children="volume", points=points, rounds=0, stages=1)
    stage.ends_as_untracked(task, seconds=LONG)
    stage.deliver(seconds=LONG)
    assert stage.differences(server) == []


def test_very_many_points_while_the_server_is_away(
    sqlite_victim: MlflowServer, scene: Callable[..., Scene], proxy_before: Callable[[str], RecordingProxy]
) -> None:
    proxy = proxy_before(sqlite_victim.uri)
    stage = scene(proxy.uri)
    with proxy.refused():
        stage.ends_as_untracked(stage.start("a", children="volume", points=POINTS // 5, rounds=0, stages=1))
    stage.deliver(seconds=LONG)
    assert stage.differences(sqlite_victim) == []
