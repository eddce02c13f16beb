from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import mlflow
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.context import FlowRunContext, TaskRunContext
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect_story import Story, links

import tracklayer
from tracklayer_prefect import token, tracked_flow, tracked_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import pytest


@tracked_task(stage="data-prep")
@task
def prepare(rows: int) -> list[int]:
    mlflow.log_metric("rows", rows)
    return list(range(rows))


@tracked_task(stage="training")
@task
def train(data: list[int], lr: float = 0.1) -> float:
    mlflow.log_metric("auc", 0.9)
    return 0.9


def test_a_flow_run_is_a_parent_and_each_task_a_run_below_it(story: Story) -> None:
    @tracked_flow
    @flow(name="flights")
    def flights(rows: int = 3) -> float:
        """Flights that left New York."""
        mlflow.log_metric("in_the_body", 1)
        return train(prepare(rows))

    assert flights() == 0.9

    parent, prepared, trained = story.runs()
    assert {run.info.status for run in story.runs()} == {"FINISHED"}
    assert parent.data.params == {"rows": "3"}
    assert parent.data.metrics == {"in_the_body": 1.0}
    assert parent.data.tags["tracklayer.orchestrator"] == "prefect"
    assert parent.data.tags["tracklayer.workflow"] == "flights"
    assert "Flights that left New York" in parent.data.tags["mlflow.note.content"]
    assert {run.data.tags["mlflow.parentRunId"] for run in (prepared, trained)} == {parent.info.run_id}
    assert prepared.data.tags["tracklayer.stage"] == "data-prep"
    assert prepared.data.params == {"rows": "3"}
    assert prepared.data.metrics == {"rows": 3.0}
    assert trained.data.params["lr"] == "0.1"
    assert trained.data.metrics == {"auc": 0.9}
    assert links(trained) == {prepared.info.run_id}
    assert links(prepared) == set()


def test_mapped_tasks_have_a_run_each_with_what_each_logged(story: Story) -> None:
    @tracked_task
    @task
    def score(part: int) -> int:
        mlflow.log_metric("part", part)
        return part

    @tracked_flow
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=3))  # type: ignore[arg-type]
    def mapped() -> list[int]:
        return score.map(range(6)).result()

    assert mapped() == list(range(6))
    assert len(story.runs()) == 7  # no orphan, no second parent
    assert {run.info.status for run in story.runs()} == {"FINISHED"}
    assert sorted(run.data.metrics["part"] for run in story.stages("score")) == [0, 1, 2, 3, 4, 5]
    assert all(float(run.data.params["part"]) == run.data.metrics["part"] for run in story.stages("score"))
    assert len({run.data.tags["tracklayer.key"] for run in story.runs()}) == 7


def test_async_tasks_side_by_side_have_a_run_each(story: Story) -> None:
    @tracked_task
    @task
    async def score(part: int) -> int:
        await asyncio.sleep(0.05 * (4 - part))
        mlflow.log_metric("part", part)
        await asyncio.sleep(0.05)
        mlflow.log_metric("squared", part * part)
        return part

    @tracked_flow
    @flow
    async def gathered() -> list[int]:
        mlflow.log_metric("before", 1)
        scores = list(await asyncio.gather(*(score(part) for part in range(4))))
        mlflow.log_metric("after", 1)
        return scores

    assert asyncio.run(gathered()) == [0, 1, 2, 3]
    assert len(story.runs()) == 5
    assert {run.info.status for run in story.runs()} == {"FINISHED"}
    assert sorted(tuple(run.data.metrics.items()) for run in story.stages("score")) == sorted(
        tuple({"part": float(part), "squared": float(part * part)}.items()) for part in range(4)
    )
    assert story.parent().data.metrics == {"before": 1.0, "after": 1.0}


