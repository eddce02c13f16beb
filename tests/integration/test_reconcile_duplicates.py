"""Runs that are there twice, as parents or as stages, become one; and whatever is to be done is done to many."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness.orchestrator import NAME, Truth
from harness.story import Author, link
from harness.world import ENDED, MILLISECONDS, PARENT, World, found
from tracklayer.context import RunRef, TaskRun
from tracklayer.description import NOTE_TAG, compose
from tracklayer.identity import ROOT_TAG, key_tag
from tracklayer.linking import read_links
from tracklayer.parent import make_parent
from tracklayer.provisional import id_tag, provisional_id
from tracklayer.reconcile import reading, repairing
from tracklayer.reconcile.findings import DuplicateParent, MisplacedRun
from tracklayer.reconcile.repairing import DUPLICATE_TAG

if TYPE_CHECKING:
    from tracklayer.store import Run


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
