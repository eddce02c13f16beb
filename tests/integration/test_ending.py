"""A real end that is delivered while somebody ends the workflow run wins, in whatever order their requests arrive."""

from __future__ import annotations

import itertools
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.late_end import ENDED, Died, Meanwhile, World
from harness.leaving import opening_of
from harness.patience import patient
from harness.process import wait_for
from tracklayer.backend import open_backend
from tracklayer.closing import CLOCKS, close
from tracklayer.completion import close_if_last
from tracklayer.context import RunRef
from tracklayer.creation import create
from tracklayer.ending import DIED, IN_PLACE, LEFT_OPEN, REAL_END_TAG, RealEnd, end_instead, is_untold, leave_open
from tracklayer.identity import PARENT_TAG, SUPERSEDED_TAG, run_key, workflow_run_key
from tracklayer.journal.endings import LOST
from tracklayer.journal.late_ends import FEW
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.operations import Close, End, LeftOpen, Lost, Named
from tracklayer.journal.recorder import Recorder
from tracklayer.journal.recovery import Recovery, left_behind
from tracklayer.journal.refusals import refusals
from tracklayer.opening import milliseconds
from tracklayer.outcome import ELSEWHERE, OUTCOME_TAG
from tracklayer.provisional import provisional_id

if TYPE_CHECKING:
    from harness.mlflow import MlflowServer
    from tracklayer.backend import Backend
    from tracklayer.settings import Settings


@pytest.fixture
def settings(mlflow_server: MlflowServer, tmp_path: Path) -> Settings:
    return patient(mlflow_server.uri, journal=str(tmp_path / "journal"))


@pytest.mark.parametrize("outcome", [None, "skipped"])
@pytest.mark.parametrize("outer", ["close", "deliver"])
def test_the_real_end_wins_whenever_it_comes(settings: Settings, outer: str, outcome: str | None) -> None:
    for at in itertools.count(1):
        world = World(settings, outcome)
        done: list[int] = []

        def meanwhile(world: World = world, at: int = at, done: list[int] = done) -> None:
            done.append(at)
            (world.deliver if outer == "close" else world.close)(world.backend())

        backend = world.backend()
        backend.store = Meanwhile(backend.store, at, meanwhile)
        (world.close if outer == "close" else world.deliver)(backend)
        if not done:
            break
        run = world.run()
        assert (run.status, run.end_time, run.tags.get(OUTCOME_TAG)) == ("FAILED", ENDED, outcome), (
            f"before request {at}"
        )
    assert at > 3


@pytest.mark.parametrize("outcome", [None, "skipped"])
def test_the_real_end_wins_also_if_the_process_that_tells_it_dies_meanwhile(
    settings: Settings, outcome: str | None
) -> None:
    """Before any of its requests; what it leaves behind is delivered."""
    for at in itertools.count(1):
        world = World(settings, outcome)
        died: list[int] = []

        def die(at: int = at, died: list[int] = died) -> None:
            died.append(at)
            raise Died

        world.close(world.backend())
        backend = world.backend()
        sound, backend.store = backend.store, Meanwhile(backend.store, at, die)
        try:
            world.deliver(backend)
        except Died:
            backend.store = sound
            world.deliver(backend)
        backend.store = sound
        run = world.run()
        assert (run.status, run.end_time, run.tags.get(OUTCOME_TAG)) == ("FAILED", ENDED, outcome), (
            f"died before request {at}"
        )
        if not died:
            break
    assert at > 3


@pytest.mark.parametrize("outcome", [None, "skipped"])
@pytest.mark.parametrize("outer", ["close", "deliver"])
def test_what_is_told_wins_over_the_word_that_a_run_was_left(
    settings: Settings, outer: str, outcome: str | None
) -> None:
    """A process that has left its run for good, to be ended elsewhere, says so late; how it ended is told meanwhile."""
    end = RealEnd("FAILED", ENDED + 1_000, outcome)
    for at in itertools.count(1):
        world = World(settings, ELSEWHERE, end=End("", "FINISHED", ENDED, left=True))
        done: list[int] = []

        def tell(backend: Backend, world: World = world) -> None:
            world.close(backend, end)

        def meanwhile(world: World = world, at: int = at, done: list[int] = done, tell: Any = tell) -> None:
            done.append(at)
            (world.deliver if outer == "close" else tell)(world.backend())

        backend = world.backend()
        backend.store = Meanwhile(backend.store, at, meanwhile)
        (tell if outer == "close" else world.deliver)(backend)
        if not done:
            break
        run = world.run()
        assert (run.status, run.end_time) == ("FAILED", ENDED + 1_000), f"before request {at}"
        assert run.tags[OUTCOME_TAG] in {ELSEWHERE, outcome or ELSEWHERE}
    assert at > 3