def test_a_generator_task_is_current_only_while_its_own_code_runs(story: Story) -> None:
    @tracked_task(stage="data-prep")
    @task
    def batches(to: int) -> Iterator[int]:
        for number in range(to):
            mlflow.log_metric("made", number)
            yield number

    @tracked_flow
    @flow
    def consumer() -> int:
        total = 0
        for number in batches(3):
            mlflow.log_metric("consumed", number)
            total += number
        return total

    assert consumer() == 3
    assert story.parent().data.metrics == {"consumed": 2.0}
    assert story.stage("data-prep").data.metrics == {"made": 2.0}
    assert {run.info.status for run in story.runs()} == {"FINISHED"}


def test_an_async_generator_task_too(story: Story) -> None:
    @tracked_task(stage="data-prep")
    @task
    async def batches(to: int) -> AsyncIterator[int]:
        for number in range(to):
            mlflow.log_metric("made", number)
            yield number

    @tracked_flow
    @flow
    async def consumer() -> int:
        total = 0
        async for number in batches(3):
            mlflow.log_metric("consumed", number)
            total += number
        return total

    assert asyncio.run(consumer()) == 3
    assert story.parent().data.metrics == {"consumed": 2.0}
    assert story.stage("data-prep").data.metrics == {"made": 2.0}
    assert {run.info.status for run in story.runs()} == {"FINISHED"}


def test_generator_flows_are_tracked(story: Story) -> None:
    @tracked_flow
    @flow
    def numbers() -> Iterator[int]:
        yield 1
        mlflow.log_metric("between", 1)
        yield 2

    @tracked_flow
    @flow
    async def numbers_later() -> AsyncIterator[int]:
        yield 3
        mlflow.log_metric("between", 2)
        yield 4

    async def collect() -> list[int]:
        return [number async for number in numbers_later()]

    assert list(numbers()) == [1, 2]
    assert asyncio.run(collect()) == [3, 4]
    assert [run.data.metrics["between"] for run in story.parents()] == [1.0, 2.0]
    assert {run.info.status for run in story.runs()} == {"FINISHED"}


def test_a_retry_is_a_run_of_its_own_and_supersedes_the_earlier_try(story: Story) -> None:
    @tracked_task(stage="training")
    @task(retries=2)
    def flaky() -> int:
        run = TaskRunContext.get()
        assert run is not None
        mlflow.log_metric("try", run.task_run.run_count)
        if run.task_run.run_count < 3:
            raise ValueError(f"try {run.task_run.run_count} failed")
        return 7

    @tracked_flow
    @flow
    def retried() -> int:
        return flaky()

    assert retried() == 7
    first, second, third = story.stages("training")
    assert [run.info.status for run in (first, second, third)] == ["FAILED", "FAILED", "FINISHED"]
    assert [run.data.metrics["try"] for run in (first, second, third)] == [1.0, 2.0, 3.0]
    assert first.data.tags["tracklayer.error.message"] == "try 1 failed"
    assert "tracklayer.superseded_by" in first.data.tags
    assert second.data.tags["tracklayer.superseded_by"] == third.info.run_id
    assert story.parent().info.status == "FINISHED"


def test_a_cached_result_is_recorded_and_linked_to_the_run_that_made_it(story: Story) -> None:
    calls = []

    @tracked_task(stage="data-prep")
    @task(cache_policy=INPUTS, persist_result=True)
    def expensive(seed: str) -> str:
        calls.append(seed)
        return seed

    @tracked_flow
    @flow
    def reuse(seed: str) -> str:
        return expensive(seed)

    assert reuse(story.experiment) == reuse(story.experiment)
    assert len(calls) == 1
    made, reused = story.stages("data-prep")
    assert reused.data.tags["tracklayer.outcome"] == "cached"
    assert reused.info.status == "FINISHED"
    assert links(reused) == {made.info.run_id}
    (link,) = [value for name, value in reused.data.tags.items() if "upstream" in name]
    assert "reused" in link
    assert "tracklayer.outcome" not in made.data.tags


