"""Pipelines run by KFP's own local runner."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from typing import TYPE_CHECKING

import kubeflow_pipelines as pipelines
import pytest
from kubeflow_story import Story, links, task_of

import tracklayer
from tracklayer.tracking import close_workflow_run

if TYPE_CHECKING:
    from pathlib import Path

KFP = tuple(int(part) for part in version("kfp").split(".")[:2])

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kfp")


def test_a_pipeline_is_one_story(story: Story, local_runner: Path) -> None:
    pipelines.straight(rows=5)
    parent = story.parent
    assert parent.status == "FINISHED"
    assert parent.params == {"rows": "5", "lr": "0.1", "at_least": "0.5"}
    assert parent.tags["tracklayer.workflow"] == "straight"
    assert [(run.status, run.tags["tracklayer.stage"]) for run in story.stages] == [
        ("FINISHED", "data-prep"),
        ("FINISHED", "training"),
        ("FINISHED", "evaluation"),
    ]
    assert {run.tags["mlflow.parentRunId"] for run in story.stages} == {parent.run_id}
    prepare, train, evaluate = story.stages
    assert story.tasks == ["evaluate#1", "prepare#1", "train#1"]
    assert prepare.params == {"rows": "5"}
    assert train.params == {"lr": "0.1"}
    assert train.metrics == {"loss": 0.25, "auc": 0.9, "by_user": 1.0}
    assert train.tags["from"] == "the component"
    assert links(prepare) == {}
    assert links(train) == {prepare.run_id: "hand-over"}, "by the metadata of the artifact"
    assert links(evaluate) == {train.run_id: "hand-over"}, "by the pipeline's definition: a number carries no metadata"


def test_outputs_carry_the_token(story: Story, local_runner: Path) -> None:
    pipelines.straight()
    (made,) = local_runner.glob("straight-*/train/executor_output.json")
    told = json.loads(made.read_text())
    metadata = told["artifacts"]["model"]["artifacts"][0]["metadata"]
    run = story.task("train")
    assert metadata["mlflow_run_id"] == run.run_id
    assert metadata["mlflow_run_url"] == f"{story.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert metadata["tracklayer_token"].startswith("tl1.")
    assert told["artifacts"]["scores"]["artifacts"][0]["metadata"] == {"loss": 0.25}


def test_a_failing_component_fails_the_pipeline_as_ever(story: Story, local_runner: Path) -> None:
    with pytest.raises(RuntimeError, match=r"straight.*finished with status.*FAILURE"):
        pipelines.straight(at_least=0.95)
    assert story.parent.status == "FAILED"
    assert "evaluate" in story.parent.tags["tracklayer.error.message"]
    failed = story.task("evaluate")
    assert failed.status == "FAILED"
    assert failed.tags["tracklayer.error.type"] == "ValueError"
    assert failed.tags["tracklayer.error.message"] == "an AUC of 0.9 is too low"
    assert story.task("train").status == "FINISHED"


def test_a_failure_that_is_not_raised(story: Story, local_runner: Path) -> None:
    from kfp.local import config

    config.LocalExecutionConfig.instance.raise_on_error = False
    pipelines.straight(at_least=0.95)
    assert story.parent.status == "FAILED"


def test_nothing_is_left_of_a_run(
    story: Story, local_runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = dict(os.environ)
    pipelines.straight()
    assert dict(os.environ) == before
    assert not list(scratch.glob("tracklayer*"))


def test_a_call_that_kfp_refuses_makes_no_run(story: Story, local_runner: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        pipelines.straight(row=5)
    with pytest.raises(TypeError, match="missing"):
        pipelines.retries()
    assert story.runs == []


def test_nested_pipelines(story: Story, local_runner: Path) -> None:
    task = pipelines.nested()
    assert task.output == "value 7"
    assert story.parent.status == "FINISHED"
    assert story.tasks == ["inner-2.make#1", "inner-2.use#1", "inner.make#1", "inner.use#1", "use#1"]
    inner_make, inner_use = story.task("inner.make"), story.task("inner.use")
    assert links(inner_use) == {inner_make.run_id: "hand-over"}
    assert links(story.task("inner-2.use")) == {story.task("inner-2.make").run_id: "hand-over"}
    assert inner_make.tags["tracklayer.workflow"] == "nested"


def test_loops(story: Story, local_runner: Path) -> None:
    pipelines.loops()
    assert story.parent.status == "FINISHED"
    assert len(story.parents) == 1
    in_loop = [f"{task}[{index}]#1" for task in ("make-2", "use", "note") for index in range(3)]
    assert story.tasks == sorted([*in_loop, "make#1"])
    made = story.task("make")
    for index in range(3):
        assert links(story.task(f"use[{index}]")) == {story.task(f"make-2[{index}]").run_id: "hand-over"}
        assert links(story.task(f"note[{index}]")) == {made.run_id: "hand-over"}


@pytest.mark.skipif(KFP < (2, 17), reason="the local runner of this kfp runs nothing after a loop")
def test_what_comes_after_a_loop_is_linked_to_all_of_it(story: Story, local_runner: Path) -> None:
    pipelines.collected()
    assert story.parent.status == "FINISHED"
    assert set(links(story.task("collect"))) == {story.task(f"make[{index}]").run_id for index in range(3)}


def test_conditions(story: Story, local_runner: Path) -> None:
    pipelines.conditions(number=9)
    assert story.parent.status == "FINISHED"
    ran = {path.parent.name for path in local_runner.rglob("executor_output.json")}
    assert {task_of(run) for run in story.stages} == ran
    assert story.task("use").params == {"value": "large"}
    if KFP >= (2, 17):  # before, the local runner ran both branches
        assert ran == {"make", "use"}


def test_a_tracked_component_in_an_untracked_pipeline(story: Story, local_runner: Path) -> None:
    pipelines.plain()
    assert story.tasks == ["make#1", "use#1"]
    assert story.parent.status == "FINISHED", "its tasks saw that nothing runs any more"
    assert story.parent.tags["tracklayer.workflow"] == "plain"
    assert story.parent.tags["tracklayer.workflow_run"] == next(local_runner.iterdir()).name


def test_a_component_alone(story: Story, local_runner: Path) -> None:
    assert pipelines.make(number=4).output == "value 4"
    assert story.stage.status == "FINISHED"
    assert story.stage.params == {"number": "4"}
    assert story.parent.status == "FINISHED"


@pytest.mark.skipif(KFP < (2, 17), reason="the local runner of this kfp does not retry")
def test_retries(story: Story, local_runner: Path, tmp_path: Path) -> None:
    pipelines.retries(marker=str(tmp_path / "marker"))
    assert story.parent.status == "FINISHED"
    assert story.tasks == ["flaky#1", "flaky#2", "use#1"]
    first, second, used = story.stages
    assert (first.status, second.status) == ("FAILED", "FINISHED")
    assert first.tags["tracklayer.superseded_by"] == second.run_id
    assert links(used) == {second.run_id: "hand-over"}


def test_what_starts_the_pipeline_is_linked(story: Story, local_runner: Path) -> None:
    with tracklayer.track("trigger") as outer:
        pipelines.straight()
    close_workflow_run(outer.context, "FINISHED")
    (parent,) = [run for run in story.parents if run.tags["tracklayer.orchestrator"] == "kubeflow"]
    assert links(parent) == {outer.run_id: "token"}
    assert links(story.task("prepare")) == {outer.run_id: "token"}
    assert outer.run_id not in links(story.task("train"))


def test_a_server_that_is_not_there(local_runner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    pipelines.plain()
    with pytest.raises(RuntimeError, match="FAILURE"):
        pipelines.straight(at_least=0.95)


def test_tracking_that_is_switched_off(story: Story, local_runner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_ENABLED", "false")
    pipelines.straight()
    assert story.runs == []
    (made,) = local_runner.rglob("prepare/executor_output.json")
    assert "tracklayer" not in made.read_text()


def test_settings_that_are_wrong(story: Story, local_runner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_EXPERIMENT", "{nonsense}")
    assert pipelines.make(number=7).output == "value 7"
    pipelines.fork()


@pytest.mark.skipif(KFP < (2, 17), reason="the local runner of this kfp has no exit handlers")
def test_an_exit_task(story: Story, local_runner: Path) -> None:
    pipelines.exits()
    assert story.tasks == ["make#1"]
    assert story.parent.status == "FINISHED"


def test_track_in_an_untracked_component(story: Story, local_runner: Path) -> None:
    pipelines.by_hand_run(number=5)
    assert story.tasks == ["by-hand#1"]
    assert story.stage.metrics == {"number": 5.0}
    assert story.parent.status == "FINISHED"
