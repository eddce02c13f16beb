"""A script that forks: how its forks end says nothing about the script, whose end is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaving import BEGAN, opening_of
from harness.patience import patient
from tracklayer import RunContext, TaskRun, WorkflowRun, closing
from tracklayer.backend import open_backend
from tracklayer.closing import close
from tracklayer.context import SCRIPT
from tracklayer.creation import create
from tracklayer.identity import MEMBER_TAG, run_key, workflow_run_key
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Begin, End, Header
from tracklayer.journal.recovery import Recovery, Survey, left_behind
from tracklayer.provisional import provisional_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.backend import Backend
    from tracklayer.settings import Settings
    from tracklayer.store import Run, Store

ENDED = BEGAN + 2_000

PROGRAM = """
import json, os, signal, sys, time
import tracklayer
from tracklayer.store.opening import open_store

uri, how = sys.argv[1:]
script = os.getpid()

def leave():
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "_exit":
        os._exit(0)
    sys.exit(0)

def seen():
    parent = run.parent.run_id
    if uri:
        statuses.append(open_store(uri, connect_timeout=5, timeout=30).get_run(parent).status)

statuses = []
with tracklayer.track("training") as run:
    pid = os.fork()
    if pid == 0:
        with tracklayer.track("fold") as fold:
            fold.log_metrics({"loss": 1.0})
            while how == "outlives" and os.getppid() == script:
                time.sleep(0.05)
            if how == "killed within":
                fold.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        leave()
    if how != "outlives":
        os.waitpid(pid, 0)
        seen()
seen()
print(json.dumps([script, pid, statuses]), flush=True)
if how == "outlives":
    raise ValueError("after the stage")