@pytest.mark.parametrize("first", ["close", "deliver"])
def test_a_run_that_was_left_and_of_which_nothing_is_told_is_found_by_its_outcome(
    settings: Settings, first: str
) -> None:
    world = World(settings, ELSEWHERE, end=End("", "FINISHED", ENDED, left=True))
    (world.close if first == "close" else world.deliver)(world.backend())
    (world.deliver if first == "close" else world.close)(world.backend())
    run = world.run()
    assert run.status == ("KILLED" if first == "close" else "FINISHED")
    assert run.tags[OUTCOME_TAG] == ELSEWHERE
    assert is_untold(run)


def test_what_is_told_waits_in_the_journal_with_the_end(settings: Settings) -> None:
    world = World(settings, ELSEWHERE, end=End("", "FINISHED", ENDED, left=True))
    world.deliver(world.backend())
    told = {world.opening.key: RealEnd("FAILED", ENDED + 1_000)}
    world.append(Close(world.opening.context.of_workflow_run(), "FAILED", ENDED + 5_000, told=told))
    world.deliver(world.backend())
    run = world.run()
    assert (run.status, run.end_time, run.tags[OUTCOME_TAG]) == ("FAILED", ENDED + 1_000, ELSEWHERE)


@pytest.mark.parametrize("outer", ["supersede", "deliver"])
def test_the_real_end_of_a_try_wins_over_the_next_try_which_takes_it_for_killed(settings: Settings, outer: str) -> None:
    for at in itertools.count(1):
        world = World(settings, "timed out", end=End("", "KILLED", ENDED))
        first = world.opening
        assert first.context.task_run
        context = replace(first.context, task_run=replace(first.context.task_run, try_number=2))
        second = replace(first, context=context, key=run_key(context), start_time=ENDED + 7_000)
        done: list[int] = []
        created: list[str] = []

        def supersede(backend: Backend, second: Any = second, created: list[str] = created) -> None:
            created.append(create(second, backend).ref.run_id)

        def meanwhile(world: World = world, at: int = at, done: list[int] = done, supersede: Any = supersede) -> None:
            done.append(at)
            (world.deliver if outer == "supersede" else supersede)(world.backend())

        backend = world.backend()
        backend.store = Meanwhile(backend.store, at, meanwhile)
        (supersede if outer == "supersede" else world.deliver)(backend)
        if not done:
            break
        run = world.run()
        told = run.status, run.end_time, run.tags.get(OUTCOME_TAG), run.tags.get(SUPERSEDED_TAG)
        assert told == ("KILLED", ENDED, "timed out", *created), f"before request {at}"
    assert at > 3


@pytest.mark.parametrize("journals", [1, 2], ids=["one journal", "two"])
def test_an_end_that_came_late_is_forgotten_once_the_run_goes_on(settings: Settings, journals: int) -> None:
    """Whoever reopens it need not be the one who has delivered, and announced, that end."""
    world = World(settings, None)
    reopened = End(world.run_id, "RUNNING", None), LeftOpen(world.run_id)
    if journals == 1:
        for path in left_behind(settings):
            shutil.rmtree(path)
        world.append(End(world.run_id, "FAILED", ENDED), *reopened)
    else:
        world.deliver(world.backend())
        world.append(*reopened)
    world.deliver(world.backend())
    assert world.run().status == "RUNNING"
    world.close(world.backend())
    run = world.run()
    assert (run.status, run.end_time, run.tags[OUTCOME_TAG]) == ("KILLED", ENDED + 5_000, LEFT_OPEN)


def test_a_run_that_nobody_ends_is_left_open(settings: Settings) -> None:
    world = World(settings, None)
    world.close(world.backend())
    run = world.run()
    assert (run.status, run.end_time, run.tags[OUTCOME_TAG]) == ("KILLED", ENDED + 5_000, LEFT_OPEN)


