"""The tracking server is away while a pipeline runs, and comes back: the story is then the same as without an outage."""

from __future__ import annotations

import json
import os
import signal
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kubeflow_pipelines as pipelines
import pytest
from kubeflow_cluster import Cluster, Ran, compiled
from kubeflow_story import Executor, Story

from harness.outage import differences, flush, graph, journals
from harness.proxy import black_hole
from tracklayer.identity import parse_token
from tracklayer.journal.recorders import close_recorders
from tracklayer.provisional import is_provisional
from tracklayer_kubeflow import TrackedPipeline, tracked_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy

    Steps = Sequence[Mapping[str, Any]]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kfp")


@dataclass
class Scene:
    """A pipeline run on what stands for a cluster, as a story of its own."""

    story: Story
    cluster: Cluster

    def run(self, component: str, parameters: Mapping[str, Any] | None = None, **options: Any) -> Ran:
        ran = self.cluster.run(component, parameters, **options)
        assert ran.code == options.get("expected", 0), ran.process.stderr
        return ran


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    """Begins a run of a pipeline: ``scene(pipeline, uri)``."""

    def begin(pipeline: TrackedPipeline, uri: str, **environ: str) -> Scene:
        folder = tmp_path / uuid.uuid4().hex[:8]
        folder.mkdir()
        on_kubernetes = tracked_pipeline(pipeline._pipeline, kubernetes=True)
        _, spec, platform = compiled(on_kubernetes, folder)
        story = Story(uri, f"kubeflow-{uuid.uuid4().hex[:12]}")
        told = {
            "MLFLOW_TRACKING_URI": uri,
            "TRACKLAYER_EXPERIMENT": story.experiment,
            "TRACKLAYER_JOURNAL": os.environ["TRACKLAYER_JOURNAL"],  # a volume
            **environ,
        }
        return Scene(story, Cluster(folder, spec, platform, told))

    return begin


def straight(scene: Scene) -> list[Ran]:
    """The whole of the pipeline of that name, task by task."""
    prepared = scene.run("prepare", {"rows": 4})
    trained = scene.run("train", {"lr": 0.1}, artifacts={"data": prepared.artifact("data")})
    evaluated = scene.run("evaluate", {"auc": 0.9, "at_least": 0.5})
    return [prepared, trained, evaluated]


def retried(scene: Scene) -> None:
    """A task that fails once, and one that uses its result."""
    marker = "marker"  # each pod begins in a folder of the scene's own
    assert scene.cluster.run("flaky", {"marker": marker}, environ={"KFP_RETRY_INDEX": "0"}).code == 1
    scene.run("flaky", {"marker": marker}, node="flaky.executor(1)")
    scene.run("use", {"value": "done"})


def failing(scene: Scene) -> None:
    """A pipeline whose last task fails."""
    prepared = scene.run("prepare", {"rows": 4})
    scene.run("train", {"lr": 0.1}, artifacts={"data": prepared.artifact("data")})
    assert scene.cluster.run("evaluate", {"auc": 0.4, "at_least": 0.5}).code == 1


@pytest.mark.parametrize(
    ("pipeline", "play"),
    [(pipelines.straight, straight), (pipelines.retries, retried), (pipelines.straight, failing)],
    ids=["straight", "retries", "failing"],
)
def test_an_outage_leaves_no_trace_in_the_story(
    scene: Callable[..., Scene],
    mlflow_server: MlflowServer,
    recording_proxy: RecordingProxy,
    pipeline: TrackedPipeline,
    play: Callable[[Scene], object],
) -> None:
    online = scene(pipeline, mlflow_server.uri)
    play(online)
    flush(mlflow_server.uri)  # on a busy machine something may be late there, too
    offline = scene(pipeline, recording_proxy.uri)
    with recording_proxy.refused():
        play(offline)
    assert offline.story.runs == []
    flush(recording_proxy.uri)
    assert differences(graph(offline.story.runs), graph(online.story.runs)) == []
    assert [run.tags["tracklayer.key"] for run in offline.story.parents] == [
        f"kubeflow:default/{offline.cluster.name}/{offline.cluster.run_id}"
    ]
    assert journals() == []


