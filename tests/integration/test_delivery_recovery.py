"""What a process left behind is delivered by the next one, once, and its runs are ended."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest

from harness.leaving import BEGAN, opening_of, story
from tracklayer.backend import open_backend
from tracklayer.ending import end_instead
from tracklayer.exceptions import StoreError
from tracklayer.identity import key_tag, workflow_run_key
from tracklayer.journal import recovery as recovery_module
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.recovery import Recovery, left_behind
from tracklayer.parent import make_parent, settle_parents
from tracklayer.provisional import id_tag
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.backend import Backend
    from tracklayer.context import Status
    from tracklayer.store import Run, Store


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


def test_a_parent_whose_request_arrives_after_it_was_made_again_is_swept(
    settings: Settings, backend: Backend, proxy: RecordingProxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a server that is slow: the request of the process that was killed is carried out late."""
    key = workflow_run_key(opening_of(name).context.workflow_run)
    late: list[Run] = []

    def end_after_a_late_request(
        store: Store, run_id: str, status: Status, at: int, tags: Mapping[str, str], *, given: str
    ) -> bool:
        if not late:
            run = store.get_run(run_id)
            own = {key_tag(key): "1", "tracklayer.key": key}
            late.append(store.create_run(run.experiment_id, name="r1", start_time=BEGAN, tags=own))
        return end_instead(store, run_id, status, at, tags, given=given)

    monkeypatch.setattr(recovery_module, "end_instead", end_after_a_late_request)
    proxy.lost("runs/create", 1)
    story(settings, name, "now")
    recovered(settings, backend)
    check(backend, name)
    assert backend.store.get_run(late[0].run_id).deleted


@pytest.mark.parametrize("voted", [False, True], ids=["nobody had voted", "one had voted"])
def test_of_several_parents_one_is_left(backend: Backend, name: str, voted: bool) -> None:
    experiment_id = backend.store.create_experiment(name, {})
    key = f"test/{name}"
    rivals = [
        backend.store.create_run(experiment_id, name="r1", start_time=BEGAN + n, tags={key_tag(key): "1"})
        for n in range(3)
    ]
    chosen = rivals[0]
    if voted:
        told = {"name": "r1", "start_time": BEGAN, "tags": {}}
        chosen, _ = make_parent(backend.store, experiment_id, key, alone=False, **told)  # type: ignore[arg-type]
        late = backend.store.create_run(experiment_id, name="r1", start_time=BEGAN, tags={key_tag(key): "1"})
        assert settle_parents(backend.store, key) == [late.run_id]
    else:
        assert sorted(settle_parents(backend.store, key)) == sorted(run.run_id for run in rivals[1:])
    assert settle_parents(backend.store, key) == []
    assert [run.run_id for run in backend.store.search_runs([experiment_id])] == [chosen.run_id]
