"""Stages that are tried again or go on, and the end of their workflow run; also where an answer is lost."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

import tracklayer
from harness.lookup import get
from harness.patience import patient
from harness.process import wait_for
from tracklayer import RunContext, TaskRun, hookimpl, registry
from tracklayer.backend import open_backend
from tracklayer.closing import give_up
from tracklayer.completion import close_if_last
from tracklayer.context import State
from tracklayer.description import DOWNSTREAM_MARKER, NOTE_TAG
from tracklayer.ending import DIED, LEFT_OPEN, end_instead
from tracklayer.identity import parse_token
from tracklayer.opening import milliseconds
from tracklayer.outcome import ELSEWHERE, OUTCOME_TAG, Outcome
from tracklayer.provisional import id_tag, is_provisional, provisional_id
from tracklayer.store.opening import open_store
from tracklayer.tracking import close_workflow_run, open_workflow_run, track

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.store import Store


def test_a_retry_is_a_new_run_and_supersedes_the_earlier_one(store: Store, at: Callable[..., RunContext]) -> None:
    with pytest.raises(ValueError, match="first"), track(context=at("fit")) as first:
        raise ValueError("first")
    killed = tracklayer.tracking.open_stage(context=at("fit", try_number=2))  # its process dies without a word
    with track(context=at("fit", try_number=3)) as third:
        pass
    runs = [get(store, run.run_id) for run in (first, killed, third)]
    assert [run.status for run in runs] == ["FAILED", "FAILED", "FINISHED"]
    assert [run.tags.get("tracklayer.superseded_by") for run in runs] == [killed.run_id, third.run_id, None]


def test_a_retry_in_another_experiment_supersedes_the_earlier_one_too(
    store: Store, uri: str, at: Callable[..., RunContext]
) -> None:
    """As where a template, or code as in MLflow's tutorials, names an experiment after the time."""
    first = tracklayer.tracking.open_stage(context=at("fit"))  # its process dies without a word
    again = at("fit", try_number=2)
    elsewhere = f"{again.workflow_run.workflow}-again"
    with track(context=again, settings=patient(uri), experiment=elsewhere) as second:
        pass
    runs = [get(store, run.run_id) for run in (first, second)]
    assert runs[0].experiment_id != runs[1].experiment_id
    assert [run.status for run in runs] == ["FAILED", "FINISHED"]
    assert [run.tags.get("tracklayer.superseded_by") for run in runs] == [second.run_id, None]


def test_attempts_reuse_goes_on_with_the_run_of_the_earlier_try(
    store: Store, uri: str, at: Callable[..., RunContext]
) -> None:
    settings = patient(uri, attempts="reuse")
    with pytest.raises(ValueError, match="first"), track(context=at("fit"), settings=settings) as first:
        raise ValueError("first")
    with track(context=at("fit", try_number=2), settings=settings) as second:
        assert get(store, second.run_id).status == "RUNNING"
    assert second.run_id == first.run_id
    assert get(store, second.run_id).status == "FINISHED"


def test_a_reused_run_is_that_of_the_later_try(store: Store, uri: str, at: Callable[..., RunContext]) -> None:
    """So it goes on with it after a deferral, too, and what comes late of the earlier one does not end it."""
    settings = patient(uri, attempts="reuse")
    first = tracklayer.tracking.open_stage(context=at("fit"), settings=settings)
    first.set_tags({OUTCOME_TAG: "timed out"})
    first.end("FAILED", error="the first")
    close_workflow_run(at("fit"), "FAILED", settings=settings)
    again = replace(at("fit", try_number=2), parent=first.parent)  # as it is handed over
    with pytest.raises(ValueError, match="defers"), track(context=again, outcome=defer, settings=settings) as second:
        raise ValueError("defers")
    assert first.parent
    assert get(store, first.parent.run_id).status == "RUNNING"
    give_up(store, first.key or "", milliseconds(None))
    given = provisional_id(first.key or "")
    assert not end_instead(store, first.run_id or "", "KILLED", milliseconds(None), {OUTCOME_TAG: DIED}, given=given)
    assert get(store, first.run_id).status == "RUNNING"
    resumed = at("fit", try_number=2, resumed=True)
    with track(context=resumed, settings=settings) as third:
        pass
    assert second.run_id == third.run_id == first.run_id
    run = get(store, first.run_id)
    assert (run.status, run.tags["tracklayer.key"]) == ("FINISHED", third.key)
    assert not {OUTCOME_TAG, "tracklayer.error.type", "tracklayer.error.message"} & run.tags.keys()


