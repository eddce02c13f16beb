"""A process that lived for long is killed: what its journal said first is delivered, and removed, by then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from harness.leaving import opening_of
from harness.patience import patient
from tracklayer.exceptions import StoreUnavailable
from tracklayer.identity import UPSTREAM_TAG, upstream_tag
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import open_journal
from tracklayer.journal.operations import Begin, End, GivenOut, Header, LeftOpen, Log, Point
from tracklayer.journal.recovery import Recovery, left_behind
from tracklayer.provisional import EXPECTED_TAG, id_tag, provisional_id

if TYPE_CHECKING:
    from harness.mlflow import MlflowServer
    from tracklayer.backend import Backend
    from tracklayer.context import Status
    from tracklayer.journal.operations import Operation
    from tracklayer.settings import Settings
    from tracklayer.store import Run

LIMIT: Final = 1_048_576
"""Bytes for a journal: a segment is a sixteenth of it."""

MUCH: Final = """
from pathlib import Path
def much(log, flush):
    first = min(Path(settings.journal).rglob("*.seg"))
    for step in range(40_000):
        log(step)
        if step % 5_000 == 4_999:
            flush()
            if not first.exists():
                return
    raise SystemExit(f"{first} is still there")
"""

FLOW: Final = """
import os, signal, sys
from dataclasses import replace
from harness.leaving import opening_of
from harness.patience import patient
from tracklayer.backend import open_backend
from tracklayer.journal.operations import *
from tracklayer.journal.recorders import recorder_of
from tracklayer.provisional import provisional_id

uri, journal, name, limit = sys.argv[1:]
settings = patient(uri, journal=journal, journal_limit=int(limit))
recorder = recorder_of(open_backend(settings), settings)
stage = opening_of(name)
parent = recorder.begin(replace(stage.parent, context=replace(stage.parent.context, owns_workflow_run=True)), wait=20)
def fold(name):
    return recorder.create(
        Create(provisional_id(), parent.ref.experiment_id, name, 1_700_000_000_700, {}, parent.ref.run_id), wait=20
    ).run_id
over, again, left, at_work = map(fold, ("over", "again", "left", "at work"))
recorder.append(End(over, "FINISHED", 1_700_000_002_000))
recorder.append(End(again, "FINISHED", 1_700_000_002_000))
recorder.append(End(again, "RUNNING", None))
recorder.append(LeftOpen(left))
much(lambda step: recorder.append(Log(at_work, points=(Point("loss", step / 3, 1_700_000_001_000, step),))),
     recorder.flush)
os.kill(os.getpid(), signal.SIGKILL)
"""

SCRIPT: Final = """
import os, signal, sys
import tracklayer
from tracklayer.settings import load
settings = load()
with tracklayer.track("training") as run:
    run.log_metric("loss", 1.0)
    run.flush()
    if sys.argv[1:] == ["long"]:
        much(lambda step: run.log_metric("loss", step / 3, step=step), run.flush)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def settings(mlflow_server: MlflowServer, tmp_path: Path) -> Settings:
    return patient(mlflow_server.uri, journal=str(tmp_path / "journal"))


def runs_of(backend: Backend, name: str) -> dict[str, Run]:
    experiment = backend.store.get_experiment_by_name(name)
    assert experiment
    return {run.name: run for run in backend.store.search_runs([experiment.experiment_id])}


def taken_over(settings: Settings, backend: Backend, *, twice: bool = False, beginning: bool = False) -> None:
    """Deliver what was left behind, with its beginning or without; twice if the first to do so cannot remove it."""
    (path,) = left_behind(settings, backend.store.uri)
    for last in (False, True) if twice else (True,):
        journal = LeftJournal.take(path)
        assert journal
        first = journal.read(0)
        assert first
        assert any(isinstance(record.operation, Begin) for record in first) == beginning
        recovery = Recovery(journal, backend, settings)
        while recovery.step():
            pass
        if last:
            assert recovery.finish()
        else:
            journal.close(remove=False)


