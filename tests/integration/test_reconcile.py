"""What MLflow says is compared with what really happened, on real servers; and what differs is repaired."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.orchestrator import NAME, PLUGIN, VARIABLE, Truth
from harness.process import Program, wait_for
from harness.story import Author, dataset, link
from tracklayer.backend import Backend
from tracklayer.context import RunRef, TaskRun, Upstream
from tracklayer.description import MARKER, NOTE_TAG, compose, run_link
from tracklayer.identity import ROOT_TAG, key_tag, run_key, upstream_tag, workflow_run_key
from tracklayer.journal.courier import WANTED_TAG
from tracklayer.linking import read_links
from tracklayer.machine import PROCESS_TAG, Process, process_of, this_process
from tracklayer.parent import make_parent
from tracklayer.provisional import id_tag, provisional_id
from tracklayer.reconcile import Findings, Repair, Scope, examine, reading, repair, repairing
from tracklayer.reconcile.findings import (
    DuplicateParent,
    MisplacedRun,
    OpenParent,
    OpenRun,
    UnresolvedId,
    WantedDataset,
)
from tracklayer.reconcile.repairing import DUPLICATE_TAG
from tracklayer.settings import Settings
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from tracklayer.store import Run

PARENT = "mlflow.parentRunId"
SETTINGS = Settings(plugins=(PLUGIN,), disabled_plugins=("airflow", "git", "kubeflow", "prefect"))
ENDED = datetime(2027, 1, 1, 12, 30, tzinfo=UTC)
MILLISECONDS = int(ENDED.timestamp() * 1_000)


class World:
    """One workflow in one experiment of its own, and what its orchestrator says of it."""

    def __init__(self, uri: str, truth: Truth) -> None:
        self.truth = truth
        self.store = open_store(uri, connect_timeout=5, timeout=30)
        self.backend = Backend(self.store, uri)
        self.author = Author(self.store)
        self.run_id = f"r-{uuid.uuid4().hex[:8]}"
        self.context, self.parent = self.author.workflow_run(NAME, "flights", self.run_id)
        self.name = self.context.workflow_run.workflow
        self.open(self.parent)

    @property
    def key(self) -> str:
        return workflow_run_key(self.context.workflow_run)

    def scope(self, **told: Any) -> Scope:
        """All of this world; stories begin in the past."""
        return Scope(experiments=frozenset([self.name]), since=timedelta(days=3_000), **told)

    def stage(self, task: str, **told: Any) -> RunRef:
        return self.author.stage(self.context, task, "training", status=None, **told)

    def nested(self, below: RunRef, **tags: str) -> Run:
        """A run that user code starts below another one through mlflow."""
        own = {PARENT: below.run_id, **tags}
        return self.store.create_run(below.experiment_id, name="trial", start_time=self.author.clock, tags=own)

    def tagged(self, run: RunRef, **tags: str) -> None:
        self.store.log_batch(run.run_id, tags=tags)

    def open(self, run: RunRef) -> None:
        self.store.update_run(run.run_id, status="RUNNING")

    def get(self, run: RunRef | Run) -> Run:
        return self.store.get_run(run.run_id)

    def status(self, run: RunRef | Run) -> str:
        return self.get(run).status

    def examine(self, **told: Any) -> Findings:
        return examine(self.backend, SETTINGS, self.scope(**told))

    def repair(self, **told: Any) -> list[Repair]:
        done = repair(self.examine(**told).found, self.backend, SETTINGS)
        assert not [item for item in done if item.error]
        return done


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Truth:
    path = tmp_path / "truth.json"
    monkeypatch.setenv(VARIABLE, str(path))
    return Truth(path)


@pytest.fixture
def world(mlflow_server: MlflowServer, truth: Truth) -> World:
    return World(mlflow_server.uri, truth)


def found(findings: Findings) -> dict[str, str]:
    """Run ids with the kind of what was found."""
    return {finding.run.run_id: finding.kind for finding in findings.found}


class TestOpenRuns:
    def test_the_orchestrators_word_is_the_status_and_the_end(self, world: World) -> None:
        failed, skipped, running = world.stage("train"), world.stage("skip"), world.stage("wait")
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "train", "FAILED", ENDED)
        world.truth.task(world.run_id, "skip", "FINISHED", ENDED, note="skipped")
        world.truth.task(world.run_id, "wait", "RUNNING")

        findings = world.examine()

        assert found(findings) == {failed.run_id: "open-run", skipped.run_id: "open-run"}
        assert findings.left_alone == ()
        assert [world.status(run) for run in (failed, skipped, running)] == ["RUNNING"] * 3, "it only looked"
        repair(findings.found, world.backend, SETTINGS)
        assert [world.status(run) for run in (failed, skipped, running)] == ["FAILED", "FINISHED", "RUNNING"]
        assert world.get(failed).end_time == world.get(skipped).end_time == MILLISECONDS
        assert world.get(skipped).tags["tracklayer.outcome"] == "skipped"
        assert world.status(world.parent) == "RUNNING"
        assert sorted(world.truth.ended()) == sorted([[failed.run_id, "FAILED"], [skipped.run_id, "FINISHED"]])

    def test_of_which_try(self, world: World) -> None:
        first = replace(world.context, task_run=TaskRun(task="train", try_number=1), stage="training")
        second = replace(first, task_run=TaskRun(task="train", try_number=2))
        runs = [
            world.store.create_run(
                world.parent.experiment_id,
                name="train",
                start_time=world.author.clock,
                tags={"tracklayer.key": run_key(of), key_tag(run_key(of)): "1", PARENT: world.parent.run_id},
            )
            for of in (first, second)
        ]
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "train#1", "FAILED", ENDED)
        world.truth.task(world.run_id, "train#2", "RUNNING")
        world.repair()
        assert [world.status(run) for run in runs] == ["FAILED", "RUNNING"]

    def test_what_nobody_ended_was_killed_when_its_workflow_run_ended(self, world: World) -> None:
        left, vanished = world.stage("left"), world.stage("vanished")
        world.truth.workflow(world.run_id, "FAILED", ENDED, said="timed_out")
        world.truth.task(world.run_id, "left", "RUNNING")  # says a task's record that nobody has closed

        done = world.repair()

        assert [type(item.finding) for item in done] == [OpenRun, OpenRun, OpenParent]
        assert "timed_out" in done[0].finding.because
        assert [world.status(run) for run in (left, vanished, world.parent)] == ["KILLED", "KILLED", "FAILED"]
        assert {world.get(run).end_time for run in (left, vanished, world.parent)} == {MILLISECONDS}
        assert world.get(left).tags["tracklayer.outcome"] == "left open"

    def test_runs_of_user_code_end_with_their_stage(self, world: World) -> None:
        stage, closed, alive = world.stage("train"), world.stage("closed"), world.stage("alive")
        world.store.update_run(closed.run_id, status="FINISHED", end_time=MILLISECONDS)
        trial = world.nested(stage)
        fold = world.nested(RunRef(run_id=trial.run_id, experiment_id=trial.experiment_id))
        left, running = world.nested(closed), world.nested(alive)
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "train", "FAILED", ENDED)
        world.truth.task(world.run_id, "closed", "FINISHED", ENDED)

        world.repair()

        assert [world.status(run) for run in (stage, trial, fold)] == ["FAILED"] * 3
        assert (world.status(left), world.get(left).end_time) == ("FINISHED", MILLISECONDS)
        assert world.status(running) == "RUNNING"
        assert sorted(world.truth.ended()) == [[stage.run_id, "FAILED"]], "plugins hear of tracklayer's own runs"

    def test_a_run_of_user_code_that_started_after_its_stage_is_somebody_at_work(self, world: World) -> None:
        stage = world.stage("train")
        world.truth.workflow(world.run_id, "FINISHED", ENDED)
        world.author.clock = MILLISECONDS + 60_000
        late = world.nested(stage)
        findings = world.examine()
        assert late.run_id not in found(findings)
        assert [item.run.run_id for item in findings.left_alone] == [late.run_id]

    def test_a_stage_within_a_task_ends_with_the_task(self, world: World) -> None:
        outer = world.stage("train")
        within = replace(world.context, parent=outer)
        inner = world.author.stage(within, "train.fold", "training", status=None)
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "train", "FAILED", ENDED)
        world.repair()
        assert [world.status(run) for run in (outer, inner)] == ["FAILED", "FAILED"]

    def test_an_end_is_not_before_its_start(self, world: World) -> None:
        stage = world.stage("train")
        world.truth.workflow(world.run_id, "FAILED", datetime(2020, 1, 1, tzinfo=UTC))
        world.repair()
        assert world.get(stage).end_time == world.get(stage).start_time

    def test_an_end_that_nobody_knows_is_now(self, world: World) -> None:
        before = time.time_ns() // 1_000_000
        world.truth.workflow(world.run_id, "FINISHED")
        world.author.clock = 1  # the parent's start lies in the future of this machine's clock
        world.repair()
        assert (world.get(world.parent).end_time or 0) >= before

    def test_the_same_again_finds_nothing(self, world: World) -> None:
        world.stage("train")
        world.truth.workflow(world.run_id, "FINISHED", ENDED)
        assert len(world.repair()) == 2
        again = world.examine()
        assert (again.found, again.left_alone) == ((), ())

    def test_two_at_once_do_the_same(self, world: World) -> None:
        runs = [world.stage(f"t{number}") for number in range(6)]
        world.truth.workflow(world.run_id, "FAILED", ENDED)
        findings = [world.examine(), world.examine()]
        done: list[list[Repair]] = []

        def work(mine: Findings) -> None:
            done.append(repair(mine.found, world.backend, SETTINGS))

        threads = [threading.Thread(target=work, args=(mine,)) for mine in findings]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(done) == 2
        assert not [item.error for one in done for item in one if item.error]
        assert {world.status(run) for run in runs} == {"KILLED"}
        assert {world.get(run).end_time for run in [*runs, world.parent]} == {MILLISECONDS}

    def test_a_run_that_ends_meanwhile_keeps_its_end(self, world: World) -> None:
        stage = world.stage("train")
        world.truth.workflow(world.run_id, "FAILED", ENDED)
        findings = world.examine()
        world.store.update_run(stage.run_id, status="FINISHED", end_time=MILLISECONDS + 5)
        done = repair(findings.found, world.backend, SETTINGS)
        assert [item.changed for item in done] == [False, True]
        assert (world.status(stage), world.get(stage).end_time) == ("FINISHED", MILLISECONDS + 5)

    def test_the_runs_upstream_hear_of_their_consumers(self, world: World) -> None:
        elsewhere = Author(world.store)
        context, _ = elsewhere.workflow_run("airflow", "prepare", "p1")
        prepared = elsewhere.stage(context, "prepare", "data-prep")
        train = world.stage("train", upstream=[link(prepared)])
        world.truth.workflow(world.run_id, "FINISHED", ENDED)
        world.repair()
        assert f"/runs/{train.run_id})" in world.get(prepared).tags[NOTE_TAG]


class TestLeftAlone:
    def test_somebody_elses_runs(self, world: World) -> None:
        theirs = world.store.create_run(world.parent.experiment_id, name="theirs", start_time=1, tags={})
        below = world.store.create_run(
            world.parent.experiment_id, name="below", start_time=1, tags={PARENT: theirs.run_id}
        )
        pretending = world.store.create_run(
            world.parent.experiment_id, name="copied", start_time=1, tags={"tracklayer.key": world.key}
        )
        world.truth.workflow(world.run_id, "FINISHED", ENDED)
        findings = world.examine()
        assert found(findings) == {world.parent.run_id: "open-parent"}
        assert findings.left_alone == ()
        world.repair()
        assert [world.status(run) for run in (theirs, below, pretending)] == ["RUNNING"] * 3

    def test_runs_of_which_nobody_can_say_anything(self, world: World) -> None:
        stage = world.stage("train")
        trial = world.nested(stage)
        findings = world.examine(older_than=timedelta(0))
        assert findings.found == ()
        assert {item.run.run_id for item in findings.left_alone} == {world.parent.run_id, stage.run_id, trial.run_id}
        assert findings.unknown == 3
        assert "harness" in findings.left_alone[0].because

    def test_runs_that_are_at_work(self, world: World) -> None:
        world.stage("train")
        world.truth.workflow(world.run_id, "RUNNING")
        findings = world.examine()
        assert (findings.found, findings.left_alone) == ((), ())
        assert findings.looked_at >= 2

    def test_what_an_orchestrator_has_deleted_lately(self, world: World) -> None:
        stage = world.stage("train")
        world.truth.workflow(world.run_id, "GONE")
        young = world.examine(older_than=timedelta(days=3_000))
        assert young.found == ()
        assert "deleted" in young.left_alone[0].because
        world.repair(older_than=timedelta(days=-3_000))
        assert [world.status(run) for run in (stage, world.parent)] == ["KILLED", "KILLED"]
        assert world.get(world.parent).tags["tracklayer.outcome"] == "gone"

    def test_what_lies_outside_of_the_scope(self, world: World) -> None:
        world.stage("train")
        world.truth.workflow(world.run_id, "FINISHED", ENDED)
        assert world.examine(orchestrators=frozenset(["airflow"])).found == ()
        assert world.examine(workflows=frozenset(["another"])).found == ()
        assert len(world.examine(orchestrators=frozenset([NAME]), workflows=frozenset([world.name])).found) == 2
        narrow = replace(world.scope(), since=timedelta(days=-3_000))
        assert examine(world.backend, SETTINGS, narrow).found == ()
        one = world.examine(limit=1)
        assert one.more


SCRIPT = """
import os, sys, time
import tracklayer
with tracklayer.track(stage="training") as run:
    run.flush()
    open(sys.argv[1], "w").write(f"{run.run_id}")
    time.sleep(300)