def test_a_task_that_calls_a_task(story: Story) -> None:
    @tracked_task
    @task
    def inner(number: int) -> int:
        mlflow.log_metric("inner", number)
        return number + 1

    @tracked_task
    @task
    def outer(number: int) -> int:
        mlflow.log_metric("outer", number)
        result = inner(number)
        mlflow.log_metric("outer_after", result)
        return result

    @tracked_flow
    @flow
    def nested() -> int:
        return outer(1)

    assert nested() == 2
    assert len(story.runs()) == 3
    assert story.stage("inner").data.metrics == {"inner": 1.0}
    assert story.stage("outer").data.metrics == {"outer": 1.0, "outer_after": 2.0}


def test_a_thread_of_a_task_logs_to_the_tasks_run(story: Story) -> None:
    @tracked_task
    @task
    def threaded() -> None:
        thread = threading.Thread(target=mlflow.log_metric, args=("from_a_thread", 1))
        thread.start()
        thread.join()

    @tracked_flow
    @flow
    def with_thread() -> None:
        threaded()

    with_thread()
    assert len(story.runs()) == 2
    assert story.stage("threaded").data.metrics == {"from_a_thread": 1.0}


def test_subprocesses_of_a_task_get_its_token(story: Story) -> None:
    seen = []

    @tracked_task
    @task
    def spawns() -> None:
        seen.extend([os.environ.get("TRACKLAYER_PARENT"), token()])

    @tracked_flow
    @flow
    def spawning() -> None:
        spawns()

    spawning()
    assert seen[0] is not None
    assert seen[0] == seen[1]
    assert tracklayer.identity.parse_token(seen[0]).run.run_id == story.stage("spawns").info.run_id
    assert "TRACKLAYER_PARENT" not in os.environ
    assert token() is None


@tracked_task
@task
def in_a_process(part: int) -> dict[str, Any]:
    mlflow.log_metric("part", part)
    flow_run = FlowRunContext.get()
    assert flow_run is not None
    return {"pid": os.getpid(), "part": part, "detached": flow_run.detached}


@tracked_task
@task
def after(number: int) -> int:
    return number + 1


@tracked_flow
@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def in_processes() -> tuple[list[dict[str, Any]], int]:
    futures = in_a_process.map(range(3))
    return futures.result(), after.submit(1, wait_for=futures).result()  # type: ignore[call-overload]


def test_tasks_in_a_process_pool_know_their_parent(story: Story) -> None:
    results, _ = in_processes()
    assert all(result["detached"] and result["pid"] != os.getpid() for result in results)
    assert len(story.runs()) == 5  # one parent, however many processes
    assert {run.info.status for run in story.runs()} == {"FINISHED"}
    scored = story.stages("in_a_process")
    assert sorted(run.data.metrics["part"] for run in scored) == [0.0, 1.0, 2.0]
    assert {run.data.tags["mlflow.parentRunId"] for run in story.stages()} == {story.parent().info.run_id}
    assert links(story.stage("after")) == {run.info.run_id for run in scored}
    assert all(links(run) == set() for run in scored)  # the flow's token in the inherited environment is no link


def test_an_untracked_flow_with_tracked_tasks_has_one_parent_that_ends(story: Story) -> None:
    @flow(name="plain")
    def plain() -> float:
        return train(prepare(2))

    assert plain() == 0.9
    assert len(story.runs()) == 3
    assert {run.info.status for run in story.runs()} == {"FINISHED"}
    assert links(story.stage("training")) == {story.stage("data-prep").info.run_id}


def test_many_tasks_of_an_untracked_flow_at_once_have_one_parent(story: Story) -> None:
    @flow(name="plain", task_runner=ThreadPoolTaskRunner(max_workers=6))  # type: ignore[arg-type]
    def plain() -> None:
        prepare.map(range(6)).wait()

    plain()
    assert len(story.parents()) == 1
    assert len(story.stages("data-prep")) == 6
    assert {run.info.status for run in story.runs()} == {"FINISHED"}


