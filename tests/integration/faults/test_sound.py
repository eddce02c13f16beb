"""No fault at all: what the comparison says of a sound server, and that it can say something else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness import audit, found, ledger
from harness.scene import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.scene import Scene


@pytest.mark.parametrize("ending", ["ok", "raise", "exit"])
def test_everything_is_there_once(victim: MlflowServer, scene: Callable[..., Scene], ending: str) -> None:
    stage = scene(victim.uri, environ=PATIENT)
    task = stage.start("a", ending=ending)
    stage.ends_as_untracked(task)
    assert stage.differences(victim) == []
    assert stage.left() == []
    # What was refused is in one file, each value once.
    refused = Counter((item["kind"], item["key"]) for item in stage.refusals())
    stages = 2
    assert refused == {("param", "own.both"): stages, ("tag", "own.long"): stages}


def test_a_script_without_an_orchestrator(victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    stage = scene(victim.uri, environ=PATIENT)
    task = stage.start("script", new=True, script=True)
    stage.ends_as_untracked(task)
    assert stage.differences(victim) == []
    assert stage.left() == []


def compared(victim: MlflowServer, scene: Callable[..., Scene]) -> tuple[ledger.Read, list[found.Found], found.Found]:
    """The ledger of a task, all of its runs, and the stage's."""
    stage = scene(victim.uri)
    task = stage.start("a", stages=1, rounds=1)
    stage.ends_as_untracked(task)
    stage.deliver()
    runs = found.runs_of(victim, stage.workflow)
    (train,) = [run for run in runs if run.label == f"{stage.workflow}/a.train"]
    return task.ledger(), runs, train


def tagged(run: found.Found, key: str, value: str) -> found.Found:
    return replace(run, tags={**run.tags, key: value})


def without(run: found.Found, key: str) -> found.Found:
    return replace(run, tags={name: value for name, value in run.tags.items() if name != key})


