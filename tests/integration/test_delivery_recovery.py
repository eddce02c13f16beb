"""What a process left behind is delivered by the next one, once, and its runs are ended."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaving import BEGAN, opening_of, story
from harness.process import wait_for
from harness.proxy import Answer
from tracklayer.ending import end_instead
from tracklayer.exceptions import StoreError
from tracklayer.identity import key_tag, workflow_run_key
from tracklayer.journal import recovery as recovery_module
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.progress import TWICE
from tracklayer.journal.recorder import Recorder
from tracklayer.journal.recovery import Recovery, left_behind
from tracklayer.parent import make_parent, settle_parents
from tracklayer.provisional import id_tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from harness.proxy import RecordingProxy
    from tracklayer.backend import Backend
    from tracklayer.context import Status
    from tracklayer.settings import Settings
    from tracklayer.store import Run, Store


@pytest.fixture
def name() -> str:
    return f"recovery-{uuid.uuid4().hex[:12]}"


def taken(settings: Settings, backend: Backend) -> Recovery:
    (path,) = left_behind(settings, backend.store.uri)
    journal = LeftJournal.take(path)
    assert journal
    return Recovery(journal, backend, settings)


def recovered(settings: Settings, backend: Backend) -> None:
    recovery = taken(settings, backend)
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


@pytest.mark.parametrize("waits", ["an artifact", "a run"])
def test_what_died_is_ended_although_something_else_has_to_wait(
    settings: Settings, backend: Backend, proxy: RecordingProxy, name: str, waits: str
) -> None:
    """What stores artifacts may be away for days, and so may be the right to write to one run."""

    def deny(handler: Any) -> Answer:
        if b'"loss"' in handler.body:  # a metric of one of the runs
            return Answer(403, b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}')
        answer: Answer = handler.forwarded()
        return answer

    if waits == "an artifact":
        proxy.answer(500, path="/api/2.0/mlflow-artifacts", times=1_000)
    else:
        proxy.fault(deny, "runs/log-batch", 1_000)
    story(settings, name, "now")
    recovery = taken(settings, backend)
    while recovery.step():
        pass
    (held,) = recovery.delivery.held
    assert held.startswith("files:") == (waits == "an artifact")
    runs = stages(backend, name)
    assert (runs["train"].status, runs["train"].tags["tracklayer.outcome"]) == ("KILLED", "died")
    assert runs["fold"].status == ("KILLED" if waits == "an artifact" else "RUNNING")
    assert not recovery.finish()
    backend.store.update_run(runs["train"].run_id, status="RUNNING")  # somebody goes on with it, while the rest waits
    again = taken(settings, backend)
    while again.step():
        pass
    assert not again.finish()
    proxy.forget()
    recovered(settings, backend)
    assert {stage: run.status for stage, run in check(backend, name).items()} == {
        "train": "RUNNING",
        "fold": "KILLED",
        "r1": "RUNNING",  # its orchestrator's
    }


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_run_that_cannot_be_ended_keeps_no_other_from_its_end(
    settings: Settings, backend: Backend, proxy: RecordingProxy, name: str, status: int
) -> None:
    """Somebody has removed it for good (`mlflow gc`), or given it to others; or the server fails with it."""
    codes = {404: "RESOURCE_DOES_NOT_EXIST", 403: "PERMISSION_DENIED", 500: "INTERNAL_ERROR"}
    story(settings, name, "flush")
    recovery = taken(settings, backend)
    progress = recovery.journal.progress
    while recovery.delivery.step():
        pass
    gone, other = stages(backend, name)["train"].run_id, stages(backend, name)["fold"].run_id
    assert [named.run_id for named in progress.names.values()].index(gone) == 0
    for local in list(progress.names):
        progress.trying(TWICE + local)

    def answer(handler: Any) -> Answer:
        if gone in handler.path:
            return Answer(status, json.dumps({"error_code": codes[status], "message": "this one"}).encode())
        forwarded: Answer = handler.forwarded()
        return forwarded

    proxy.fault(answer, "runs/get", 1_000)
    if status == 404:
        assert not recovery.step()
    else:
        with pytest.raises(StoreError, match="this one"):
            recovery.step()
    proxy.forget()
    assert backend.store.get_run(other).status == "KILLED"
    assert recovery.finish() == (status == 404)
    if status != 404:
        recovered(settings, backend)
        assert backend.store.get_run(gone).status == "KILLED"


def test_what_is_left_behind_just_after_a_look_is_found_by_the_next_though_nothing_is_logged(
    settings: Settings, backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a look may have nothing to log for hours after it."""
    looks: list[float] = []

    def seen(*asked: Any) -> Iterator[Path]:
        looks.append(time.monotonic())
        return left_behind(*asked)

    monkeypatch.setattr(recovery_module, "left_behind", seen)
    monkeypatch.setattr(recovery_module, "AGAIN", 10.0)
    recorder = Recorder(backend, settings)
    began = time.monotonic()  # no later than what the looks are counted from
    try:
        recorder.look_around()
        wait_for(lambda: len(looks) == 1, 60, "the first look")
        story(settings, name, "now")
        recorder.look_around()  # too early, but on a very slow machine
        folder = JournalFolder.of(settings)
        assert folder
        wait_for(lambda: len(list(folder.path.iterdir())) == 1, 60, "its own journal alone")
        check(backend, name)
        assert len(looks) == 2
        assert looks[1] - began >= 10
    finally:
        recorder.close()
    assert list(folder.path.iterdir()) == []


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
