"""Compiled pipelines, run as KFP's back end runs them, as far as that can be without a cluster."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import kubeflow_pipelines as pipelines
import pytest
from kubeflow_cluster import Cluster, compiled
from kubeflow_story import Story, links, task_of

import tracklayer
from tracklayer.context import RunRef, Token
from tracklayer.identity import format_token
from tracklayer.store.opening import open_store
from tracklayer.tracking import close_workflow_run
from tracklayer_kubeflow import TrackedPipeline, tracked_component, tracked_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[[TrackedPipeline], Cluster]


@pytest.fixture
def cluster(story: Story, tmp_path: Path) -> Start:
    """Runs of a pipeline on what stands for a cluster."""

    def start(pipeline: TrackedPipeline) -> Cluster:
        _, spec, platform = compiled(pipeline, tmp_path)
        environ = {"MLFLOW_TRACKING_URI": story.uri, "TRACKLAYER_EXPERIMENT": story.experiment}
        return Cluster(tmp_path, spec, platform, environ)

    return start


def on_kubernetes(pipeline: TrackedPipeline) -> TrackedPipeline:
    found: TrackedPipeline = tracked_pipeline(pipeline._pipeline, kubernetes=True)
    return found


@pytest.mark.parametrize("kubernetes", [True, False])
def test_a_pipeline_run_is_one_story(story: Story, cluster: Start, kubernetes: bool) -> None:
    run = cluster(tracked_pipeline(pipelines.straight._pipeline, kubernetes=kubernetes))
    prepared = run.run("prepare", {"rows": 4})
    assert prepared.code == 0, prepared.process.stderr
    assert story.parent.status == "RUNNING"
    trained = run.run("train", {"lr": 0.1}, artifacts={"data": prepared.artifact("data")})
    assert trained.code == 0, trained.process.stderr
    assert story.parent.status == "RUNNING"
    evaluated = run.run("evaluate", {"auc": 0.9, "at_least": 0.5})
    assert evaluated.code == 0, evaluated.process.stderr
    parent = story.parent
    assert parent.status == "FINISHED"
    assert parent.tags["tracklayer.key"] == f"kubeflow:default/straight/{run.run_id}"
    assert parent.tags["kfp.pipeline_run_id"] == run.run_id
    assert story.tasks == ["evaluate#1", "prepare#1", "train#1"]
    prepare, train, evaluate = story.stages
    assert {stage.status for stage in story.stages} == {"FINISHED"}
    assert {stage.tags["mlflow.parentRunId"] for stage in story.stages} == {parent.run_id}
    assert (prepare.params, train.params) == ({"rows": "4"}, {"lr": "0.1"})
    assert train.metrics == {"loss": 0.25, "auc": 0.9, "by_user": 1.0}
    assert links(train) == {prepare.run_id: "hand-over"}
    assert links(evaluate) == {train.run_id: "hand-over"}
    metadata = trained.output["artifacts"]["model"]["artifacts"][0]["metadata"]
    assert metadata["mlflow_run_id"] == train.run_id


def test_the_compiled_form_is_the_same_each_time_and_readable(tmp_path: Path) -> None:
    one, _, platform = compiled(pipelines.straight, tmp_path)
    two, _, _ = compiled(tracked_pipeline(pipelines.straight._pipeline), tmp_path)
    assert one == two
    assert "python3 -m tracklayer_kubeflow.supervise --stage training" in " ".join(one.split())
    assert str(tmp_path) not in one
    assert str(Path(__file__).parents[1]) not in one
    fields = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["fieldPathAsEnv"]
    assert {field["fieldPath"] for field in fields} == {
        "metadata.labels['pipeline/runid']",
        "metadata.annotations['workflows.argoproj.io/node-name']",
    }


def test_nothing_that_the_cache_looks_at_tells_runs_or_commits_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KFP's cache key: inputs, outputs, image, command and arguments."""
    pytest.importorskip("tracklayer_git")
    looked_at = []
    for commit in ("a" * 40, "b" * 40):
        monkeypatch.setenv("TRACKLAYER_GIT_COMMIT", commit)
        pipeline = tracked_pipeline(pipelines.straight._pipeline).with_token(f"tl1.{commit}")
        text, spec, _ = compiled(pipeline, tmp_path)
        assert commit in text
        for executor in spec["deploymentSpec"]["executors"].values():
            names = {item["name"] for item in executor["container"].pop("env")}
            assert names >= {"TRACKLAYER_KUBEFLOW_TAGS", "TRACKLAYER_PARENT"}
        looked_at.append(spec)
    assert looked_at[0] == looked_at[1]
    _, untracked, _ = compiled(pipelines.straight._pipeline, tmp_path)
    assert looked_at[0]["root"] == untracked["root"], "no inputs are added"
    assert looked_at[0]["components"] == untracked["components"]