def test_a_task_outside_of_any_flow_is_a_workflow_of_its_own(story: Story) -> None:
    assert len(prepare(2)) == 2
    parent, stage = story.runs()
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {parent.info.status, stage.info.status} == {"FINISHED"}
    assert parent.data.tags["tracklayer.workflow"] == "prepare"


def test_declared_names_and_tags_are_those_of_the_runs(story: Story) -> None:
    @tracked_task(stage="training", run_name="my run", tags={"team": "risk"})
    @task(tags={"gpu", "slow"})
    def named() -> None: ...

    @tracked_flow(run_name="my flow run", tags={"cost-center": "4711"}, experiment=f"{story.experiment}-own")
    @flow
    def declared() -> None:
        named()

    declared()
    assert story.runs() == []
    story.experiment += "-own"
    assert story.parent().info.run_name == "my flow run"
    assert story.parent().data.tags["cost-center"] == "4711"
    stage = story.stage("training")
    assert stage.info.run_name == "my run"
    assert stage.data.tags["team"] == "risk"
    assert stage.data.tags["prefect.tags"] == "gpu, slow"


def test_track_inside_a_task_and_inside_an_untracked_task(story: Story) -> None:
    @task
    def plain_task() -> None:
        with tracklayer.track(stage="evaluation") as run:
            run.log_metric("auc", 0.8)

    @tracked_flow
    @flow
    def mixed() -> None:
        plain_task()

    mixed()
    assert len(story.runs()) == 2
    assert story.stage("evaluation").data.metrics == {"auc": 0.8}
    assert story.stage("evaluation").data.tags["mlflow.parentRunId"] == story.parent().info.run_id


def test_track_in_the_body_of_a_tracked_flow(story: Story) -> None:
    @tracked_flow
    @flow
    def steps() -> None:
        for number in range(2):
            with tracklayer.track(stage="training"):
                mlflow.log_metric("number", number)
        mlflow.log_metric("in_the_body", 1)

    steps()
    assert len(story.runs()) == 3
    assert [run.data.metrics for run in story.stages("training")] == [{"number": 0.0}, {"number": 1.0}]
    assert len({run.data.tags["tracklayer.key"] for run in story.runs()}) == 3
    assert story.parent().data.metrics == {"in_the_body": 1.0}
    assert {run.info.status for run in story.runs()} == {"FINISHED"}


def test_track_in_the_body_of_a_plain_flow(story: Story) -> None:
    @flow(name="plain")
    def steps() -> None:
        for number in range(2):
            with tracklayer.track(stage="training"):
                mlflow.log_metric("number", number)

    steps()
    assert len(story.runs()) == 3
    assert [run.data.metrics for run in story.stages("training")] == [{"number": 0.0}, {"number": 1.0}]
    assert len({run.data.tags["tracklayer.key"] for run in story.runs()}) == 3
    assert story.parent().data.tags["tracklayer.workflow"] == "plain"
    assert {run.info.status for run in story.runs()} == {"FINISHED"}


def test_the_flow_runs_page_links_to_the_run(story: Story) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    @tracked_flow
    @flow
    def linked() -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    @tracked_flow
    @flow
    async def linked_later() -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    ids = [linked(), asyncio.run(linked_later())]
    runs = story.parents()
    with get_client(sync_client=True) as client:
        for flow_run_id, run in zip(ids, runs, strict=True):
            (artifact,) = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))  # type: ignore[list-item]
            )
            assert run.info.run_id in str(artifact.data)
            assert artifact.key == "mlflow-run"
            labels = client.read_flow_run(flow_run_id).labels  # type: ignore[arg-type]
            assert tracklayer.identity.parse_token(str(labels["tracklayer.parent"])).run.run_id == run.info.run_id


def test_the_experiment_is_called_like_the_flow(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKLAYER_EXPERIMENT")

    @tracked_flow
    @flow(name=f"{story.experiment}-by-name")
    def named() -> None: ...

    named()
    story.experiment += "-by-name"
    assert story.parent().info.status == "FINISHED"