def defer(_: BaseException) -> Outcome:
    return Outcome("RUNNING")


def test_a_run_whose_creation_got_no_answer_is_not_created_twice(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], at: Callable[..., RunContext]
) -> None:
    proxy = proxy_before(mlflow_server.uri)
    settings = patient(proxy.uri)
    parent = open_workflow_run(at("fit"), settings=settings)
    assert parent
    proxy.lost("runs/create")
    with track(context=at("fit"), settings=settings, params={"lr": 0.1}) as run:
        given_out = run.run_id
        assert given_out
        assert is_provisional(given_out)
        run.log_metrics({"auc": 0.9})
    deadline = time.monotonic() + 30
    while not run.flush() and time.monotonic() < deadline:  # the sender tries again after a pause
        time.sleep(0.1)
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    (stage,) = [one for one in store.search_runs([parent.experiment_id]) if "mlflow.parentRunId" in one.tags]
    assert run.ref
    assert stage.run_id == run.ref.run_id
    assert id_tag(given_out) in stage.tags
    assert (stage.status, stage.metrics, stage.params) == ("FINISHED", {"auc": 0.9}, {"lr": "0.1"})


def test_a_resumed_try_goes_on_with_its_run(store: Store, at: Callable[..., RunContext]) -> None:
    def deferred(_: BaseException) -> tracklayer.Outcome:
        return tracklayer.Outcome("RUNNING", "deferred")

    with pytest.raises(RuntimeError), track(context=at("wait"), outcome=deferred) as first:
        raise RuntimeError
    assert get(store, first.run_id).status == "RUNNING"
    with track(context=at("wait", resumed=True)) as second:
        pass
    assert second.run_id == first.run_id
    assert get(store, first.run_id).status == "FINISHED"


def test_the_end_of_the_workflow_run_ends_what_nobody_ended(store: Store, at: Callable[..., RunContext]) -> None:
    parent = open_workflow_run(at("fit"))
    lost = tracklayer.tracking.open_stage(context=at("lost"))
    with track(context=at("fit")) as run:
        pass
    assert parent
    assert run.parent == lost.parent
    for _ in range(2):
        close_workflow_run(at("fit"), "FAILED", error="password=hunter2 did not work")
        assert get(store, lost.run_id).status == "KILLED"
        assert get(store, run.run_id).status == "FINISHED"
        assert get(store, parent.run_id).status == "FAILED"
    assert "did not work" in get(store, parent.run_id).tags["tracklayer.error.message"]


def test_what_is_in_an_experiment_of_its_own_ends_with_the_workflow_run(
    store: Store, at: Callable[..., RunContext], workflow: str
) -> None:
    """Its place was said by an argument in another process, of which whoever ends the workflow run knows nothing."""
    parent = open_workflow_run(at("fit"))
    own = f"{workflow}-own"
    with track(context=at("prepare")) as fed:
        token = fed.token
    fit = replace(at("fit"), tokens=(parse_token(token),))
    lost = tracklayer.tracking.open_stage(context=fit, experiment=own)
    told = tracklayer.tracking.open_stage(context=at("wait"), experiment=own)
    told.end("RUNNING")  # its process leaves it
    ended = tracklayer.tracking.open_stage(context=at("late"), experiment=own)
    ended.set_tags({OUTCOME_TAG: LEFT_OPEN})  # by whoever took it for lost, a moment before it
    ended.end("FINISHED")
    assert parent
    assert get(store, lost.run_id).experiment_id != parent.experiment_id
    end = State(status="FAILED", ended_at=ENDED)
    close_workflow_run(at("fit"), "FINISHED", told=[(TaskRun(task="wait"), end)])
    ends = [get(store, run.run_id) for run in (lost, told, ended)]
    assert [run.status for run in ends] == ["KILLED", "FAILED", "FINISHED"]
    assert [run.tags.get(OUTCOME_TAG) for run in ends] == [LEFT_OPEN, None, None]
    assert get(store, parent.run_id).status == "FINISHED"
    assert f"/runs/{lost.run_id}" in get(store, fed.run_id).tags[NOTE_TAG].partition(DOWNSTREAM_MARKER)[2]