def test_every_stage_run_carries_the_commit(story: Story, cluster: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tracklayer_git")
    monkeypatch.setenv("TRACKLAYER_GIT_COMMIT", "c0ffee" * 6 + "c0ff")
    run = cluster(tracked_pipeline(pipelines.straight._pipeline))
    run.run("prepare", {"rows": 4})
    assert [one.tags["mlflow.source.git.commit"] for one in story.runs] == ["c0ffee" * 6 + "c0ff"] * 2


def test_retries(story: Story, cluster: Start, tmp_path: Path) -> None:
    run = cluster(on_kubernetes(pipelines.retries))
    marker = str(tmp_path / "marker")
    failed = run.run("flaky", {"marker": marker}, environ={"KFP_RETRY_INDEX": "0"})
    assert failed.code == 1
    assert story.parent.status == "RUNNING", "KFP tries again"
    again = run.run("flaky", {"marker": marker}, node="flaky.executor(1)")
    assert again.code == 0
    assert run.run("use", {"value": "done"}).code == 0
    assert story.tasks == ["flaky#1", "flaky#2", "use#1"]
    first, second, used = story.stages
    assert (first.status, second.status, story.parent.status) == ("FAILED", "FINISHED", "FINISHED")
    assert first.tags["tracklayer.superseded_by"] == second.run_id
    assert links(used) == {second.run_id: "hand-over"}


def test_the_last_try_fails(story: Story, cluster: Start) -> None:
    run = cluster(on_kubernetes(pipelines.retries))
    for index in range(3):
        environ = {"KFP_RETRY_INDEX": str(index)}
        assert run.run("flaky", {"marker": "/nowhere/marker"}, environ=environ).code == 1
    assert story.parent.status == "FAILED"
    assert [stage.status for stage in story.stages] == ["FAILED"] * 3


def test_a_failure_marks_the_parent_and_a_rerun_clears_it(story: Story, cluster: Start) -> None:
    run = cluster(on_kubernetes(pipelines.straight))
    prepared = run.run("prepare", {"rows": 4})
    run.run("train", {"lr": 0.1}, artifacts={"data": prepared.artifact("data")})
    failed = run.run("evaluate", {"auc": 0.4, "at_least": 0.5})
    assert failed.code == 1
    assert story.parent.status == "FAILED"
    assert run.run("evaluate", {"auc": 0.6, "at_least": 0.5}).code == 0  # "Retry" on KFP's page
    assert story.parent.status == "FINISHED"


def test_nested_pipelines(story: Story, cluster: Start) -> None:
    run = cluster(on_kubernetes(pipelines.nested))
    assert run.run("make", {"number": 1}, task="make", node="inner.make.executor").code == 0
    assert run.run("make-2", {"number": 7}, task="make", node="inner-2.make.executor").code == 0
    assert run.run("use-2", {"value": "value 7"}, task="use", node="inner-2.use.executor").code == 0
    assert story.parent.status == "RUNNING"
    assert run.run("use", {"value": "value 1"}, task="use", node="inner.use.executor").code == 0
    assert story.parent.status == "RUNNING", "one more task certainly runs"
    assert run.run("use-3", {"value": "VALUE 1"}, task="use").code == 0
    assert story.parent.status == "FINISHED"
    assert story.tasks == ["inner-2.make#1", "inner-2.use#1", "inner.make#1", "inner.use#1", "use#1"]
    assert links(story.task("inner.use")) == {story.task("inner.make").run_id: "hand-over"}
    assert links(story.task("inner-2.use")) == {story.task("inner-2.make").run_id: "hand-over"}


def test_several_last_tasks(story: Story, cluster: Start) -> None:
    run = cluster(on_kubernetes(pipelines.fork))
    assert run.run("make", {"number": 1}).code == 0
    assert story.parent.status == "RUNNING"
    assert run.run("use", {"value": "value 1"}).code == 0
    assert story.parent.status == "FINISHED", "the others may have been cached"
    assert run.run("note", {"value": "value 1"}).code == 0
    assert (len(story.parents), story.parent.status) == (1, "FINISHED")
    assert run.run("evaluate", {"auc": 0.1, "at_least": 0.5}).code == 1
    assert (len(story.parents), story.parent.status) == (1, "FAILED")


@pytest.mark.parametrize("kubernetes", [True, False])
def test_iterations_are_told_apart(story: Story, cluster: Start, kubernetes: bool) -> None:
    run = cluster(tracked_pipeline(pipelines.loops._pipeline, kubernetes=kubernetes))
    assert run.run("make", {"number": 1}).code == 0
    for index in range(2):
        group = f"for-loop-2.iteration-iterations({index}:{index}).iteration-item"
        made = run.run("make-2", {"number": 10}, node=f"{group}.make-2.executor")
        assert made.code == 0, made.process.stderr
        assert run.run("use", {"value": "value 10"}, node=f"{group}.use.executor").code == 0
    assert len(story.parents) == 1
    assert story.parent.status == "FINISHED"
    made_in_loop = [stage for stage in story.stages if task_of(stage).startswith("make-2[")]
    assert len({task_of(stage) for stage in made_in_loop}) == 2
    if kubernetes:
        assert story.tasks == ["make#1", "make-2[0]#1", "make-2[1]#1", "use[0]#1", "use[1]#1"]
        assert links(story.task("use[1]")) == {story.task("make-2[1]").run_id: "hand-over"}


def test_iterations_in_an_untracked_pipeline_are_told_apart(story: Story, cluster: Start) -> None:
    run = cluster(pipelines.loops._pipeline)
    for index in range(2):
        node = f"for-loop-2.iteration-iterations({index}:{index}).iteration-item.make-2.executor"
        assert run.run("make-2", {"number": 10}, node=node).code == 0
    assert len(set(story.tasks)) == 2
    assert [run.status for run in story.runs] == ["FINISHED"] * 3


def test_a_cached_task_is_linked_as_reused(story: Story, cluster: Start) -> None:
    pipeline = on_kubernetes(pipelines.straight)
    first, second = cluster(pipeline), cluster(pipeline)
    prepared = first.run("prepare", {"rows": 4})
    artifact = prepared.artifact("data")
    assert second.run("train", {"lr": 0.3}, artifacts={"data": artifact}).code == 0
    (prepare,) = [run for run in story.stages if task_of(run) == "prepare"]
    train = story.task("train")
    assert links(train) == {prepare.run_id: "reused"}
    assert train.tags["tracklayer.workflow_run"] == second.run_id
    assert train.tags["mlflow.parentRunId"] != prepare.tags["mlflow.parentRunId"]


def test_an_image_without_our_package(story: Story, cluster: Start, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "tracklayer_kubeflow").mkdir(parents=True)
    (hidden / "tracklayer_kubeflow" / "__init__.py").write_text("raise ModuleNotFoundError('not in this image')")
    run = cluster(on_kubernetes(pipelines.straight))
    ran = run.run("prepare", {"rows": 4}, environ={"PYTHONPATH": str(hidden)})
    assert ran.code == 0
    assert ran.process.stderr == ""
    assert ran.artifact("data")["metadata"] == {"rows": 4}
    assert story.runs == []
    failed = run.run("evaluate", {"auc": 0.1, "at_least": 0.5}, environ={"PYTHONPATH": str(hidden)})
    assert failed.code == 1


def test_the_token_of_what_triggers_a_pipeline(story: Story, cluster: Start, tmp_path: Path) -> None:
    pipeline = on_kubernetes(pipelines.straight)
    assert pipeline.with_token() is pipeline
    with tracklayer.track("trigger") as outer:
        run = cluster(pipeline.with_token())
    close_workflow_run(outer.context, "FINISHED")
    prepared = run.run("prepare", {"rows": 4})
    assert run.run("train", {"lr": 0.1}, artifacts={"data": prepared.artifact("data")}).code == 0
    (parent,) = [one for one in story.parents if one.tags["tracklayer.orchestrator"] == "kubeflow"]
    assert links(parent) == {outer.run_id: "token"}
    assert links(story.task("prepare")) == {outer.run_id: "token"}
    assert links(story.task("train")) == {story.task("prepare").run_id: "hand-over"}
    assert "TRACKLAYER_PARENT" not in compiled(pipeline, tmp_path)[0]


def test_a_token_as_a_parameter(story: Story, cluster: Start) -> None:
    run = cluster(on_kubernetes(pipelines.straight))
    outside = RunRef(run_id="1" * 32, experiment_id="7")
    token = format_token(Token(run=outside))
    assert run.run("prepare", {"rows": 4, "tracklayer_token": token}).code == 0
    (prepare,) = story.stages
    assert links(prepare) == {outside.run_id: "token"}
    assert "tracklayer_token" not in prepare.params


def test_the_run_that_kfp_made_for_the_task_is_adopted(story: Story, cluster: Start) -> None:
    store = open_store(story.uri, connect_timeout=5, timeout=30)
    experiment = store.create_experiment(f"native-{uuid.uuid4().hex}", {})
    native_parent = store.create_run(experiment, name="native", start_time=1, tags={})
    tags = {"mlflow.parentRunId": native_parent.run_id}
    native = store.create_run(experiment, name="prepare", start_time=1, tags=tags)
    config = {
        "endpoint": story.uri,
        "parentRunId": native_parent.run_id,
        "experimentId": experiment,
        "authType": "none",
    }
    run = cluster(on_kubernetes(pipelines.straight))
    prepared = run.run(
        "prepare",
        {"rows": 4},
        environ={
            "MLFLOW_RUN_ID": native.run_id,
            "MLFLOW_EXPERIMENT_ID": experiment,
            "KFP_MLFLOW_CONFIG": json.dumps(config),
        },
    )
    assert prepared.code == 0, prepared.process.stderr
    adopted = store.get_run(native.run_id)
    assert adopted.status == "RUNNING", "KFP closes it"
    assert adopted.params == {}, "KFP logs them"
    assert adopted.tags["tracklayer.stage"] == "data-prep"
    assert adopted.tags["mlflow.parentRunId"] == native_parent.run_id
    assert prepared.artifact("data")["metadata"]["mlflow_run_id"] == native.run_id
    assert store.get_run(native_parent.run_id).status == "RUNNING"
    assert story.runs == [], "no run of ours beside it"


def test_below_the_run_that_kfp_made_for_the_pipeline(story: Story, cluster: Start) -> None:
    store = open_store(story.uri, connect_timeout=5, timeout=30)
    experiment = store.create_experiment(f"native-{uuid.uuid4().hex}", {})
    parent = store.create_run(experiment, name="native", start_time=1, tags={})
    config = {"endpoint": story.uri, "parentRunId": parent.run_id, "experimentId": experiment, "authType": "none"}
    run = cluster(on_kubernetes(pipelines.straight))
    environ = {"KFP_MLFLOW_CONFIG": json.dumps(config), "TRACKLAYER_EXPERIMENT": ""}
    failed = run.run("evaluate", {"auc": 0.1, "at_least": 0.5}, environ=environ)
    assert failed.code == 1
    (stage,) = [one for one in store.search_runs([experiment]) if one.run_id != parent.run_id]
    assert stage.tags["mlflow.parentRunId"] == parent.run_id
    assert stage.status == "FAILED"
    assert store.get_run(parent.run_id).status == "RUNNING", "KFP closes it"


@pytest.mark.parametrize(("state", "status"), [("COMPLETE", "FINISHED"), ("FAILED", "FAILED"), ("CANCELED", "KILLED")])
def test_an_exit_task_ends_the_parent_by_kfps_word(story: Story, cluster: Start, state: str, status: str) -> None:
    run = cluster(on_kubernetes(pipelines.exits))
    assert run.run("make", {"number": 1}).code == 0
    final = {"state": state, "pipelineJobResourceName": "x", "pipelineTaskName": "exit-handler-1", "error": {}}
    final["error"] = {"code": 9, "message": "the node was lost"} if state == "FAILED" else {}
    ended = run.run("finish-pipeline-run", {"status": final})
    assert ended.code == 0
    assert "tracking" not in ended.process.stderr
    assert story.tasks == ["make#1"]
    assert story.parent.status == status
    if state == "FAILED":
        assert story.parent.tags["tracklayer.error.message"] == "the node was lost"


def test_track_in_an_untracked_component(story: Story, cluster: Start) -> None:
    run = cluster(on_kubernetes(pipelines.by_hand_run))
    assert run.run("by-hand", {"number": 3}).code == 0
    assert task_of(story.stage).startswith("by-hand")
    assert story.stage.tags["tracklayer.stage"] == "counting"
    assert story.stage.params == {"number": "3"}
    assert story.parent.tags["tracklayer.workflow_run"] == run.run_id
    assert story.parent.tags["tracklayer.orchestrator"] == "kubeflow"


def test_settings_in_a_file_reach_the_tasks(tmp_path: Path) -> None:
    (tmp_path / "tracklayer.toml").write_text(
        'experiment = "{team}/{workflow}"\nteam = "risk"\nattempts = "reuse"\ntracking_uri = "http://mlflow:5000"\n'
        'ui_url = "http://someone:secret@mlflow"\n[kubeflow]\nui_url = "https://kfp.example.com"\n'
    )
    _, spec, _ = compiled(tracked_pipeline(pipelines.plain), tmp_path)
    env = {item["name"]: item["value"] for item in spec["deploymentSpec"]["executors"]["exec-make"]["container"]["env"]}
    assert env["TRACKLAYER_EXPERIMENT"] == "{team}/{workflow}"
    assert env["TRACKLAYER_TEAM"] == "risk"
    assert env["TRACKLAYER_ATTEMPTS"] == "reuse"
    assert env["TRACKLAYER_TRACKING_URI"] == "http://mlflow:5000"
    assert env["TRACKLAYER_KUBEFLOW_UI_URL"] == "https://kfp.example.com"
    assert "TRACKLAYER_UI_URL" not in env, "it holds a password"


def test_variables_and_secrets_of_the_author(tmp_path: Path) -> None:
    pipeline = tracked_pipeline(
        pipelines.plain,
        environment={"MLFLOW_TRACKING_URI": "http://mlflow.mlops:5000"},
        secrets={"MLFLOW_TRACKING_TOKEN": ("mlflow", "token")},
    )
    _, spec, platform = compiled(pipeline, tmp_path)
    for label, executor in spec["deploymentSpec"]["executors"].items():
        env = {item["name"]: item["value"] for item in executor["container"]["env"]}
        assert env["MLFLOW_TRACKING_URI"] == "http://mlflow.mlops:5000"
        secrets = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]["secretAsEnv"]
        assert secrets == [
            {
                "secretName": "mlflow",
                "secretNameParameter": {"runtimeValue": {"constant": "mlflow"}},
                "keyToEnv": [{"secretKey": "token", "envVar": "MLFLOW_TRACKING_TOKEN"}],
                "optional": False,
            }
        ]


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"])
def test_a_secret_among_the_plain_variables_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} looks like a secret.*use secrets="):
        tracked_pipeline(pipelines.plain, environment={name: "hunter2"})


