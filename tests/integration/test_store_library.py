"""What the mlflow library does not do by itself: fail soon, open a new database together, survive a fork."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tracklayer.exceptions import AccessDenied, StoreError, StoreUnavailable
from tracklayer.store.library import LibraryStore
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from harness.backends import Backend


@pytest.mark.parametrize("backend", ["postgresql", "mysql"])
def test_a_database_that_lets_nobody_in_says_so_at_once(backend: str, request: pytest.FixtureRequest) -> None:
    server: Backend = request.getfixturevalue(backend)
    with server.database() as uri:
        parts = urlsplit(uri)
        host, port = server.address
        wrong = f"{parts.scheme}://nobody_{uuid.uuid4().hex[:6]}:s3cr%2Fet@{host}:{port}{parts.path}"
        store = LibraryStore(wrong, timeout=5)
        begin = time.monotonic()
        with pytest.raises(AccessDenied, match="does not open") as failure:
            store.search_experiments()
        assert (
            time.monotonic() - begin < 30
        )  # mlflow is imported; by itself it would try for the better part of an hour
        assert f"{host}:{port}" in str(failure.value)
        for secret in ("s3cr/et", "s3cr%2Fet"):
            assert secret not in str(failure.value)


def test_a_database_that_is_not_there_says_so(postgresql: Backend) -> None:
    host, port = postgresql.address
    store = LibraryStore(
        f"postgresql+psycopg2://{urlsplit(postgresql.uri).netloc.rpartition('@')[0]}@{host}:{port}/no_such_db"
    )
    with pytest.raises(StoreUnavailable, match=r"no_such_db.*does not exist"):
        store.create_run("0", name="r", start_time=1, tags={})


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "mlflow.db", tmp_path):
        with pytest.raises(StoreUnavailable, match="sqlite"):
            LibraryStore(f"sqlite:///{path}", timeout=0.5).search_experiments()


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(StoreError, match="library that is not installed: pyodbc") as failure:
        LibraryStore("mssql+pyodbc:///mlflow").search_experiments()
    assert not isinstance(failure.value, StoreUnavailable)


def test_a_folder_is_refused_as_mlflow_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"(?i)file.?store|filesystem"):
        open_store(str(tmp_path / "mlruns"), timeout=0.5).search_experiments()


STAGE = """
import os, sys
from tracklayer.exceptions import AlreadyExists
from tracklayer.store.opening import open_store
import mlflow
print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1])
try:
    experiment = store.create_experiment("together", {})
except AlreadyExists:
    experiment = store.get_experiment_by_name("together").experiment_id
store.create_run(experiment, name="r", start_time=1, tags={})
"""


def test_processes_open_a_new_file_together(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STAGE, uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    ends = [process.communicate("go\n", timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(errors for _, errors in ends)
    store = open_store(uri)
    experiment = store.get_experiment_by_name("together")
    assert experiment
    assert len(store.search_runs([experiment.experiment_id])) == 4


FORK = """
import os, sys
from tracklayer.store.opening import open_store
store = open_store(sys.argv[1])
experiment = store.create_experiment("fork", {})
child = os.fork()
mine = open_store(sys.argv[1])
assert (mine is store) == bool(child)
for number in range(25):
    run = mine.create_run(experiment, name=f"{'parent' if child else 'child'}-{number}", start_time=1, tags={})
    mine.log_batch(run.run_id, params={"number": str(number)})
    assert mine.get_run(run.run_id).params == {"number": str(number)}
    if not child and number == 20:
        assert store.get_run(run.run_id).run_id == run.run_id  # the one that was inherited works too
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(len(store.search_runs([experiment])))
"""


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_fork_has_connections_of_its_own(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def check(uri: str) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORK, uri], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "50\n"

    if backend == "sqlite":
        check(f"sqlite:///{tmp_path / 'mlflow.db'}")
    else:
        server: Backend = request.getfixturevalue(backend)
        with server.database() as uri:
            check(uri)