@pytest.mark.parametrize(
    ("after", "member", "parent"),
    [(-CLOCKS - 1_000, "RUNNING", "RUNNING"), (-1_000, "KILLED", "FAILED"), (1_000, "KILLED", "FAILED")],
)
def test_what_has_started_since_the_end_of_the_workflow_run_goes_on(
    settings: Settings, after: int, member: str, parent: str
) -> None:
    """It was cleared before the word of its end came. Where clocks alone may make it look so, all of it is ended."""
    world = World(settings, None)
    backend = world.backend()
    assert world.opening.parent
    context, ended_at = world.opening.parent.context, world.opening.start_time + after
    close(context, "FAILED", settings, backend, error="the first time", ended_at=ended_at)
    run = world.run()
    assert (run.status, run.tags.get(OUTCOME_TAG)) == (member, LEFT_OPEN if member == "KILLED" else None)
    above = backend.store.get_run(run.tags[PARENT_TAG])
    assert above.status == parent
    assert ("tracklayer.error.message" in above.tags) == (parent == "FAILED")
    close(context, "FINISHED", settings, backend, ended_at=ENDED)
    assert backend.store.get_run(above.run_id).status == "FINISHED"


def test_a_run_that_begins_and_ends_while_its_workflow_run_is_closed_ends_by_itself(settings: Settings) -> None:
    """An observed task's run may begin when Airflow has already ended the DAG run, and end in good time: unannounced."""
    world = World(settings, None)
    world.deliver(world.backend())
    before = world.run()
    above = before.tags[PARENT_TAG]
    backend = world.backend()
    store = backend.store
    assert world.opening.parent
    context = world.opening.parent.context
    parent = RunRef(run_id=above, experiment_id=before.experiment_id, key=workflow_run_key(context.workflow_run))
    for begin, end in itertools.combinations(range(1, 8), 2):
        begun: list[str] = []

        def start(begun: list[str] = begun) -> None:
            tags = {key: before.tags[key] for key in before.tags.keys() - {REAL_END_TAG, OUTCOME_TAG}}
            run = store.create_run(before.experiment_id, name=before.name, start_time=milliseconds(None), tags=tags)
            begun.append(run.run_id)

        def finish(begun: list[str] = begun) -> None:
            if store.get_run(begun[0]).status == "RUNNING":
                store.update_run(begun[0], status="FINISHED", end_time=milliseconds(None))

        backend.store = Meanwhile(Meanwhile(store, end, finish), begin, start)
        world.append(Close(context, "FINISHED", milliseconds(None), parent, observed=True))
        (path,) = left_behind(settings)
        journal = LeftJournal.take(path)
        assert journal
        recovery = Recovery(journal, backend, settings)
        while recovery.step():
            pass
        for run_id in begun:  # none if there were fewer requests
            finish()
            assert store.get_run(run_id).status == "FINISHED", (begin, end)
            assert OUTCOME_TAG not in store.get_run(run_id).tags

        def ended(recovery: Recovery = recovery) -> bool:
            while recovery.step():
                pass
            return recovery.finish()

        wait_for(ended, 30, "the end of the parent")
        assert store.get_run(above).status == "FINISHED"
        backend.store = store


def test_a_task_that_starts_while_the_last_one_ends_the_workflow_run_is_not_ended_in_its_stead(
    settings: Settings,
) -> None:
    world = World(settings, None, end=End("", "FINISHED", ENDED))
    world.deliver(world.backend())
    before = world.run()
    backend = world.backend()
    store = backend.store
    assert world.opening.parent
    parent = RunRef(run_id=before.tags[PARENT_TAG], experiment_id=before.experiment_id)
    for at in range(1, 6):
        begun: list[str] = []

        def start(begun: list[str] = begun) -> None:
            tags = {key: before.tags[key] for key in before.tags.keys() - {REAL_END_TAG, OUTCOME_TAG}}
            run = store.create_run(before.experiment_id, name=before.name, start_time=milliseconds(None), tags=tags)
            begun.append(run.run_id)

        backend.store = Meanwhile(store, at, start)
        ended_at = milliseconds(None)
        close_if_last(world.opening.context, "FINISHED", settings, backend, parent=parent, ends=True, ended_at=ended_at)
        for run_id in begun:
            assert store.get_run(run_id).status == "RUNNING", f"before request {at}"
            store.update_run(run_id, status="FINISHED", end_time=ended_at)
    backend.store = store