"""


class Program:
    """The script above, which is a workflow of its own name."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"script_{uuid.uuid4().hex[:8]}.py"
        self.path.write_text(PROGRAM)

    def run(self, how: str, asking: str = "", code: int = 0, **environ: str) -> Any:
        """Run it until it, and its fork, have ended; gives the ids of the two, and what it has seen of its parent."""
        done = subprocess.run(
            [sys.executable, self.path, asking, how],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.path.parent,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def runs(self, store: Store) -> dict[str | None, Run]:
        """Its runs by their stages; the parent has none."""
        found = list(store.search_runs([], f"tags.`tracklayer.workflow` = '{self.path.stem}'"))
        runs = {run.tags.get("tracklayer.stage"): run for run in found}
        assert len(runs) == len(found)
        return runs


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.mark.parametrize("how", ["_exit", "exit", "killed", "killed within"])
def test_a_script_goes_on_after_its_fork_has_ended(
    program: Program, store: Store, uri: str, tmp_path: Path, how: str
) -> None:
    """The fork's journal, if it leaves one, is delivered when the stage ends."""
    _, _, statuses = program.run(how, uri, TRACKLAYER_JOURNAL=str(tmp_path / "journal"))
    assert statuses == ["RUNNING", "RUNNING"]
    runs = program.runs(store)
    fold = "KILLED" if how == "killed within" else "FINISHED"
    told = {stage: run.status for stage, run in runs.items()}
    assert told == {None: "FINISHED", "training": "FINISHED", "fold": fold}
    assert runs["fold"].tags["mlflow.parentRunId"] == runs["training"].run_id


def test_a_fork_that_outlives_its_script_does_not_end_it_once_more(program: Program, store: Store, uri: str) -> None:
    program.run("outlives", uri, code=1)
    runs = program.runs(store)
    told = {stage: run.status for stage, run in runs.items()}
    assert told == {None: "FAILED", "training": "FINISHED", "fold": "FINISHED"}
    assert (runs[None].end_time or 0) < (runs["fold"].end_time or 0)


@pytest.mark.parametrize("how", ["_exit", "exit", "killed"])
def test_what_a_fork_has_left_behind_does_not_end_the_script(
    program: Program, store: Store, proxy_before: Callable[[str], RecordingProxy], uri: str, tmp_path: Path, how: str
) -> None:
    """Both were cut off: the script's journal is delivered, and then that of its fork."""
    proxy = proxy_before(uri)
    settings = patient(proxy.uri, journal=str(tmp_path / "journal"))
    with proxy.refused():
        script, fork, _ = program.run(how, MLFLOW_TRACKING_URI=proxy.uri, TRACKLAYER_JOURNAL=str(settings.journal))
    first, second = (taken(settings, pid) for pid in (script, fork))
    assert Survey.of(second).scripts == {}
    backend = backend_of(settings)
    recover(first, backend, settings)
    before = program.runs(store)[None]
    assert before.status == "FINISHED"
    recover(second, backend, settings)
    runs = program.runs(store)
    assert (runs[None].status, runs[None].end_time) == ("FINISHED", before.end_time)
    assert (runs["fold"].status, runs["fold"].metrics) == ("FINISHED", {"loss": 1.0})
    assert list(left_behind(settings)) == []


def taken(settings: Settings, pid: int) -> LeftJournal:
    """The journal that this process has left."""
    (path,) = [path for path in left_behind(settings) if f"-{pid}-" in path.name]
    journal = LeftJournal.take(path)
    assert journal
    return journal


def backend_of(settings: Settings) -> Backend:
    backend = open_backend(settings)
    assert backend
    return backend


def recover(journal: LeftJournal, backend: Backend, settings: Settings) -> None:
    recovery = Recovery(journal, backend, settings)
    while recovery.step():
        pass
    assert recovery.finish()


class Forked:
    """A script, and a journal in which its fork, of a version that knew no better, took it for its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.backend = backend_of(settings)
        self.store = self.backend.store
        plain = opening_of(f"forked-{uuid.uuid4().hex[:12]}")
        self.context = RunContext(
            workflow_run=WorkflowRun(orchestrator=SCRIPT, workflow=plain.home, run_id="r1"),
            task_run=TaskRun(task="training"),
            owns_workflow_run=True,
        )
        key = workflow_run_key(self.context.workflow_run)
        assert plain.parent
        parent = replace(plain.parent, context=self.context.of_workflow_run(), key=key)
        opening = replace(plain, context=self.context, key=run_key(self.context), parent=parent)
        self.stage = create(opening, self.backend).ref
        self.parent = self.store.get_run(self.stage.run_id).tags["mlflow.parentRunId"]
        context = replace(self.context, task_run=TaskRun(task="training.fold", index="7-1"))
        fold = replace(opening, context=context, key=run_key(context), parent=None, outer=self.stage)
        local = provisional_id(fold.key)
        folder = JournalFolder.of(settings)
        assert folder
        journal = LiveJournal(folder, Header(1, self.store.uri, "host", 7, BEGAN), limit=1024 * 1024)
        journal.append(Begin(local, fold))
        journal.append(End(local, "FINISHED", ENDED))
        journal.close(remove=False)

    def end(self) -> None:
        """The script ends in order."""
        self.store.update_run(self.stage.run_id, status="FINISHED", end_time=ENDED)
        close(self.context, "FINISHED", self.settings, self.backend, ended_at=ENDED)

    def recover(self, backend: Backend) -> None:
        """Somebody delivers the fork's journal."""
        recover(taken(self.settings, 7), backend, self.settings)


@pytest.fixture
def forked(mlflow_server: MlflowServer, tmp_path: Path) -> Forked:
    return Forked(patient(mlflow_server.uri, journal=str(tmp_path / "journal")))


def test_a_script_that_has_ended_is_not_ended_by_what_an_older_version_has_left(forked: Forked) -> None:
    forked.end()
    other = forked.store.create_run(
        forked.stage.experiment_id,
        name="of a sibling",
        start_time=BEGAN,
        tags={
            name: value
            for name, value in forked.store.get_run(forked.stage.run_id).tags.items()
            if name.startswith(MEMBER_TAG)
        },
    )
    forked.recover(forked.backend)
    parent = forked.store.get_run(forked.parent)
    assert (parent.status, parent.end_time) == ("FINISHED", ENDED)
    assert forked.store.get_run(other.run_id).status == "RUNNING"


def test_a_script_that_nobody_has_ended_is_ended_by_whoever_recovers_what_it_left(forked: Forked) -> None:
    forked.recover(forked.backend)
    assert forked.store.get_run(forked.parent).status == "KILLED"
    assert forked.store.get_run(forked.stage.run_id).status == "KILLED"


def test_a_script_that_ends_while_it_is_taken_for_killed_ends_by_itself(
    forked: Forked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was seen to be open, and its stages were looked for."""
    look = closing.members_of
    ended: list[bool] = []

    def looked(*asked: Any, **named: Any) -> list[Run]:
        found = look(*asked, **named)
        if not ended:
            ended.append(True)
            forked.end()
        return found

    monkeypatch.setattr(closing, "members_of", looked)
    forked.recover(forked.backend)
    assert ended
    parent = forked.store.get_run(forked.parent)
    assert (parent.status, parent.end_time) == ("FINISHED", ENDED)
