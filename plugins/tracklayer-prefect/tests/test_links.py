from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner
from prefect_story import Story, links

import tracklayer
from tracklayer.context import RunRef, Token
from tracklayer.identity import format_token, parse_token
from tracklayer_prefect import token, tracked_flow, tracked_task

if TYPE_CHECKING:
    from collections.abc import Callable


class Table:
    """Stands for a data frame: a value that can be referenced weakly."""


@dataclass(frozen=True, slots=True)
class Rows:
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    uri: str
    rows: Rows


class Colour(Enum):
    RED = 1


def _prepare(value: Callable[[], Any]) -> Any:
    return value()


def _train(*data: Any) -> str:
    return "model"


# Any: the types of Prefect's calls do not fit tasks that take or return Any.
prepare: Any = tracked_task(stage="data-prep")(task(name="prepare")(_prepare))
train: Any = tracked_task(stage="training")(task(name="train")(_train))


def make_table() -> Table:
    return Table()


def make_path() -> str:
    return "s3://bucket/flights"


def make_constant() -> str:
    return "ready"


def make_number() -> int:
    return 7


def make_dict() -> dict[str, int]:
    return {"rows": 3}


def make_file() -> Path:
    return Path("data") / "flights.parquet"


def make_record() -> Record:
    return Record("s3://bucket", Rows(3))


def make_state() -> Colour:
    return Colour.RED


def make_tables() -> dict[str, Table]:
    return {"train": Table(), "test": Table()}


@pytest.mark.parametrize("make", [make_table, make_path, make_file, make_record, make_dict, make_tables])
def test_a_value_that_is_passed_on_is_a_link(make: Callable[[], Any], story: Story) -> None:
    @tracked_flow
    @flow
    def passing() -> None:
        train(prepare(make))

    passing()
    assert links(story.stage("training")) == {story.stage("data-prep").info.run_id}


@pytest.mark.parametrize("make", [make_table, make_path, make_constant, make_number, make_state])
def test_a_future_that_is_passed_on_is_a_link(make: Callable[[], Any], story: Story) -> None:
    @tracked_flow
    @flow
    def passing() -> None:
        train.submit(prepare.submit(make)).wait()

    passing()
    assert links(story.stage("training")) == {story.stage("data-prep").info.run_id}


def test_a_part_of_a_result_is_a_link(story: Story) -> None:
    @tracked_flow
    @flow
    def passing() -> None:
        train(prepare(make_tables)["train"])

    passing()
    assert links(story.stage("training")) == {story.stage("data-prep").info.run_id}


@pytest.mark.parametrize("make", [make_constant, make_state])
def test_a_constant_that_two_tasks_returned_links_to_neither(make: Callable[[], Any], story: Story) -> None:
    @tracked_flow
    @flow
    def ambiguous() -> None:
        first = prepare(make)
        prepare(make)
        train(first)

    ambiguous()
    assert len(story.stages("data-prep")) == 2
    assert links(story.stage("training")) == set()


def test_all_of_them_are_linked_where_all_of_them_are_passed(story: Story) -> None:
    @tracked_flow
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=3))  # type: ignore[arg-type]
    def reduced() -> None:
        train.submit(prepare.map([make_constant, make_constant, make_constant])).wait()

    reduced()
    assert links(story.stage("training")) == {run.info.run_id for run in story.stages("data-prep")}
    assert len(links(story.stage("training"))) == 3


def test_waiting_for_a_task_is_a_link(story: Story) -> None:
    @tracked_flow
    @flow
    def waiting() -> None:
        train.submit(1, wait_for=[prepare.submit(make_number)]).wait()

    waiting()
    assert links(story.stage("training")) == {story.stage("data-prep").info.run_id}


def test_the_last_try_is_what_the_next_task_used(story: Story) -> None:
    tries = []

    def second_time() -> Table:
        tries.append(1)
        if len(tries) < 2:
            raise ValueError("not yet")
        return Table()

    @tracked_flow
    @flow
    def retried() -> None:
        train(prepare.with_options(retries=1)(second_time))

    retried()
    _, last = story.stages("data-prep")
    assert links(story.stage("training")) == {last.info.run_id}


def test_subflows_are_linked_to_what_called_them_and_to_what_they_were_given(story: Story) -> None:
    @tracked_flow
    @flow
    def training_flow(data: Any) -> Any:
        mlflow.log_metric("in_the_subflow", 1)
        train(data)
        return Table()

    @tracked_flow
    @flow
    def evaluation_flow(model: Any) -> None:
        train(model)

    @tracked_flow
    @flow(name="outer")
    def outer() -> None:
        model = training_flow(prepare(make_table))
        mlflow.log_metric("after_the_subflow", 1)
        evaluation_flow(model)

    outer()
    assert {run.info.status for run in story.runs()} == {"FINISHED"}
    above, training, evaluation = story.parents()
    prepared = story.stage("data-prep")
    assert links(above) == set()
    assert links(training) == {above.info.run_id, prepared.info.run_id}
    assert links(evaluation) == {above.info.run_id, training.info.run_id}
    assert training.data.metrics == {"in_the_subflow": 1.0}
    assert above.data.metrics == {"after_the_subflow": 1.0}
    in_training, in_evaluation = story.stages("training")
    assert in_training.data.tags["mlflow.parentRunId"] == training.info.run_id
    assert links(in_training) == {prepared.info.run_id}
    assert links(in_evaluation) == {training.info.run_id}


