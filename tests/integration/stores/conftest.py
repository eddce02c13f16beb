"""Every implementation of a store on every database that is there, with an experiment and a run in it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.backends import Backend
    from tracklayer.store import Run, Store

BACKENDS = ["mlflow_server", "mlflow_postgres", "mlflow_mysql", "library_sqlite", "library_postgresql"]


@pytest.fixture(scope="session")
def library_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of SQLite that the mlflow library serves in this very process."""
    return f"sqlite:///{tmp_path_factory.mktemp('library') / 'mlflow.db'}"


@pytest.fixture(scope="session")
def library_postgresql(postgresql: Backend) -> Iterator[str]:
    """The same in PostgreSQL."""
    with postgresql.database() as uri:
        yield uri


@pytest.fixture(params=BACKENDS)
def uri(request: pytest.FixtureRequest) -> str:
    """Each back end in turn."""
    backend = request.getfixturevalue(request.param)
    return backend if isinstance(backend, str) else str(backend.uri)


@pytest.fixture
def store(uri: str) -> Store:
    """A store of that back end."""
    return open_store(uri, connect_timeout=5, timeout=30)


@pytest.fixture
def name() -> str:
    """A name that nothing has yet."""
    return f"contract-{uuid.uuid4().hex}"


@pytest.fixture
def experiment(store: Store, name: str) -> str:
    """Id of an experiment of the test's own."""
    return store.create_experiment(name, {"mlflow.note.content": "**für** alle"})


@pytest.fixture
def run(store: Store, experiment: str) -> Run:
    """A run in it."""
    return store.create_run(experiment, name="first", start_time=1_700_000_000_123, tags={"a": "1"})