@pytest.mark.parametrize("away", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_an_outage_during_some_tasks(
    scene: Callable[..., Scene], mlflow_server: MlflowServer, recording_proxy: RecordingProxy, away: Sequence[int]
) -> None:
    online = scene(pipelines.straight, mlflow_server.uri)
    straight(online)
    flush(mlflow_server.uri)  # on a busy machine something may be late there, too
    told = scene(pipelines.straight, recording_proxy.uri)
    made: list[Ran] = []
    # Each pod has a disk of its own here, so no task finds what an earlier one left.
    steps: list[Callable[[dict[str, str]], Ran]] = [
        lambda disk: told.run("prepare", {"rows": 4}, environ=disk),
        lambda disk: told.run("train", {"lr": 0.1}, artifacts={"data": made[0].artifact("data")}, environ=disk),
        lambda disk: told.run("evaluate", {"auc": 0.9, "at_least": 0.5}, environ=disk),
    ]
    disks = [str(told.cluster.folder / f"disk-{number}") for number in range(3)]
    for number, step in enumerate(steps):
        disk = {"TRACKLAYER_JOURNAL": disks[number]}
        if number in away:
            with recording_proxy.refused():
                made.append(step(disk))
        else:
            made.append(step(disk))
    for number in (*reversed(away), *range(3)):  # the later ones first: nobody can choose the order
        flush(recording_proxy.uri, journal=disks[number])
    assert differences(graph(told.story.runs), graph(online.story.runs)) == []
    assert [journals(disk) for disk in disks] == [[], [], []]


def test_what_is_handed_over_meanwhile_leads_to_the_run(
    scene: Callable[..., Scene], recording_proxy: RecordingProxy
) -> None:
    told = scene(pipelines.straight, recording_proxy.uri)
    with recording_proxy.refused():
        made = told.run("prepare", {"rows": 4}).output["artifacts"]["data"]["artifacts"][0]["metadata"]
    token = parse_token(made["tracklayer_token"])
    assert is_provisional(token.run.run_id)
    assert token.run.key == f"kubeflow:default/straight/{told.cluster.run_id}/prepare#1"
    flush(recording_proxy.uri)
    assert f"mlflow.tracklayer.id.{token.run.run_id}" in told.story.task("prepare").tags


def test_a_local_run_while_the_server_is_away(
    mlflow_server: MlflowServer, recording_proxy: RecordingProxy, local_runner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = [Story(uri, f"kubeflow-{uuid.uuid4().hex[:12]}") for uri in (mlflow_server.uri, recording_proxy.uri)]
    for story in stories:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", story.uri)
        monkeypatch.setenv("TRACKLAYER_EXPERIMENT", story.experiment)
        if story.uri == recording_proxy.uri:
            with recording_proxy.refused():
                pipelines.straight(rows=5)
        else:
            pipelines.straight(rows=5)
    close_recorders()  # this process ran the pipelines, and would deliver what it finds, too
    flush(recording_proxy.uri)
    online, offline = (graph(story.runs) for story in stories)
    assert differences(offline, online) == []


LOGGING = """
def component(how: str):
    import mlflow, os, signal, tracklayer
    tracklayer.current_run().log_metrics({"by_us": 1.0})
    for step in range(300):
        mlflow.log_metric("loss", step, step=step)
    with mlflow.start_run(nested=True, run_name="fold"):
        mlflow.log_metric("fold_loss", 0.5)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exits":
            os._exit(7)
"""


@pytest.mark.parametrize("how", ["killed", "exits"])
@pytest.mark.parametrize("away", [False, True])
def test_what_a_component_logged_before_it_was_killed(
    story: Story,
    recording_proxy: RecordingProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    away: bool,
) -> None:
    """Its supervisor delivers it, before it ends the run; or leaves it for later with the rest."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    executor = Executor(tmp_path, LOGGING, {"how": how})
    if away:
        with recording_proxy.refused():
            ran = executor.run()
        assert story.runs == []
        flush(recording_proxy.uri)
    else:
        ran = executor.run()
    assert ran.returncode == (-signal.SIGKILL if how == "killed" else 7)
    (stage,) = [run for run in story.stages if "tracklayer.key" in run.tags]
    assert stage.metrics == {"by_us": 1.0, "loss": 299.0}
    assert stage.status == ("KILLED" if how == "killed" else "FAILED")
    (fold,) = [run for run in story.runs if run.tags.get("mlflow.parentRunId") == stage.run_id]
    assert fold.metrics == {"fold_loss": 0.5}
    assert fold.status != "RUNNING"
    assert journals() == []


def test_the_rest_leaves_as_an_output_artifact(
    story: Story, recording_proxy: RecordingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pod's disk goes away: the component has an output for it, which KFP stores."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    code = (
        "def component(tracklayer_journal: dsl.Output[dsl.Artifact], model: dsl.Output[dsl.Model]):\n"
        "    import mlflow\n    mlflow.log_metric('loss', 0.5)\n    open(model.path, 'w').close()\n"
    )
    outputs = {"tracklayer_journal": "system.Artifact", "model": "system.Model"}
    executor = Executor(tmp_path, code, artifacts=outputs)
    with recording_proxy.refused():
        assert executor.run().returncode == 0
    carried = executor.output_file.with_name("tracklayer_journal")
    assert any(carried.iterdir())
    flush_from(recording_proxy.uri, carried)
    assert (story.stage.metrics, story.stage.status) == ({"loss": 0.5}, "FINISHED")


@pytest.mark.parametrize("server", ["frozen", "black-holed"])
def test_the_rest_leaves_although_a_request_is_under_way(
    story: Story, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """Packets vanish, so whoever is to let go of the journal is in the middle of a request whenever one looks."""
    monkeypatch.setenv("TRACKLAYER_PATIENCE", "0.75")
    code = (
        "def component(tracklayer_journal: dsl.Output[dsl.Artifact]):\n"
        "    import mlflow, time\n    mlflow.log_metric('loss', 0.5)\n    time.sleep({pause})\n"
    )
    carried = []
    with black_hole() as dead:
        uri = {"frozen": mlflow_server.uri, "black-holed": dead}[server]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        if server == "frozen":
            mlflow_server.freeze()
        try:
            for number, pause in enumerate((0.0, 0.25, 0.5)):
                (tmp_path / str(number)).mkdir()
                outputs = {"tracklayer_journal": "system.Artifact"}
                executor = Executor(tmp_path / str(number), code.format(pause=pause), artifacts=outputs)
                assert executor.run().returncode == 0
                carried.append(executor.output_file.with_name("tracklayer_journal"))
        finally:
            if server == "frozen":
                mlflow_server.thaw()
    assert [bool(list(place.iterdir())) for place in carried if place.is_dir()] == [True] * 3
    if server == "frozen":
        flush_from(mlflow_server.uri, carried[0])
        assert {run.status for run in story.stages} == {"FINISHED"}
        assert {str(run.metrics) for run in story.stages} == {"{'loss': 0.5}"}


def test_the_rest_leaves_to_where_the_settings_say(
    story: Story, recording_proxy: RecordingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    monkeypatch.setenv("TRACKLAYER_CARRY", (tmp_path / "bucket").as_uri())
    executor = Executor(tmp_path, "def component():\n    import mlflow\n    mlflow.log_metric('loss', 0.5)\n")
    with recording_proxy.refused():
        assert executor.run().returncode == 0
    flush_from(recording_proxy.uri, (tmp_path / "bucket").as_uri())
    assert (story.stage.metrics, story.stage.status) == ({"loss": 0.5}, "FINISHED")


def flush_from(uri: str, place: object) -> None:
    flush(uri, arguments=("--from", str(place)), journal=os.devnull + "-none")


def test_the_run_that_kfp_made_is_adopted_while_the_server_is_away(
    story: Story, recording_proxy: RecordingProxy, scene: Callable[..., Scene]
) -> None:
    from tracklayer.store.opening import open_store

    store = open_store(story.uri, connect_timeout=5, timeout=30)
    experiment = store.create_experiment(story.experiment, {})
    made = store.create_run(experiment, name="by KFP", start_time=1, tags={})
    told = scene(pipelines.straight, recording_proxy.uri)
    environ = {"MLFLOW_RUN_ID": made.run_id, "MLFLOW_EXPERIMENT_ID": experiment}
    with recording_proxy.refused():
        told.run("prepare", {"rows": 4}, environ=environ)
    flush(recording_proxy.uri)
    run = store.get_run(made.run_id)
    assert run.tags["tracklayer.stage"] == "data-prep"
    assert run.status == "RUNNING", "KFP ends it"
    assert told.story.runs == []


@pytest.mark.parametrize("server", ["refused", "black-holed"])
def test_a_task_ends_as_ever_and_hardly_later(tmp_path: Path, server: str) -> None:
    import time

    executor = Executor(tmp_path, "def component() -> str:\n    return 'x'")
    executor.run(tracked=False)
    started = time.monotonic()
    executor.run(tracked=False)
    plain = time.monotonic() - started
    with black_hole() as dead:
        uri = {"refused": "http://127.0.0.1:9", "black-holed": dead}[server]
        started = time.monotonic()
        ran = executor.run(environ={"MLFLOW_TRACKING_URI": uri})
        took = time.monotonic() - started
    assert ran.returncode == 0
    assert json.loads(executor.output_file.read_text()) == {"parameterValues": {"Output": "x"}}
    assert took < plain + 10, "it is the bench that measures; here it must only not hang"