def test_a_workflow_run_goes_on_while_a_task_runs_in_an_experiment_of_its_own(
    store: Store, uri: str, at: Callable[..., RunContext], workflow: str
) -> None:
    """Where only its tasks can see the end of a workflow run, the last one is the last in whatever experiment."""
    settings = patient(uri)
    backend = open_backend(settings)
    assert backend
    with track(context=at("prepare")) as run:
        pass
    assert run.parent
    ending = partial(close_if_last, settings=settings, backend=backend, parent=run.parent, ends=True)
    with track(context=at("fit"), experiment=f"{workflow}-own") as other:
        assert ending(at("prepare"), "FINISHED", ended_at=milliseconds(None)) is None
        assert get(store, run.parent.run_id).status == "RUNNING"
        other.end("FAILED")
    assert ending(at("prepare"), "FINISHED", ended_at=milliseconds(None)) == "FAILED"
    assert get(store, run.parent.run_id).status == "FAILED"


ENDED = datetime.now(UTC) + timedelta(days=1)  # later than any run of these tests begins


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (State(status="FINISHED", ended_at=ENDED), ("FINISHED", ELSEWHERE)),
        (State(status="FAILED", ended_at=ENDED), ("FAILED", ELSEWHERE)),
        (State(status="FINISHED", ended_at=ENDED, note="skipped"), ("FINISHED", "skipped")),
        (State(status="RUNNING"), ("KILLED", ELSEWHERE)),  # which is to say nothing
    ],
)
def test_a_task_that_ends_elsewhere_ends_as_is_told(
    store: Store, at: Callable[..., RunContext], state: State, end: tuple[str, str]
) -> None:
    """Its code is left for good, no process sees its end, and with the workflow run's it is told."""
    with pytest.raises(ValueError, match="left"), track(context=at("wait"), outcome=leave) as run:
        raise ValueError("left")
    before = get(store, run.run_id)
    assert (before.status, before.end_time, before.tags[OUTCOME_TAG]) == ("RUNNING", None, ELSEWHERE)
    for _ in range(2):
        close_workflow_run(at("wait"), "FAILED", told=[(TaskRun(task="wait"), state)])
        after = get(store, run.run_id)
        assert (after.status, after.tags[OUTCOME_TAG]) == end
        if state.ended:
            assert after.end_time == milliseconds(ENDED)


def test_what_is_told_of_one_that_had_not_said_so(store: Store, at: Callable[..., RunContext]) -> None:
    """And of one that has ended by itself, which knows better; of another try; of one that is not there."""
    unsaid, own, other = (tracklayer.tracking.open_stage(context=at(task)) for task in ("unsaid", "own", "other"))
    for run, status in ((unsaid, "RUNNING"), (own, "FINISHED"), (other, "RUNNING")):
        run.end(status)  # type: ignore[arg-type]
    told = [TaskRun(task="unsaid"), TaskRun(task="own"), TaskRun(task="other", try_number=2), TaskRun(task="none")]
    close_workflow_run(at("fit"), "FAILED", told=[(one, State(status="FAILED", ended_at=ENDED)) for one in told])
    ends = [get(store, run.run_id) for run in (unsaid, own, other)]
    assert [run.status for run in ends] == ["FAILED", "FINISHED", "KILLED"]
    assert [run.tags.get(OUTCOME_TAG) for run in ends] == [None, None, LEFT_OPEN]