def test_the_comparison_sees_what_is_lost_double_or_strange(victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    book, runs, train = compared(victim, scene)
    others = [run for run in runs if run is not train]

    def told(run: found.Found) -> str:
        rest = [one for one in runs if one.run_id != run.run_id]
        return "\n".join(audit.differences([book], [*rest, run]))

    point = next(iter(train.points))
    assert told(train) == ""
    assert "has 2 runs" in "\n".join(audit.differences([book], [*runs, replace(train, run_id="other")]))
    assert "has 0 runs" in "\n".join(audit.differences([book], others))
    assert "has 2 parents" in "\n".join(
        audit.differences([book], [*runs, *(replace(run, run_id="x") for run in runs if run.label is None)])
    )
    assert "RUNNING" in told(replace(train, status="RUNNING"))
    assert "it is FAILED" in told(replace(train, status="FAILED"))
    assert "param own.p0 is lost" in told(replace(train, params={}))
    assert "param own.p0 is '7'" in told(replace(train, params={**train.params, "own.p0": "7"}))
    assert "nobody asked for it" in told(replace(train, params={**train.params, "own.p9": "7"}))
    assert "1 points of 10 lost" in told(replace(train, points=train.points - found.Points({point: 1})))
    assert "there more than once" in told(replace(train, points=train.points + found.Points({point: 1})))
    assert "never asked for" in told(replace(train, points=train.points + found.Points({("own.x", 1, "2.0"): 1})))
    moments = {place: moment + 3_600_000 for place, moment in train.moments.items()}
    assert "10 points are not of the time of their call" in told(replace(train, moments=moments))
    assert "datasets of 2 lost" in told(replace(train, datasets=Counter()))
    assert "artifacts of 3 lost" in told(replace(train, artifacts={}))
    path, text = next(iter(train.artifacts.items()))
    torn = replace(train, artifacts={**train.artifacts, path: text[:3]})
    assert "artifacts of 3 lost" in told(torn)
    uploads = [replace(one, done_at=None) if one.kind == "artifact" else one for one in book.entries]
    unsure = replace(book, entries=tuple(uploads))
    assert "artifact" not in "".join(audit.differences([unsure], [*others, torn], died=True))
    torn = replace(train, artifacts={**train.artifacts, path: "else"})
    assert "never asked for" in "".join(audit.differences([unsure], [*others, torn], died=True))
    assert "which nobody asked for" in told(replace(train, tags={**train.tags, f"{audit.UPSTREAM}abc": "{}"}))
    assert "ms after the call" in told(replace(train, end_time=train.start_time + 3_600_000))
    assert "tag own.last is lost instead of '0 ml'" in told(without(train, "own.last"))
    assert "tag own.last is '0 own' instead of '0 ml'" in told(tagged(train, "own.last", "0 own"))
    assert "tag ml.gone is there still instead of nothing" in told(tagged(train, "ml.gone", "there"))
    assert "tag ml.back is lost instead of 'again'" in told(without(train, "ml.back"))
    for key in ("own.twice", "own.both", "ml.twice"):
        second = replace(train, params={**train.params, key: "second"})
        assert f"param {key} is 'second' instead of 'first'" in told(second)
    assert "2 refused values of 2 are not told" in told(without(train, audit.REFUSED))
    assert "1 refused values of 2 are not told: ['tag own.long']" in told(
        tagged(train, audit.REFUSED, "1: param own.both: the run has it as 'first'")
    )
    assert "3 values were refused, not 2" in told(
        tagged(train, audit.REFUSED, f"3{train.tags[audit.REFUSED][1:]}; tag own.t0: no")
    )
    assert "it is called 'a.train' instead of 'train of a'" in told(replace(train, name="a.train"))


def test_the_comparison_sees_models_that_are_lost_double_or_strange(
    victim: MlflowServer, scene: Callable[..., Scene]
) -> None:
    book, runs, train = compared(victim, scene)

    def told(run: found.Found) -> str:
        return "\n".join(audit.differences([book], [*(one for one in runs if one.run_id != run.run_id), run]))

    (model,) = train.models
    other = replace(model, model_id="m-other")
    assert told(train) == ""
    assert "1 models of 1 lost" in told(replace(train, models=()))
    assert "1 models of 1 there more than once" in told(replace(train, models=(model, other)))
    assert "1 models of 1 never asked for" in told(replace(train, models=(model, replace(other, name="x"))))
    assert "is LOGGED_MODEL_PENDING" in told(replace(train, models=(replace(model, status="LOGGED_MODEL_PENDING"),)))
    assert "and the params {}" in told(replace(train, models=(replace(model, params={}),)))
    assert "has the tags {}" in told(replace(train, models=(replace(model, tags={}),)))
    assert "1 outputs of 1 lost" in told(replace(train, outputs=Counter()))
    assert "there more than once" in told(replace(train, outputs=train.outputs + train.outputs))
    assert "never asked for" in told(replace(train, outputs=train.outputs + Counter({"m-other": 1})))


def test_the_comparison_sees_what_is_wrong_with_a_run_that_was_opened_again(
    victim: MlflowServer, scene: Callable[..., Scene]
) -> None:
    book, runs, train = compared(victim, scene)
    (again,) = [run for run in runs if run.label == f"{train.label}.elsewhere"]

    def told(run: found.Found, book: ledger.Read = book) -> str:
        rest = [one for one in runs if one.run_id != run.run_id]
        return "\n".join(audit.differences([book], [*rest, run], died=True))

    assert told(again) == ""
    assert "not in" in told(replace(again, experiment=train.experiment))
    assert "it is FAILED, not 'FINISHED'" in told(replace(again, status="FAILED"))
    assert "it is KILLED, not 'FINISHED'" in told(replace(again, status="KILLED"))
    assert "tag ml.try is '1' instead of '2'" in told(tagged(again, "ml.try", "1"))
    assert "1 points of 1 lost" in told(replace(again, points=found.Points()))
    # The process was killed before the second end had returned, or before that was asked for.
    second = [entry for entry in book.entries if (entry.kind, entry.run) == ("end", again.label)][1]
    unsure = replace(book, entries=tuple(replace(one, done_at=None) if one is second else one for one in book.entries))
    open_still = replace(book, entries=tuple(one for one in book.entries if one is not second))
    for status, in_doubt, opened in (
        ("FINISHED", "", "not 'KILLED'"),
        ("KILLED", "", ""),
        ("FAILED", "not 'FINISHED' or 'KILLED'", "not 'KILLED'"),
    ):
        ended = replace(again, status=status)
        assert in_doubt in told(ended, unsure)
        assert opened in told(ended, open_still)
        assert bool(told(ended, unsure)) == bool(in_doubt)
        assert bool(told(ended, open_still)) == bool(opened)


@pytest.mark.parametrize("there", ["1", "2", None])
def test_a_call_that_was_cut_short_may_or_may_not_have_come_to_be(there: str | None) -> None:
    def entry(value: str | None, done: bool) -> ledger.Entry:
        return ledger.Entry("tag", "run", {"key": "ml.x", "value": value}, 0, 1 if done else None)

    def wrong(*entries: ledger.Entry) -> bool:
        run = found.Found("id", "e", "n", "FINISHED", 0, 0, {}, {} if there is None else {"ml.x": there}, Counter(), {})
        return bool(list(audit._values("tag", list(entries), run.tags, audit._last)))

    assert wrong(entry("1", True)) == (there != "1")
    assert wrong(entry("1", False)) == (there == "2")
    assert wrong(entry("1", True), entry("2", True)) == (there != "2")
    assert wrong(entry("1", True), entry("2", False)) == (there is None)
    assert wrong(entry("1", True), entry(None, True)) == (there is not None)
    assert wrong(entry("1", True), entry(None, False)) == (there == "2")