def test_a_task_that_starts_after_the_end_of_its_workflow_run_holds_the_parent_open_no_longer_than_itself(
    settings: Settings,
) -> None:
    """A DAG run may end (by its time-out, say) while a task is starting; nobody tells of a second end."""
    world = World(settings, None)
    backend = world.backend()
    assert world.opening.parent
    context = world.opening.parent.context
    (before,) = left_behind(settings)  # the end of the task itself, which comes later
    aside = before.with_name(f".aside-{before.name}")
    before.rename(aside)
    world.append(Close(context, "FAILED", world.opening.start_time - CLOCKS - 1_000))
    (path,) = left_behind(settings)
    journal = LeftJournal.take(path)
    assert journal
    recovery = Recovery(journal, backend, settings)
    above = backend.store.get_run(world.run().tags[PARENT_TAG])

    def ended() -> bool:
        while recovery.step():
            pass
        return backend.store.get_run(above.run_id).status == "FAILED"

    assert not ended()
    assert world.run().status == "RUNNING"
    backend.store.update_run(world.run_id, status="KILLED", end_time=ENDED)
    wait_for(ended, 30, "the end of the parent")
    assert recovery.finish()
    aside.rename(before)


@pytest.mark.parametrize("mark", [LEFT_OPEN, DIED])
def test_what_was_said_in_place_of_the_real_end_is_taken_back(settings: Settings, mark: str) -> None:
    world = World(settings, None)
    ended = {"status": "KILLED", "ended_at": ENDED + 5_000, "tags": {OUTCOME_TAG: mark}}
    assert end_instead(world.backend().store, world.run_id, **ended)  # type: ignore[arg-type]
    assert (world.run().status, world.run().tags[OUTCOME_TAG]) == ("KILLED", mark)
    assert not end_instead(world.backend().store, world.run_id, **ended)  # type: ignore[arg-type]
    world.deliver(world.backend())
    assert (world.run().status, world.run().end_time, world.run().tags.get(OUTCOME_TAG)) == ("FAILED", ENDED, None)


def test_what_was_said_in_place_of_many_real_ends_is_taken_back(settings: Settings) -> None:
    """While they are delivered; and a run that has no such mark stays as it is."""
    world = World(settings, None)
    backend = world.backend()
    experiment_id, sound = world.run().experiment_id, backend.store
    runs = [sound.create_run(experiment_id, name=f"{n}", start_time=ENDED, tags={}).run_id for n in range(FEW + 1)]
    for path in left_behind(settings):
        shutil.rmtree(path)
    names = [Named(provisional_id(), run_id, experiment_id) for run_id in runs]
    world.append(*names, *(End(run_id, "FINISHED", ENDED) for run_id in runs))

    def mark() -> None:
        for number, run_id in enumerate(runs[1:]):
            sound.log_batch(run_id, tags={OUTCOME_TAG: IN_PLACE[number % 2]})

    class Marking:
        def __getattr__(self, name: str) -> Any:
            return getattr(sound, name)

        def search_runs(self, where: list[str], wanted: str = "", **more: Any) -> Any:
            if "run_id IN" in wanted and "died" not in wanted:
                mark()
            return sound.search_runs(where, wanted, **more)

    backend.store = cast("Any", Marking())
    world.deliver(backend)
    found = [sound.get_run(run_id) for run_id in runs]
    assert {(run.status, run.end_time, run.tags.get(OUTCOME_TAG)) for run in found} == {("FINISHED", ENDED, None)}


@pytest.mark.parametrize("gone", ["in the trash", "for good"])
def test_an_end_of_a_run_that_is_gone_keeps_nothing_waiting(settings: Settings, gone: str) -> None:
    world = World(settings, None, run_id=uuid.uuid4().hex if gone == "for good" else None)
    if gone == "in the trash":
        world.backend().store.delete_run(world.run_id)
    world.deliver(world.backend())
    (left,) = Path(str(settings.journal)).rglob("refused.jsonl")
    assert [(refusal.kind, refusal.key) for refusal in refusals(left.parent)] == [("end", "FAILED")]