def test_async_subflows_side_by_side_keep_apart(story: Story) -> None:
    @tracked_flow
    @flow
    async def part(number: int) -> int:
        mlflow.log_metric("number", number)
        await asyncio.sleep(0.05)
        mlflow.log_metric("squared", number * number)
        return number

    @tracked_flow
    @flow(name="outer")
    async def outer() -> list[int]:
        return list(await asyncio.gather(part(2), part(3)))

    assert asyncio.run(outer()) == [2, 3]
    above, *parts = story.parents()
    assert sorted(run.data.metrics["squared"] for run in parts) == [4.0, 9.0]
    assert all(links(run) == {above.info.run_id} for run in parts)
    assert {run.info.status for run in story.runs()} == {"FINISHED"}


def test_a_subflow_that_a_task_calls_is_linked_to_that_task(story: Story) -> None:
    @tracked_flow
    @flow(name="inner")
    def inner() -> None:
        mlflow.log_metric("inner", 1)

    @tracked_task(stage="training")
    @task
    def calls() -> None:
        inner()
        mlflow.log_metric("calls", 1)

    @tracked_flow
    @flow(name="outer")
    def outer() -> None:
        calls()

    outer()
    _, below = story.parents()
    assert links(below) == {story.stage("training").info.run_id}
    assert below.data.metrics == {"inner": 1.0}
    assert story.stage("training").data.metrics == {"calls": 1.0}


def test_a_token_parameter_links_the_flow_run_and_its_first_tasks(story: Story) -> None:
    @tracked_flow
    @flow
    def evaluating(tracklayer_token: str | None = None) -> None:
        train(prepare(make_table))

    came = Token(run=RunRef(run_id="a" * 32, experiment_id="1", key="kubeflow:default/x/y"), root="b" * 32)
    evaluating(tracklayer_token=format_token(came))
    assert links(story.parent()) == {"a" * 32}
    assert links(story.stage("data-prep")) == {"a" * 32}
    assert links(story.stage("training")) == {story.stage("data-prep").info.run_id}
    assert story.parent().data.params == {}
    assert all(run.data.tags.get("mlflow.tracklayer.root", "b" * 32) == "b" * 32 for run in story.runs())


@pytest.mark.parametrize("text", ["", "nonsense", "tl1.%%%", "tl1." + "x" * 9_000])
def test_a_damaged_token_is_ignored(text: str, story: Story, caplog: pytest.LogCaptureFixture) -> None:
    @tracked_flow
    @flow
    def evaluating(tracklayer_token: str | None = None) -> int:
        return 1

    assert evaluating(tracklayer_token=text) == 1
    assert links(story.parent()) == set()
    assert bool(text) == ("the token in the flow parameter tracklayer_token is ignored" in caplog.text)


def test_the_token_of_the_environment_links_too(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    @tracked_flow
    @flow
    def evaluating() -> None:
        prepare(make_table)

    came = Token(run=RunRef(run_id="c" * 32, experiment_id="1"))
    monkeypatch.setenv("TRACKLAYER_PARENT", format_token(came))
    evaluating()
    assert links(story.parent()) == {"c" * 32}
    assert links(story.stage("data-prep")) == {"c" * 32}


def test_the_token_is_that_of_the_place_where_it_is_asked_for(story: Story) -> None:
    tokens = []

    @tracked_task(stage="training")
    @task
    def asks() -> None:
        tokens.append(token())

    @tracked_flow
    @flow
    def asking() -> None:
        tokens.append(token())
        asks()

    asking()
    ids = [parse_token(text or "").run.run_id for text in tokens]
    assert ids == [story.parent().info.run_id, story.stage("training").info.run_id]
    assert token() is None


def test_a_flow_run_of_another_flow_run_is_linked_through_the_prefect_server(story: Story) -> None:
    """As run_deployment makes it: the flow run has a stand-in task run in the flow run that triggered it."""

    @tracked_flow
    @flow(name="triggered")
    def triggered() -> None:
        prepare(make_table)

    created = []

    @tracked_flow
    @flow(name="triggering")
    def triggering() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        with get_client(sync_client=True) as client:
            stand_in = client.create_task_run(task=prepare, flow_run_id=context.flow_run.id, dynamic_key="stand-in")
            created.append(client.create_flow_run(triggered, parent_task_run_id=stand_in.id))

    triggering()
    from prefect.flow_engine import run_flow

    run_flow(triggered, flow_run=created[0])
    above, below = story.parents()
    assert links(below) == {above.info.run_id}
    assert links(story.stage("data-prep")) == {above.info.run_id}


def test_datasets_link_across_flows(story: Story) -> None:
    @tracked_task(stage="data-prep")
    @task
    def makes(uri: str) -> None:
        run = tracklayer.current_run()
        assert run is not None
        run.produces(uri, "v1")

    @tracked_task(stage="training")
    @task
    def uses(uri: str) -> None:
        run = tracklayer.current_run()
        assert run is not None
        run.consumes(uri)

    @tracked_flow
    @flow
    def producing() -> None:
        makes(f"s3://{story.experiment}/flights")

    @tracked_flow
    @flow
    def consuming() -> None:
        uses(f"s3://{story.experiment}/flights")

    producing()
    consuming()
    assert links(story.stage("training")) == {story.stage("data-prep").info.run_id}
