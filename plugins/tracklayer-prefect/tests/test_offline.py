"""The tracking server is away while flows run, and comes back: the story is then the same as without an outage."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect_story import Story

import tracklayer
from harness.outage import differences, flush, graph, journals, runs_of
from tracklayer.journal.recorders import close_recorders
from tracklayer_prefect import tracked_flow, tracked_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.store import Run


@tracked_task(stage="data-prep")
@task
def prepare(rows: int) -> list[int]:
    mlflow.log_metric("rows", rows)
    return list(range(rows))


@tracked_task(stage="training")
@task(retries=1)
def train(data: list[int], lr: float = 0.1) -> float:
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    assert context is not None
    mlflow.log_metric("auc", 0.9)
    if context.task_run.run_count == 1:
        raise ConnectionError("the first try fails")
    with mlflow.start_run(nested=True, run_name="fold"):
        mlflow.log_metric("fold_auc", 0.8)
    return 0.9


@tracked_task(stage="evaluation")
@task
def evaluate(auc: float, data: list[int]) -> str:
    run = tracklayer.current_run()
    assert run is not None
    run.log_metrics({"judged": auc})
    return "good"


@tracked_task(stage="part")
@task
def part(number: int) -> int:
    return number


@tracked_flow
@flow(name="inner")
def inner(auc: float) -> str:
    return evaluate(auc, [1])


@tracked_flow
@flow(name="straight")
def straight(rows: int = 3) -> str:
    data = prepare(rows)
    auc = train(data)
    mlflow.log_metric("in_the_body", 1)
    return evaluate(auc, data)


@tracked_flow
@flow(name="failing")
def failing() -> None:
    prepare(2)
    raise ValueError("no data")


@tracked_flow
@flow(name="mapped", task_runner=ThreadPoolTaskRunner(max_workers=3))  # type: ignore[arg-type]
def mapped() -> list[int]:
    return part.map(prepare(3)).result()


@tracked_flow
@flow(name="processes", task_runner=ProcessPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def processes() -> str:
    data = prepare.submit(3)
    evaluated: str = evaluate.submit(0.5, data).result()  # type: ignore[call-overload]  # a future is taken for its value
    return evaluated


@tracked_flow
@flow(name="nested")
def nested() -> str:
    return inner(0.7)


def untracked_flow() -> Callable[[], Any]:
    @flow(name="untracked")
    def untracked() -> list[int]:
        return prepare(2)

    return untracked


FLOWS: dict[str, Callable[[], Any]] = {
    "straight": straight,
    "failing": failing,
    "mapped": mapped,
    "processes": processes,
    "nested": nested,
    "untracked": untracked_flow(),
}


def called(run: Run) -> str:
    """Task runs have random ids in Prefect: what they are called is made of what they are for."""
    key = run.tags.get("tracklayer.key", "")
    tried = key.rpartition("#")[2] if "mlflow.parentRunId" in run.tags else ""
    told = sorted(run.params.items()) if run.tags.get("tracklayer.stage") == "part" else ""
    stage = run.name if run.name == "fold" else run.tags.get("tracklayer.stage", "")
    return f"{run.tags.get('tracklayer.workflow')}/{stage}#{tried}{told}"


@pytest.fixture
def play(orchestrated: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], Any]], Story]:
    """Runs a flow, tracked at a place, in an experiment of its own; what is to be done at the end of a process is done."""

    def run(uri: str, call: Callable[[], Any]) -> Story:
        story = Story(uri, f"prefect-{uuid.uuid4().hex[:12]}")
        monkeypatch.setenv("TRACKLAYER_EXPERIMENT", story.experiment)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with suppress(ValueError):  # of the flow that fails
            call()
        close_recorders()
        return story

    return run


@pytest.mark.parametrize("name", FLOWS)
def test_an_outage_leaves_no_trace_in_the_story(
    name: str,
    play: Callable[[str, Callable[[], Any]], Story],
    mlflow_server: MlflowServer,
    recording_proxy: RecordingProxy,
) -> None:
    online = play(mlflow_server.uri, FLOWS[name])
    flush(mlflow_server.uri)  # on a busy machine something may be late there, too
    with recording_proxy.refused():
        offline = play(recording_proxy.uri, FLOWS[name])
    assert offline.runs() == []
    flush(recording_proxy.uri)
    told, expected = (graph(runs_of(story.uri, story.experiment), called) for story in (offline, online))
    assert differences(told, expected) == []
    assert journals() == []


def test_a_cached_result_is_linked_to_the_run_that_made_it(
    play: Callable[[str, Callable[[], Any]], Story], mlflow_server: MlflowServer, recording_proxy: RecordingProxy
) -> None:
    mark = uuid.uuid4().hex

    @tracked_task(stage="data-prep")
    @task(cache_policy=INPUTS, persist_result=True)
    def load(mark: str) -> str:
        return mark

    @tracked_flow
    @flow(name="cached")
    def cached() -> None:
        load(mark)

    made = play(mlflow_server.uri, cached)
    flush(mlflow_server.uri)
    with recording_proxy.refused():
        reused = play(recording_proxy.uri, cached)
    flush(recording_proxy.uri)
    (maker,) = made.stages("data-prep")
    (user,) = reused.stages("data-prep")
    link = user.data.tags[f"mlflow.tracklayer.upstream.{maker.info.run_id}"]
    assert json.loads(link)["kind"] == "reused"
    assert user.data.tags["tracklayer.outcome"] == "cached"


def test_labels_lead_to_the_run_that_was_made_later(
    play: Callable[[str, Callable[[], Any]], Story], recording_proxy: RecordingProxy
) -> None:
    from prefect.client.orchestration import get_client

    from tracklayer_prefect.carrier import parent_of

    with recording_proxy.refused():
        story = play(recording_proxy.uri, straight)
    flush(recording_proxy.uri)
    parent = story.parent()
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(uuid.UUID(parent.data.tags["tracklayer.workflow_run"]))
    token = parent_of(flow_run)
    assert token is not None
    assert f"mlflow.tracklayer.id.{token.run.run_id}" in parent.data.tags