def test_one_that_was_to_end_elsewhere_and_comes_back_ends_by_itself(
    store: Store, at: Callable[..., RunContext]
) -> None:
    with pytest.raises(ValueError, match="left"), track(context=at("wait"), outcome=leave) as first:
        raise ValueError("left")
    with track(context=at("wait", resumed=True)) as second:
        pass
    assert second.run_id == first.run_id
    after = get(store, first.run_id)
    assert (after.status, after.tags.get(OUTCOME_TAG)) == ("FINISHED", None)


def test_one_that_is_delivered_late_is_not_left_open(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], at: Callable[..., RunContext]
) -> None:
    """The workflow run may have ended long before: then nobody would end it. What is told then makes it right."""
    proxy = proxy_before(mlflow_server.uri)
    settings = patient(proxy.uri)
    parent = open_workflow_run(at("wait"), settings=settings)
    assert parent
    assert not is_provisional(parent.run_id)
    proxy.lost("runs/create")
    with pytest.raises(ValueError, match="left"), track(context=at("wait"), outcome=leave, settings=settings) as run:
        raise ValueError("left")
    assert is_provisional(run.run_id or "")
    wait_for(run.flush, 30, "a sender that tries again")
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    (found,) = store.search_runs([parent.experiment_id], f"tags.`{id_tag(run.run_id or '')}` != ''")
    assert (found.status, found.tags[OUTCOME_TAG]) == ("FINISHED", ELSEWHERE)
    for _ in range(2):
        close_workflow_run(
            at("wait"),
            "FAILED",
            told=[(TaskRun(task="wait"), State(status="FAILED", ended_at=ENDED))],
            settings=settings,
        )
        after = store.get_run(found.run_id)
        assert (after.status, after.end_time) == ("FAILED", milliseconds(ENDED))


def leave(error: BaseException) -> Outcome:
    return Outcome("RUNNING", ELSEWHERE)


def test_a_workflow_run_that_goes_on_after_its_end_is_open_again(store: Store, at: Callable[..., RunContext]) -> None:
    with track(context=at("fit")) as run:
        pass
    close_workflow_run(at("fit"), "FINISHED")
    assert run.parent
    assert get(store, run.parent.run_id).status == "FINISHED"
    with track(context=at("fit", try_number=2)):
        assert get(store, run.parent.run_id).status == "RUNNING"


def test_ending_a_workflow_run_of_which_nothing_was_tracked_does_nothing(
    store: Store, workflow: str, at: Callable[..., RunContext]
) -> None:
    close_workflow_run(at("fit"), "FINISHED")
    assert store.get_experiment_by_name(workflow) is None


def test_the_parent_itself_can_be_the_current_run(store: Store, at: Callable[..., RunContext]) -> None:
    with track(context=at("flow").of_workflow_run(), params={"rows": 10}) as flow:
        flow.log_metrics({"total": 3.0})
        with track(context=at("fit")) as run:
            pass
    assert run.parent
    assert run.parent.run_id == flow.run_id
    parent = get(store, flow.run_id)
    assert (parent.status, parent.metrics, parent.params) == ("FINISHED", {"total": 3.0}, {"rows": "10"})


def test_params_of_a_workflow_run_are_there_although_the_answer_to_its_creation_was_lost(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], at: Callable[..., RunContext]
) -> None:
    class Orchestrator:
        @hookimpl
        def tracklayer_run_params(self, context: RunContext) -> dict[str, object] | None:
            return {"rows": 7} if context.task_run is None else None

    proxy = proxy_before(mlflow_server.uri)
    settings = patient(proxy.uri)
    plugin = Orchestrator()
    registry.load(settings).register(plugin)
    proxy.lost("runs/create")
    with track(context=at("fit"), settings=settings) as run:
        registry.load(settings).unregister(plugin)
    deadline = time.monotonic() + 30
    while not run.flush() and time.monotonic() < deadline:
        time.sleep(0.1)
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    assert run.ref
    parent = store.get_run(store.get_run(run.ref.run_id).tags["mlflow.parentRunId"])
    assert parent.params == {"rows": "7"}
    assert [
        one.run_id for one in store.search_runs([parent.experiment_id]) if "mlflow.parentRunId" not in one.tags
    ] == [parent.run_id]
