"""Open runs get the end that they really had, by what orchestrators and processes say; others are left alone."""

from __future__ import annotations

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

from harness.orchestrator import NAME
from harness.process import Program, wait_for
from harness.story import Author, link
from harness.world import ENDED, MILLISECONDS, PARENT, SETTINGS, World, found
from tracklayer.context import RunRef, TaskRun
from tracklayer.description import NOTE_TAG
from tracklayer.ending import LEFT_OPEN, RealEnd
from tracklayer.identity import key_tag, run_key
from tracklayer.machine import PROCESS_TAG, Process, process_of, this_process
from tracklayer.outcome import ELSEWHERE, OUTCOME_TAG
from tracklayer.reconcile import Findings, Repair, Scope, examine, repair
from tracklayer.reconcile.findings import OpenParent, OpenRun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from tracklayer.context import Status
    from tracklayer.store import Run


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


class TestUntoldEnds:
    """Runs whose tasks ended without a process (by a trigger of Airflow's), of which nobody told when they were ended."""

    def left(self, world: World, task: str, status: Status, **tags: str) -> RunRef:
        run = world.stage(task)
        world.tagged(run, **{OUTCOME_TAG: ELSEWHERE, **tags})
        world.store.update_run(run.run_id, status=status, end_time=world.author.clock)
        return run

    def test_they_end_as_the_orchestrator_says(self, world: World) -> None:
        failed, skipped = self.left(world, "failed", "FINISHED"), self.left(world, "skipped", "KILLED")
        done = self.left(world, "done", "FINISHED")
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "failed", "FAILED", ENDED)
        world.truth.task(world.run_id, "skipped", "FINISHED", ENDED, note="skipped")
        world.truth.task(world.run_id, "done", "FINISHED", ENDED)

        findings = world.examine()

        assert found(findings) == {failed.run_id: "untold-end", skipped.run_id: "untold-end"}
        assert findings.found[0].change.startswith("FINISHED → FAILED, ended 2027-01-01")
        assert world.status(failed) == "FINISHED", "it only looked"
        repair(findings.found, world.backend, SETTINGS)
        assert [world.status(run) for run in (failed, skipped, done)] == ["FAILED", "FINISHED", "FINISHED"]
        assert world.get(failed).end_time == world.get(skipped).end_time == MILLISECONDS
        assert world.get(failed).tags[OUTCOME_TAG] == ELSEWHERE
        assert world.get(skipped).tags[OUTCOME_TAG] == "skipped"
        assert "says that its task has failed" in world.get(failed).tags["mlflow.tracklayer.reconciled"]
        assert sorted(world.truth.ended()) == sorted([[failed.run_id, "FAILED"], [skipped.run_id, "FINISHED"]])
        assert found(world.examine()) == {}

    def test_what_is_known_better_or_not_at_all_is_left(self, world: World) -> None:
        told = self.left(world, "told", "FAILED", **RealEnd("FAILED", MILLISECONDS).tags())
        unknown, waits = self.left(world, "unknown", "FINISHED"), self.left(world, "waits", "FINISHED")
        timed_out = self.left(world, "timed_out", "KILLED")
        killed = world.stage("killed")
        world.tagged(killed, **{OUTCOME_TAG: LEFT_OPEN})
        world.store.update_run(killed.run_id, status="KILLED", end_time=world.author.clock)
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "told", "FINISHED", ENDED)
        world.truth.task(world.run_id, "waits", "RUNNING")
        world.truth.task(world.run_id, "timed_out", "FINISHED", note="skipped")  # with its DAG run, at no moment
        world.truth.task(world.run_id, "killed", "FAILED", ENDED)
        findings = world.examine()
        assert (found(findings), findings.left_alone) == ({}, ())
        assert world.status(unknown) == world.status(waits) == "FINISHED"
        assert world.status(told) == "FAILED"
        assert world.status(timed_out) == "KILLED"

    def test_they_end_while_their_workflow_run_goes_on_and_are_not_asked_for_again(self, world: World) -> None:
        run = world.stage("wait")
        world.tagged(run, **{OUTCOME_TAG: ELSEWHERE})
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "wait", "FAILED", ENDED)
        (done,) = world.repair()
        assert (done.finding.kind, done.finding.change[:16]) == ("untold-end", "RUNNING → FAILED")
        assert (world.status(run), world.get(run).end_time) == ("FAILED", MILLISECONDS)
        world.truth.task(world.run_id, "wait", "FINISHED", ENDED)
        assert found(world.examine()) == {}

    def test_one_that_is_told_meanwhile_keeps_that(self, world: World) -> None:
        run = self.left(world, "wait", "FINISHED")
        world.truth.workflow(world.run_id, "RUNNING")
        world.truth.task(world.run_id, "wait", "FAILED", ENDED)
        findings = world.examine()
        world.tagged(run, **RealEnd("FINISHED", MILLISECONDS).tags())
        (done,) = repair(findings.found, world.backend, SETTINGS)
        assert not done.changed
        assert world.status(run) == "FINISHED"


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
