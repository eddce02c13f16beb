"""No fault at all: what the comparison says of a sound server, and that it can say something else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness import audit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.scene import Scene


@pytest.mark.parametrize("ending", ["ok", "raise", "exit"])
def test_everything_is_there_once(victim: MlflowServer, scene: Callable[..., Scene], ending: str) -> None:
    stage = scene(victim.uri)
    task = stage.start("a", ending=ending)
    stage.ends_as_untracked(task)
    assert stage.differences(victim) == []
    assert stage.left() == []


def test_a_script_without_an_orchestrator(victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    stage = scene(victim.uri)
    task = stage.start("script", new=True, script=True)
    stage.ends_as_untracked(task)
    assert stage.differences(victim) == []
    assert stage.left() == []


def test_the_comparison_sees_what_is_lost_double_or_strange(victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    stage = scene(victim.uri)
    task = stage.start("a", stages=1, rounds=1)
    stage.ends_as_untracked(task)
    runs = audit.runs_of(victim, stage.workflow)
    book = task.ledger()
    (train,) = [run for run in runs if run.label == f"{stage.workflow}/a.train"]
    others = [run for run in runs if run is not train]

    def told(run: audit.Found) -> str:
        return "\n".join(audit.differences([book], [*others, run]))

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
    assert "1 points of 10 lost" in told(replace(train, points=train.points - audit.Points({point: 1})))
    assert "there more than once" in told(replace(train, points=train.points + audit.Points({point: 1})))
    assert "never asked for" in told(replace(train, points=train.points + audit.Points({("own.x", 1, "2.0"): 1})))
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