def test_what_goes_wrong_with_tracking_does_not_keep_a_pipeline_from_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr("tracklayer_kubeflow.graph.tasks", fail)
    _, spec, _ = compiled(tracked_pipeline(pipelines.plain), tmp_path)
    assert "supervise" in str(spec["deploymentSpec"])
    assert "the tasks of pipeline 'plain' will find out less about it: RuntimeError: no idea" in caplog.text


def test_broken_settings_do_not_keep_a_pipeline_from_compiling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tracklayer.toml").write_text('attempts = "never"\n')
    _, spec, _ = compiled(tracked_pipeline(pipelines.plain), tmp_path)
    assert "TRACKLAYER_KUBEFLOW_TASK" in str(spec["deploymentSpec"])
    assert "compiled without the settings" in caplog.text


def test_decorators_in_the_wrong_place() -> None:
    def function(number: int) -> int:
        return number

    with pytest.raises(TypeError, match=r"stands above @dsl.component.*given function"):
        tracked_component(stage="x")(function)
    with pytest.raises(TypeError, match=r"stands above @dsl.pipeline.*given 'function'"):
        tracked_pipeline(function)
    with pytest.raises(TypeError, match="pipelines: @tracked_pipeline"):
        tracked_component(pipelines.straight)
    with pytest.raises(TypeError, match="components: @tracked_component"):
        tracked_pipeline(pipelines.make)
    with pytest.raises(TypeError, match="tracked already"):
        tracked_pipeline(pipelines.straight)
    with pytest.raises(TypeError, match="tracked already"):
        tracked_component(pipelines.make, stage="x")
    with pytest.raises(TypeError, match=r"@tracked_component\(stage='training'\)"):
        tracked_component("training")
    with pytest.raises(TypeError, match="plain text"):
        tracked_component(pipelines.untracked, stage="{{$.x}}")


def test_the_component_that_is_given_is_not_changed() -> None:
    before = pipelines.untracked.component_spec
    tracked = tracked_component(pipelines.untracked, stage="x")
    assert pipelines.untracked.component_spec is before
    assert "supervise" not in str(before.implementation.container.command)
    assert "supervise" in str(tracked.component_spec.implementation.container.command)
    assert tracked.python_func is pipelines.untracked.python_func
