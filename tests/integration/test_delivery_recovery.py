"""What a process left behind is delivered by the next one, once, and its runs are ended."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest

from harness.leaving import story
from tracklayer.backend import open_backend
from tracklayer.exceptions import StoreError
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.recovery import Recovery, left_behind
from tracklayer.provisional import id_tag
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.backend import Backend
    from tracklayer.store import Run


@pytest.fixture
def proxy(mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy]) -> RecordingProxy:
    return proxy_before(mlflow_server.uri)


@pytest.fixture
def settings(proxy: RecordingProxy, tmp_path: Path) -> Settings:
    return Settings(tracking_uri=proxy.uri, journal=str(tmp_path / "journal"))


@pytest.fixture
def backend(settings: Settings) -> Backend:
    found = open_backend(settings)
    assert found
    return found


@pytest.fixture
def name() -> str:
    return f"recovery-{uuid.uuid4().hex[:12]}"


def recovered(settings: Settings, backend: Backend) -> None:
    (path,) = left_behind(settings, backend.store.uri)
    journal = LeftJournal.take(path)
    assert journal
    recovery = Recovery(journal, backend, settings)
    try:
        while recovery.step():
            pass
        assert recovery.delivery.held == {}
    finally:
        done = recovery.finish()
    assert done
    assert not list(left_behind(settings))
    folder = JournalFolder.of(settings)
    assert folder
    assert not list(folder.path.iterdir())


def stages(backend: Backend, name: str) -> dict[str, Run]:
    experiment = backend.store.get_experiment_by_name(name)
    assert experiment
    runs = backend.store.search_runs([experiment.experiment_id])
    named = {run.name: backend.store.get_run(run.run_id) for run in runs}
    assert len(named) == len(runs)
    return named


def check(backend: Backend, name: str) -> dict[str, Run]:
    runs = stages(backend, name)
    assert sorted(runs) == ["fold", "r1", "train"]
    assert runs["train"].params == {"lr": "0.1"}
    assert runs["fold"].tags["mlflow.parentRunId"] == runs["train"].run_id
    assert runs["train"].tags["mlflow.parentRunId"] == runs["r1"].run_id
    assert runs["fold"].metrics == {"loss": 2_499.0}
    assert backend.store.read_artifact(runs["train"], "notes/a.txt") == b"hello"
    return runs


@pytest.mark.parametrize("end", ["now", "flush"])
def test_a_killed_process_loses_nothing_and_leaves_no_run_open(
    settings: Settings, backend: Backend, name: str, end: str
) -> None:
    story(settings, name, end)
    recovered(settings, backend)
    runs = check(backend, name)
    for stage in ("train", "fold"):
        assert runs[stage].status == "KILLED"
        assert runs[stage].tags["tracklayer.outcome"] == "died"
        assert abs((runs[stage].end_time or 0) - time.time() * 1000) < 120_000


def test_a_run_that_was_left_open_on_purpose_stays_open(settings: Settings, backend: Backend, name: str) -> None:
    story(settings, name, "open")
    recovered(settings, backend)
    runs = check(backend, name)
    assert runs["train"].status == "RUNNING"
    assert runs["fold"].status == "FINISHED"


@pytest.mark.parametrize("end", ["now", "exit"])
def test_what_was_given_out_while_the_server_was_away_comes_to_be(
    settings: Settings, backend: Backend, proxy: RecordingProxy, name: str, end: str
) -> None:
    with proxy.refused():
        began = time.monotonic()
        local, nested = story(settings, name, end)
        assert time.monotonic() - began < 60
    backend.store.try_again()
    recovered(settings, backend)
    runs = check(backend, name)
    assert (id_tag(local) in runs["train"].tags, id_tag(nested) in runs["fold"].tags) == (True, True)
    assert runs["train"].status == ("KILLED" if end == "now" else "FINISHED")


def test_an_answer_that_the_dead_process_never_saw_leaves_no_second_run(
    settings: Settings, backend: Backend, proxy: RecordingProxy, name: str
) -> None:
    proxy.lost("runs/create", 2)
    story(settings, name, "now")
    proxy.lost("runs/create", 2)
    proxy.lost("runs/log-batch", 2)
    for _ in range(20):
        try:
            recovered(settings, backend)
        except StoreError:
            backend.store.try_again()
        else:
            break
    check(backend, name)
