from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kubeflow_pipelines as pipelines
import pytest

from tracklayer_kubeflow import graph
from tracklayer_kubeflow.facts import TaskFacts, pipeline_facts, tags, task_facts, to_text

if TYPE_CHECKING:
    from tracklayer_kubeflow import TrackedPipeline


def facts(pipeline: TrackedPipeline) -> dict[str, TaskFacts]:
    return {fact.task: fact for fact in graph.tasks(pipeline.untracked_spec).values()}


def test_a_straight_pipeline() -> None:
    found = facts(pipelines.straight)
    assert found == {
        "prepare": TaskFacts(task="prepare", one_end=True),
        "train": TaskFacts(task="train", after=("prepare",), one_end=True),
        "evaluate": TaskFacts(task="evaluate", after=("train",), ends=True, one_end=True),
    }


def test_nested_pipelines() -> None:
    found = facts(pipelines.nested)
    assert sorted(found) == ["inner-2.make", "inner-2.use", "inner.make", "inner.use", "use"]
    assert found["inner.use"].after == ("inner.make",)
    assert not found["inner.use"].ends, "an untracked task comes next, and after that a tracked one"
    assert not found["inner-2.use"].ends
    assert found["use"] == TaskFacts(task="use", ends=True, one_end=True)


def test_loops() -> None:
    found = facts(pipelines.loops)
    assert found["make"] == TaskFacts(task="make", ends=True), "the loop may be over nothing"
    assert found["make-2"] == TaskFacts(task="make-2", loop=True, optional=True)
    assert found["use"] == TaskFacts(task="use", loop=True, optional=True, ends=True, after=("make-2",))
    assert found["note"].after == ("make",)


def test_what_follows_a_loop_certainly_runs() -> None:
    found = facts(pipelines.collected)
    assert found["collect"] == TaskFacts(task="collect", after=("make",), ends=True, one_end=True)
    assert found["make"] == TaskFacts(task="make", loop=True, optional=True, one_end=True)


def test_conditions() -> None:
    found = facts(pipelines.conditions)
    assert found["make"].ends
    for task in ("use", "use-2"):
        assert found[task].optional
        assert not found[task].one_end
    assert found["use-2"].after == ("make",)


def test_retries_and_exit_tasks() -> None:
    assert facts(pipelines.retries)["flaky"].tries == 3
    assert facts(pipelines.exits) == {"make": TaskFacts(task="make", ends=True, one_end=True)}


def test_untracked_tasks_have_no_facts() -> None:
    assert "untracked" not in facts(pipelines.nested)
    assert facts(pipelines.by_hand_run) == {}


def test_facts_travel_as_text() -> None:
    fact = TaskFacts(task="a.b", loop=True, tries=3, optional=True, ends=True, one_end=True, after=("y", "z"))
    assert task_facts(to_text(fact)) == fact
    assert to_text(TaskFacts(task="a")) == '{"task":"a"}'


@pytest.mark.parametrize("text", [None, "", "nonsense", "[]", '{"task": 3}', "{}"])
def test_what_cannot_be_read_is_not_known(text: Any) -> None:
    assert task_facts(text) is None
    assert pipeline_facts(text) is None
    assert not tags(text)
