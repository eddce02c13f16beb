"""Credentials are revoked in the middle of a stage, and restored, or replaced by others."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from harness import found
from harness.faults import GuardedServer
from harness.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.backends import Backend
    from harness.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

USER = "worker"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    folder = tmp_path_factory.mktemp("guarded")
    with ExitStack() as stack:
        database = None
        if request.param == "postgresql":
            backend: Backend = request.getfixturevalue("postgresql")
            database = stack.enter_context(backend.database())
        server = stack.enter_context(GuardedServer(folder, database))
        server.create_user(USER, "first-password")
        yield server


def credentials(password: str) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password}


def is_there(server: GuardedServer, scene: Scene) -> None:
    """Wait until the server has a run of the scene.

    Credentials that are revoked while MLflow makes an experiment leave one that belongs to nobody (its answer is 500):
    only an administrator can mend that.
    """

    def there() -> bool:
        return any(run.label for run in found.runs_of(server, scene.workflow, login=server.admin))

    wait_for(there, 60, "run on the server")


def test_restored_while_the_stage_runs(guarded: GuardedServer, scene: Callable[..., Scene]) -> None:
    stage = scene(guarded.uri, environ=credentials("first-password"))
    task = stage.start("a", pauses=("train-0", "evaluate-0"))
    task.at("train-0")
    is_there(guarded, stage)
    guarded.set_password(USER, "other-password")
    task.go("train-0")
    task.at("evaluate-0")
    guarded.set_password(USER, "first-password")
    task.go("evaluate-0")
    stage.ends_as_untracked(task)
    stage.deliver()
    assert stage.differences(guarded, login=guarded.admin) == []


def test_revoked_for_good_and_delivered_with_others(guarded: GuardedServer, scene: Callable[..., Scene]) -> None:
    stage = scene(guarded.uri, environ=credentials("first-password"))
    try:
        task = stage.start("a", pauses=("train-0",))
        task.at("train-0")
        is_there(guarded, stage)
        guarded.set_password(USER, "other-password")
        task.go("train-0")
        later = stage.start("b", close=False)  # never had any that were good
        for one in (task, later):
            stage.ends_as_untracked(one)
        assert stage.left() != []
        stage.environ |= credentials("other-password")
        stage.deliver()
        assert stage.differences(guarded, login=guarded.admin, closed=False) == []
        closing = stage.start("closing", stages=0)
        stage.ends_as_untracked(closing)
        assert stage.differences(guarded, login=guarded.admin) == []
    finally:
        guarded.set_password(USER, "first-password")