@pytest.mark.parametrize("twice", [False, True], ids=["at once", "by the second who tries"])
def test_an_orchestrators_parent_is_not_ended_with_one_of_its_processes(
    settings: Settings, backend: Backend, twice: bool
) -> None:
    name = f"remembered-{uuid.uuid4().hex[:12]}"
    told = [str(settings.tracking_uri), str(settings.journal), name, str(LIMIT)]
    done = subprocess.run(
        [sys.executable, "-c", MUCH + FLOW, *told],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Somebody has opened a run again that this process had ended: a later try that goes on in it.
    backend.store.update_run(runs_of(backend, name)["over"].run_id, status="RUNNING")
    taken_over(settings, backend, twice=twice)
    statuses = {run: one.status for run, one in runs_of(backend, name).items()}
    assert statuses == {"r1": "RUNNING", "over": "RUNNING", "again": "KILLED", "left": "RUNNING", "at work": "KILLED"}


@pytest.mark.parametrize("long", [True, False], ids=["a long life", "a short one"])
def test_the_parent_of_a_script_is_ended_with_its_process(
    settings: Settings, backend: Backend, tmp_path: Path, long: bool
) -> None:
    name = f"script_{uuid.uuid4().hex[:12]}"
    script = tmp_path / f"{name}.py"
    script.write_text(MUCH + SCRIPT)
    done = subprocess.run(
        [sys.executable, script, *(["long"] if long else [])],
        env={
            **os.environ,
            "TRACKLAYER_TRACKING_URI": str(settings.tracking_uri),
            "TRACKLAYER_JOURNAL": str(settings.journal),
            "TRACKLAYER_JOURNAL_LIMIT": str(LIMIT),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    taken_over(settings, backend, beginning=not long)
    runs = backend.store.search_runs([], f"tags.`tracklayer.workflow` = '{name}'")
    assert [run.status for run in runs] == ["KILLED", "KILLED"]
    assert all(abs((run.end_time or 0) - time.time() * 1000) < 120_000 for run in runs)


@pytest.mark.parametrize("much", [0, 100], ids=["one segment", "many"])
@pytest.mark.parametrize("before", ["left open", "ended"])
def test_a_run_that_its_process_has_begun_again_is_ended_with_it(
    settings: Settings, backend: Backend, before: str, much: int
) -> None:
    name = f"resumed-{uuid.uuid4().hex[:12]}"
    opening = opening_of(name)
    small = msgspec.structs.replace(settings, journal_limit=65_536)
    journal = open_journal(small, Header(1, backend.store.uri, "test", os.getpid(), opening.start_time))
    delivery = Delivery(journal, backend, small, recovering=False)
    identifier = provisional_id(opening.key)

    def deliver(operation: Operation) -> None:
        journal.append(operation)
        while delivery.step():
            pass

    deliver(Begin(identifier, opening))
    run_id = delivery.identities.known(identifier)
    assert run_id
    deliver(LeftOpen(run_id) if before == "left open" else End(run_id, "FINISHED", opening.start_time + 1))
    deliver(Begin(identifier, opening))
    for step in range(much):
        deliver(Log(run_id, tuple(Point("loss", step / 3, opening.start_time + n, n) for n in range(100))))
    journal.append(Log(run_id, params={"lr": "0.1"}))
    journal.close(remove=False)
    taken_over(settings, backend, beginning=not much)
    assert runs_of(backend, name)[opening.name].status == "KILLED"


@pytest.mark.parametrize("before", ["FINISHED", "RUNNING"])
def test_a_run_of_another_process_is_ended_with_the_one_that_opened_it_again(
    settings: Settings, backend: Backend, before: Status
) -> None:
    """As by ``mlflow.start_run(run_id=…)``. One that was open has somebody else at work with it, and stays open."""
    experiment = backend.store.create_experiment(f"reopened-{uuid.uuid4().hex[:12]}", {})
    ours, ended = (
        backend.store.create_run(experiment, name=name, start_time=1_700_000_000_000, tags={}).run_id
        for name in ("ours", "ended")
    )
    for run_id in (ours, ended):
        backend.store.update_run(run_id, status=before, end_time=1_700_000_001_000)
    journal = open_journal(settings, Header(1, backend.store.uri, "test", os.getpid(), 1_700_000_002_000))
    for run_id in (ours, ended):
        journal.append(End(run_id, "RUNNING", None))
    delivery = Delivery(journal, backend, settings, recovering=False)
    while delivery.step():
        pass
    journal.append(End(ended, "FINISHED", 1_700_000_003_000))
    journal.close(remove=False)
    taken_over(settings, backend)
    assert backend.store.get_run(ours).status == ("RUNNING" if before == "RUNNING" else "KILLED")
    assert backend.store.get_run(ended).status == "FINISHED"


class GoneOnce:
    """A store that is away from the moment on at which it has created a run of some name."""

    def __init__(self, store: Any, name: str) -> None:
        self._store = store
        self._name = name
        self._gone = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method

        def call(*args: Any, **more: Any) -> Any:
            if self._gone:
                raise StoreUnavailable("it is away")
            answer = method(*args, **more)
            self._gone = name == "create_run" and more.get("name") == self._name
            return answer

        return call


def test_a_run_is_linked_although_its_process_is_killed_just_when_it_has_created_it(
    settings: Settings, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others expected it, or named it by an id that was derived; it was given out while the server was away."""
    name = f"linked-{uuid.uuid4().hex[:12]}"
    derived, opening = provisional_id(f"{name} as others know it"), opening_of(name)
    experiment = backend.store.create_experiment(f"{name}-others", {})
    waiting, linked = (
        backend.store.create_run(experiment, name="other", start_time=opening.start_time, tags={key: "token"}).run_id
        for key in (EXPECTED_TAG + derived, upstream_tag(derived))
    )
    identifier = provisional_id(opening.key)
    journal = open_journal(settings, Header(1, backend.store.uri, "test", os.getpid(), opening.start_time))
    journal.append(Begin(identifier, replace(opening, tags={**opening.tags, id_tag(derived): "1"})))
    journal.append(GivenOut(identifier))
    journal.append(End(identifier, "FINISHED", opening.start_time + 1))
    delivery = Delivery(journal, backend, settings, recovering=False, given=identifier.__eq__)
    with monkeypatch.context() as patched:
        patched.setattr(backend, "store", GoneOnce(backend.store, opening.name))
        with pytest.raises(StoreUnavailable):
            deque(iter(delivery.step, False))
    run_id = delivery.identities.known(identifier)
    assert run_id
    journal.close(remove=False)
    taken_over(settings, backend, beginning=True)
    for consumer in (waiting, linked):
        links = {key for key in backend.store.get_run(consumer).tags if key.startswith((UPSTREAM_TAG, EXPECTED_TAG))}
        assert links == {upstream_tag(run_id)}