def test_a_run_that_goes_on_may_be_left_open_again(settings: Settings) -> None:
    world = World(settings, None)
    world.deliver(world.backend())
    again = create(replace(world.opening, start_time=ENDED + 1_000), world.backend(), again=True)
    assert again.ref.run_id == world.run_id
    assert world.run().status == "RUNNING"
    world.append(End(world.run_id, "FAILED", ENDED), End(world.run_id, "RUNNING", None), LeftOpen(world.run_id))
    world.deliver(world.backend())
    assert world.run().status == "RUNNING"
    world.close(world.backend())
    assert (world.run().status, world.run().tags[OUTCOME_TAG]) == ("KILLED", LEFT_OPEN)


def test_an_end_in_good_time_is_not_announced(settings: Settings) -> None:
    backend = open_backend(settings)
    assert backend
    recorder = Recorder(backend, settings)
    run_id = recorder.begin(opening_of(f"ending-{uuid.uuid4().hex[:12]}"), wait=20).ref.run_id
    recorder.append(End(run_id, "FINISHED", time.time_ns() // 1_000_000))
    assert recorder.flush(20)
    recorder.close()
    run = backend.store.get_run(run_id)
    assert run.status == "FINISHED"
    assert REAL_END_TAG not in run.tags


def test_a_try_that_is_given_up_ends_with_what_is_open_below_it(settings: Settings) -> None:
    world = World(settings, None)
    store, at = world.backend().store, time.time_ns() // 1_000_000 - LOST
    experiment_id = world.run().experiment_id

    def below(run_id: str) -> str:
        return store.create_run(experiment_id, name="fold", start_time=ENDED, tags={PARENT_TAG: run_id}).run_id

    trial = below(world.run_id)
    fold, done = below(trial), below(world.run_id)
    store.update_run(done, status="FINISHED", end_time=ENDED)
    beside = create(opening_of(world.opening.context.workflow_run.workflow, "beside"), world.backend()).ref.run_id
    world.append(Lost(world.opening.context, at))
    assert len(list(left_behind(settings))) == 2
    for path in left_behind(settings):
        journal = LeftJournal.take(path)
        assert journal
        if any(isinstance(record.operation, Lost) for record in journal.read(0)):
            recovery = Recovery(journal, world.backend(), settings)
            while recovery.step():
                pass
            assert recovery.finish()
        else:
            journal.close(remove=False)

    ended = {run_id: store.get_run(run_id) for run_id in (world.run_id, trial, fold, done, beside)}
    assert [run.status for run in ended.values()] == ["KILLED", "KILLED", "KILLED", "FINISHED", "RUNNING"]
    assert {ended[run_id].end_time for run_id in (world.run_id, trial, fold)} == {at}
    world.deliver(world.backend())  # the lost machine is back
    assert (world.run().status, world.run().tags.get(OUTCOME_TAG)) == ("FAILED", None)


@pytest.mark.parametrize("told", ["", "{}", "[1]", '{"status": "WELL", "end_time": 1}', '{"status": "FAILED"}'])
def test_what_announces_nothing(told: str) -> None:
    assert RealEnd.announced({REAL_END_TAG: told}) is None
    assert RealEnd.announced({}) is None


@pytest.mark.parametrize(("status", "left"), [("FINISHED", None), ("FAILED", None), ("KILLED", LEFT_OPEN)])
def test_the_mark_of_who_ended_a_run_in_its_stead_goes_with_its_workflow_run(
    settings: Settings, status: str, left: str | None
) -> None:
    """It was given up while it was only slow, and then ended in time: its own process asks for nothing then."""
    backend = open_backend(settings)
    assert backend
    opening = opening_of(f"ending-{uuid.uuid4().hex[:12]}")
    run_id = create(opening, backend).ref.run_id
    leave_open(backend.store, run_id, int(time.time() * 1_000))
    backend.store.update_run(run_id, status=status, end_time=int(time.time() * 1_000))  # type: ignore[arg-type]
    assert close(opening.context, "FINISHED", settings, backend)
    assert backend.store.get_run(run_id).tags.get(OUTCOME_TAG) == left