"""


class TestProcesses:
    @pytest.fixture
    def script(self, mlflow_server: MlflowServer, tmp_path: Path) -> Iterator[Program]:
        """A script whose stage is open; its name is its workflow's and its experiment's."""
        path = tmp_path / f"script_{uuid.uuid4().hex[:8]}.py"
        path.write_text(SCRIPT)
        environ = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_server.uri}
        started = tmp_path / "started"
        program = Program([sys.executable, str(path), str(started)], log=tmp_path / "log", environ=environ)
        wait_for(lambda: started.exists() and bool(started.read_text()), 60, "start of the script", program)
        yield program
        program.stop()

    def runs(self, world: World, script: Program) -> list[Run]:
        """Stage run and parent of the script."""
        name = script.command[1].rpartition("/")[2].removesuffix(".py")
        experiment = world.store.get_experiment_by_name(name)
        assert experiment is not None
        return sorted(world.store.search_runs([experiment.experiment_id]), key=lambda run: PARENT not in run.tags)

    def scope_of(self, script: Program, **told: Any) -> Scope:
        return Scope(experiments=frozenset([script.command[1].rpartition("/")[2].removesuffix(".py")]), **told)

    def test_a_killed_script_is_found_dead_and_a_living_one_is_left(self, world: World, script: Program) -> None:
        scope = self.scope_of(script, older_than=timedelta(0))
        stage, parent = self.runs(world, script)
        living = examine(world.backend, SETTINGS, scope)
        assert (living.found, living.left_alone) == ((), ())

        process = process_of(stage.tags[PROCESS_TAG])
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: process.lives is False, 30, "end of the script")
        done = repair(examine(world.backend, SETTINGS, scope).found, world.backend, SETTINGS)

        assert [type(item.finding) for item in done] == [OpenRun, OpenParent]
        for run in (stage, parent):
            now = world.get(run)
            assert (now.status, now.tags["tracklayer.outcome"]) == ("KILLED", "died")
            assert now.end_time

    def test_another_machines_process_is_left_until_it_is_old_enough(self, world: World, script: Program) -> None:
        stage, parent = self.runs(world, script)
        mine = process_of(this_process())
        assert mine is not None
        elsewhere = msgspec.json.encode(msgspec.structs.replace(mine, host="elsewhere")).decode()
        for run in (stage, parent):
            world.store.log_batch(run.run_id, tags={PROCESS_TAG: elsewhere})
        left = examine(world.backend, SETTINGS, self.scope_of(script))
        assert left.found == ()
        assert {item.run.run_id for item in left.left_alone} == {stage.run_id, parent.run_id}
        assert "elsewhere" in left.left_alone[0].because
        young = examine(world.backend, SETTINGS, self.scope_of(script, older_than=timedelta(hours=1)))
        assert young.found == ()
        old = examine(world.backend, SETTINGS, self.scope_of(script, older_than=timedelta(0)))
        assert {finding.run.run_id for finding in old.found} == {stage.run_id, parent.run_id}

    def test_a_process_id_that_is_used_again_is_another_process(self) -> None:
        mine = process_of(this_process())
        assert mine is not None
        assert mine.lives
        assert msgspec.structs.replace(mine, start=mine.start + 1).lives is False
        assert msgspec.structs.replace(mine, boot="another").lives is None
        assert msgspec.structs.replace(mine, space=1).lives is None
        assert process_of("nonsense") is None
        assert process_of(None) is None
        assert Process(host="x", pid=1, at=0).lives is None


class TestTwins:
    def twin(self, world: World, run: RunRef) -> Run:
        """What the server made of the request for `run` when it came out of its pause."""
        made = world.get(run)
        return world.store.create_run(
            made.experiment_id, name=made.name, start_time=made.start_time or 0, tags=dict(made.tags)
        )

    def test_the_one_that_nobody_has_heard_of_goes(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        run = world.stage("train")
        world.store.log_batch(run.run_id, params={"lr": "0.1"})
        world.store.update_run(run.run_id, status="FAILED", end_time=world.author.clock)
        twin = self.twin(world, run)

        findings = world.examine()

        assert found(findings)[twin.run_id] == "twin-run"
        changed = {item.finding.kind: item.changed for item in world.repair()}
        assert changed == {"twin-run": True}, "what is in the trash need not be ended"
        gone = world.get(twin)
        assert (gone.deleted, gone.tags["tracklayer.twin_of"]) == (True, run.run_id)
        assert (world.get(run).deleted, world.status(run)) == (False, "FAILED")
        assert found(world.examine()) == {}

    def test_as_long_as_nobody_can_say_which_is_which_both_stay(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        run = world.stage("train")
        twin = self.twin(world, run)
        assert "twin-run" not in found(world.examine()).values()
        assert not world.get(twin).deleted

    def test_a_try_that_goes_on_elsewhere_is_no_twin(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        run = world.stage("train")
        world.store.log_batch(run.run_id, params={"lr": "0.1"})
        made = world.get(run)
        world.store.create_run(
            made.experiment_id, name=made.name, start_time=(made.start_time or 0) + 1, tags=dict(made.tags)
        )
        assert "twin-run" not in found(world.examine()).values()


class TestParents:
    def duplicate(self, world: World, **tags: str) -> RunRef:
        """A second parent of the world's workflow run, as after a split network."""
        context = world.context.of_workflow_run()
        note = compose(context, parent=None, upstream=[])
        run = world.store.create_run(
            world.parent.experiment_id,
            name=world.run_id,
            start_time=world.author.clock + 1_000,
            tags={
                "tracklayer.key": world.key,
                "tracklayer.orchestrator": NAME,
                "tracklayer.workflow": world.name,
                key_tag(world.key): "1",
                NOTE_TAG: note,
                **tags,
            },
        )
        return RunRef(run_id=run.run_id, experiment_id=run.experiment_id, key=world.key, name=world.run_id)

    def below(self, world: World, parent: RunRef, task: str) -> RunRef:
        context = replace(world.context, parent=parent)
        run = world.author.stage(context, task, "training", tags={ROOT_TAG: parent.run_id})
        note = compose(replace(context, task_run=TaskRun(task=task)), parent=parent, upstream=[], user="my words")
        world.tagged(run, **{NOTE_TAG: note})
        return run

    def test_the_elected_one_stays_and_all_that_led_to_the_other_leads_to_it(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        other = self.duplicate(world, **{id_tag("a" * 32): "1", "team": "risk"})
        world.store.log_batch(other.run_id, params={"year": "2013"})
        here, there = self.below(world, world.parent, "here"), self.below(world, other, "there")
        trial = world.nested(other)
        world.store.update_run(trial.run_id, status="FINISHED", end_time=1)
        elsewhere = Author(world.store)
        context, _ = elsewhere.workflow_run(NAME, "uses", "u1")
        user = elsewhere.stage(context, "use", "evaluation", upstream=[link(other, "token")])
        world.tagged(user, **{NOTE_TAG: compose(context, parent=None, upstream=[link(other, "token")])})

        findings = world.examine()

        assert found(findings) == {other.run_id: "duplicate-parent"}
        done = world.repair()
        assert [item.changed for item in done] == [True]
        assert world.get(other).deleted
        assert world.get(other).tags[DUPLICATE_TAG] == world.parent.run_id
        for run in (here, there, trial):
            assert world.get(run).tags[PARENT] == world.parent.run_id
        assert world.get(there).tags[ROOT_TAG] == world.parent.run_id
        note = world.get(there).tags[NOTE_TAG]
        assert note.startswith("my words")
        assert f"/runs/{world.parent.run_id})" in note
        assert other.run_id not in note
        (link_of_user,) = read_links(world.get(user).tags)
        assert (link_of_user.run.run_id, link_of_user.kind) == (world.parent.run_id, "token")
        assert other.run_id not in world.get(user).tags[NOTE_TAG]
        parent = world.get(world.parent)
        assert parent.tags[id_tag("a" * 32)] == "1", "who holds an id of the other one finds this one"
        assert (parent.tags["team"], parent.params["year"]) == ("risk", "2013")
        assert f"/runs/{user.run_id})" in parent.tags[NOTE_TAG], "it says what is downstream of it"
        assert world.examine().found == ()

    def test_one_that_was_restored_from_the_trash_goes_back(self, world: World) -> None:
        from mlflow import MlflowClient

        world.truth.workflow(world.run_id, "RUNNING")
        loser = self.duplicate(world)
        made, was_made = make_parent(
            world.store, world.parent.experiment_id, world.key, name="x", start_time=1, tags={}, alone=False
        )
        world.store.delete_run(loser.run_id)
        assert not was_made
        MlflowClient(world.backend.address).restore_run(loser.run_id)
        done = world.repair()
        kinds = {type(item.finding) for item in done}
        assert kinds == {DuplicateParent}
        live = [run.run_id for run in (made, loser, world.parent) if not world.get(run).deleted]
        assert set(live) == {made.run_id}

    def test_one_that_holds_metrics_is_kept_below_the_elected_one(self, world: World) -> None:
        from tracklayer.store import Metric

        world.truth.workflow(world.run_id, "RUNNING")
        other = self.duplicate(world)
        world.store.log_batch(other.run_id, metrics=[Metric(key="rows", value=5, timestamp=1)])
        world.repair()
        now = world.get(other)
        assert (now.deleted, now.tags[PARENT], now.metrics) == (False, world.parent.run_id, {"rows": 5.0})
        assert now.tags[DUPLICATE_TAG] == world.parent.run_id
        assert now.status != "RUNNING"
        assert world.examine().found == ()
        again, made = make_parent(
            world.store, world.parent.experiment_id, world.key, name="x", start_time=1, tags={}, alone=False
        )
        assert (again.run_id, made) == (world.parent.run_id, False), "nor is it taken for a parent by the next task"
        assert not world.get(other).deleted

    def test_stage_runs_below_a_parent_in_the_trash_go_to_the_one_that_there_is(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        other = self.duplicate(world)
        there = self.below(world, other, "there")
        linked = world.author.stage(world.context, "linked", "training", upstream=[link(other)])
        world.store.delete_run(other.run_id)  # as the next task does that comes across two
        findings = world.examine()
        assert found(findings) == {there.run_id: "misplaced-run", linked.run_id: "misplaced-run"}
        assert {type(finding) for finding in findings.found} == {MisplacedRun}
        world.repair()
        assert world.get(there).tags[PARENT] == world.get(there).tags[ROOT_TAG] == world.parent.run_id
        assert [item.run.run_id for item in read_links(world.get(linked).tags)] == [world.parent.run_id]
        assert world.examine().found == ()

    def test_a_parent_that_somebody_has_thrown_away_on_purpose_stays_there(self, world: World) -> None:
        world.stage("train")
        world.truth.workflow(world.run_id, "RUNNING")
        world.store.delete_run(world.parent.run_id)
        findings = world.examine()
        assert (findings.found, findings.left_alone) == ((), ())


class TestLinks:
    def test_ids_that_were_given_out_are_resolved(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        made, never = provisional_id(), provisional_id()
        prepare = world.author.stage(world.context, "prepare", "data-prep", tags={id_tag(made): "1"})
        pending = RunRef(run_id=made, experiment_id="pending", key=prepare.key, name="prepare")
        outer = RunRef(run_id=provisional_id(world.key), experiment_id="pending", key=world.key)
        note = compose(world.context, parent=outer, upstream=[link(pending)], user="my words")
        train = world.author.stage(
            world.context,
            "train",
            "training",
            upstream=[link(pending), link(RunRef(run_id=never, experiment_id=""))],
            tags={ROOT_TAG: outer.run_id, PARENT: outer.run_id, "tracklayer.superseded_by": made, NOTE_TAG: note},
        )

        findings = world.examine()

        assert {type(finding) for finding in findings.found} == {UnresolvedId}
        assert len(findings.found) == 4
        assert [item.run.run_id for item in findings.left_alone] == [train.run_id]
        assert never in findings.left_alone[0].because
        world.repair()
        tags = world.get(train).tags
        assert tags[PARENT] == tags[ROOT_TAG] == world.parent.run_id
        assert tags["tracklayer.superseded_by"] == prepare.run_id
        assert upstream_tag(prepare.run_id) in tags
        assert upstream_tag(made) not in tags
        assert tags[NOTE_TAG].startswith("my words")
        assert f"#/experiments/{prepare.experiment_id}/runs/{prepare.run_id})" in tags[NOTE_TAG]
        assert made not in tags[NOTE_TAG]
        assert f"/runs/{train.run_id})" in world.get(prepare).tags[NOTE_TAG]
        again = world.examine()
        assert (again.found, len(again.left_alone)) == ((), 1)

    @pytest.mark.parametrize("digest", [None, "v1"])
    def test_a_dataset_whose_producer_was_not_known(self, world: World, digest: str | None) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        uri = f"s3://{world.author.mark}/{digest}"
        wanted = {"uri": uri, "digest": digest, "at": time.time_ns() // 1_000_000 + 60_000}
        train = world.author.stage(
            world.context,
            "train",
            "training",
            tags={f"{WANTED_TAG}{'0' * 32}": json.dumps(wanted), NOTE_TAG: f"my words\n\n{MARKER}\n\n**harness** x"},
        )
        nothing = world.examine()
        assert (nothing.found, nothing.left_alone) == ((), ())

        prepare = world.author.stage(world.context, "prepare", "data-prep", makes=[dataset(uri, "v1", produced=True)])
        findings = world.examine()
        assert [type(finding) for finding in findings.found] == [WantedDataset]
        world.repair()
        now = world.get(train)
        assert read_links(now.tags) == [
            Upstream(run=RunRef(run_id=prepare.run_id, experiment_id=""), kind="data", dataset=uri, digest="v1")
        ]
        assert not [tag for tag in now.tags if tag.startswith(WANTED_TAG)]
        assert now.tags[NOTE_TAG].startswith("my words")
        assert run_link(prepare) in now.tags[NOTE_TAG]
        assert f"/runs/{train.run_id})" in world.get(prepare).tags[NOTE_TAG]
        assert world.examine().found == ()

    def test_the_producer_is_the_last_one_at_that_time(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        uri = f"s3://{world.author.mark}/features"
        early = world.author.stage(world.context, "early", "data-prep", makes=[dataset(uri, "v1", produced=True)])
        between = time.time_ns() // 1_000_000
        time.sleep(0.01)
        late = world.author.stage(world.context, "late", "data-prep", makes=[dataset(uri, "v2", produced=True)])
        wanted = {"uri": uri, "digest": None, "at": between}
        train = world.author.stage(
            world.context, "train", "training", tags={f"{WANTED_TAG}{'1' * 32}": json.dumps(wanted)}
        )
        world.repair()
        (found_link,) = read_links(world.get(train).tags)
        assert found_link.run.run_id == early.run_id != late.run_id


class TestManyRuns:
    @pytest.mark.parametrize("server", ["mlflow_server", "mlflow_postgres"])
    def test_every_run_is_met_once_whatever_the_pages(
        self, server: str, request: pytest.FixtureRequest, truth: Truth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pages of four, of runs of which eleven started at the same moment."""
        world = World(request.getfixturevalue(server).uri, truth)
        monkeypatch.setattr(reading, "PAGE", 4)
        monkeypatch.setattr(repairing, "PAGE", 3)
        world.truth.workflow(world.run_id, "FINISHED", ENDED)
        stages = [world.stage(f"t{number}") for number in range(7)]
        trials = [world.nested(stages[number % 7]) for number in range(11)]
        pages = list(reading.Reader(world.store).pages([world.parent.experiment_id], "attributes.status = 'RUNNING'"))
        met = [run.run_id for page in pages for run in page]
        assert len(met) == len(set(met)) == 19
        assert len(world.repair()) == 19
        assert {world.status(run) for run in stages} | {world.status(run) for run in trials} == {"KILLED"}

    def test_a_parent_with_more_below_it_than_a_page_holds(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(repairing, "PAGE", 3)
        world.truth.workflow(world.run_id, "RUNNING")
        other = TestParents().duplicate(world)
        below = [world.nested(other) for _ in range(10)]
        world.repair()
        assert {world.get(run).tags[PARENT] for run in below} == {world.parent.run_id}


def test_in_a_database_without_a_server(sqlite_uri: str, truth: Truth) -> None:
    """The same through the mlflow library."""
    world = World(sqlite_uri, truth)
    stage = world.stage("train")
    trial = world.nested(stage)
    other = TestParents().duplicate(world)
    below = TestParents().below(world, other, "there")
    made = provisional_id()
    prepare = world.author.stage(world.context, "prepare", "data-prep", tags={id_tag(made): "1"})
    pending = link(RunRef(run_id=made, experiment_id="pending"))
    linked = world.author.stage(world.context, "linked", "training", upstream=[pending])
    world.truth.workflow(world.run_id, "FAILED", ENDED)

    assert len(world.examine().found) == 6
    world.repair()

    assert [world.status(run) for run in (stage, trial, world.parent)] == ["KILLED", "KILLED", "FAILED"]
    assert world.get(world.parent).end_time == MILLISECONDS
    assert world.get(other).deleted
    assert world.get(below).tags[PARENT] == world.parent.run_id
    assert [item.run.run_id for item in read_links(world.get(linked).tags)] == [prepare.run_id]
    assert world.examine().found == ()
