"""Where the tests of this folder track: a workflow of each test's own, on a real server."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tracklayer import RunContext, TaskRun, WorkflowRun
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.store import Store


@pytest.fixture
def uri(mlflow_server: object, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a real MLflow server, which is what the environment says."""
    address = str(mlflow_server.uri)  # type: ignore[attr-defined]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


@pytest.fixture
def store(uri: str) -> Store:
    """Says what is on that server."""
    return open_store(uri, connect_timeout=5, timeout=30)


@pytest.fixture
def workflow() -> str:
    """Name of a workflow of the test's own, and of its experiment."""
    return f"life-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def at(workflow: str) -> Callable[..., RunContext]:
    """Makes the context of a task in a run of that workflow: ``at("fit", try_number=2)``."""

    def context(task: str, *, run: str = "r1", **task_run: object) -> RunContext:
        return RunContext(
            workflow_run=WorkflowRun(orchestrator="test", workflow=workflow, run_id=run, description="# Flights"),
            task_run=TaskRun(task=task, **task_run),  # type: ignore[arg-type]
        )

    return context
