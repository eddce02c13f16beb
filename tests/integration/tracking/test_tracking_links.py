"""Stages that belong together: linked by data and tokens, nested in each other, side by side in threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

import tracklayer
from harness.lookup import get
from tracklayer import RunContext, TaskRun, WorkflowRun
from tracklayer.description import DOWNSTREAM_MARKER, NOTE_TAG
from tracklayer.identity import parse_token, upstream_tag
from tracklayer.tracking import close_workflow_run, track

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tracklayer.store import Store


def test_data_links_lead_across_workflows_and_are_shown_at_both_ends(store: Store, workflow: str) -> None:
    def context(name: str, task: str) -> RunContext:
        return RunContext(
            workflow_run=WorkflowRun(orchestrator=name, workflow=f"{workflow}-{name}", run_id="r1"),
            task_run=TaskRun(task=task),
        )

    uri = f"s3://bucket/{workflow}"
    with track("data-prep", context=context("airflow", "clean")) as first:
        first.produces(uri, "v1", schema='{"rows": 3}')
    with track("data-prep", context=context("airflow", "again")) as second:
        second.produces(uri, "v2")
    with track("training", context=context("prefect", "fit")) as run:
        latest = run.consumes(uri)
        exact = run.consumes(uri, "v1")
        assert run.consumes(f"{uri}/unknown") is None
    assert latest
    assert exact
    assert (latest.run_id, exact.run_id) == (second.run_id, first.run_id)
    consumer = get(store, run.run_id)
    assert json.loads(consumer.tags[upstream_tag(first.run_id or "")]) == {
        "kind": "data",
        "dataset": uri,
        "digest": "v1",
    }
    assert f"/runs/{second.run_id}" in consumer.tags[NOTE_TAG]
    assert {dataset.context for dataset in consumer.datasets} == {"consumed"}
    assert [dataset.digest for dataset in get(store, first.run_id).datasets] == ["v1"]

    close_workflow_run(context("prefect", "fit"), "FINISHED")
    note = get(store, first.run_id).tags[NOTE_TAG]
    assert f"/runs/{run.run_id}" in note.partition(DOWNSTREAM_MARKER)[2]


def test_a_token_from_outside_links_the_stage_and_the_parent(
    store: Store, at: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    with track("training", context=at("fit")) as first:
        token = first.token
        assert os.environ["TRACKLAYER_PARENT"] == token
    assert "TRACKLAYER_PARENT" not in os.environ
    assert token
    assert parse_token(token).run.run_id == first.run_id
    monkeypatch.setenv("TRACKLAYER_PARENT", token)
    with track("evaluation", context=at("score", run="r2")) as run:
        pass
    assert json.loads(get(store, run.run_id).tags[upstream_tag(first.run_id or "")]) == {"kind": "token"}
    assert run.parent
    assert upstream_tag(first.run_id or "") in get(store, run.parent.run_id).tags


def test_a_forged_token_is_reported_and_ignored(
    store: Store, at: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKLAYER_PARENT", "tl1.forged")
    with track(context=at("fit", run="forged")) as run:
        pass
    assert get(store, run.run_id).status == "FINISHED"
    assert caplog.text.count("TRACKLAYER_PARENT is ignored") == 1, "for the run and its parent alike"


def test_a_stage_within_a_stage_is_nested_below_it(store: Store, at: Callable[..., RunContext]) -> None:
    with track("training", context=at("fit")) as outer:
        folds = []
        for _ in range(2):
            with track("fold") as fold:
                assert tracklayer.current_run() is fold
                folds.append(fold.run_id)
        assert tracklayer.current_run() is outer
    assert tracklayer.current_run() is None
    assert [get(store, fold).tags["mlflow.parentRunId"] for fold in folds] == [outer.run_id] * 2
    assert len({get(store, fold).tags["tracklayer.key"] for fold in folds}) == 2


MISTAKEN = """
import tracklayer

with tracklayer.track("outer", params=3):  # no mapping: not tracked, as the log says
    with tracklayer.track("inner") as inner, tracklayer.track("wrong", run_name=7), tracklayer.track("fold") as fold:
        fold.log_params({"lr": 0.1})
print(inner.run_id, fold.run_id)
"""


@pytest.mark.parametrize("attached", [None, "untracked", "tl1.forged"])
def test_a_stage_within_one_that_is_not_tracked_is_where_it_would_be_without(
    store: Store, tmp_path: Path, attached: str | None
) -> None:
    script = tmp_path / f"script_{uuid.uuid4().hex[:8]}.py"
    script.write_text(MISTAKEN)
    environment = {**os.environ, **({} if attached is None else {"TRACKLAYER_ATTACH": attached})}
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True, env=environment
    )
    inner, fold = (get(store, run_id) for run_id in ended.stdout.split())
    assert {store.get_experiment(run.experiment_id).name for run in (inner, fold)} == {script.stem}
    assert fold.tags["mlflow.parentRunId"] == inner.run_id
    assert fold.params == {"lr": "0.1"}
    parent = get(store, inner.tags["mlflow.parentRunId"])
    assert (parent.status, parent.tags["tracklayer.key"].split(":")[0]) == ("FINISHED", "script")


def test_threads_see_the_run_that_they_are_in(store: Store, at: Callable[..., RunContext]) -> None:
    both = threading.Barrier(2, timeout=30)
    seen: dict[str, object] = {}

    def work(name: str) -> None:
        with track(context=at(name)) as run:
            both.wait()
            seen[name] = (tracklayer.current_run() is run, os.environ.get("TRACKLAYER_PARENT"))
            both.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": (True, None), "b": (True, None)}

    found = []
    with track(context=at("c")) as run:
        thread = threading.Thread(target=lambda: found.append(tracklayer.current_run()))
        thread.start()
        thread.join()
    assert found == [run]
