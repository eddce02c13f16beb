"""What feeds what is linked, whichever way Airflow hands it on."""

from __future__ import annotations

import time
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tracklayer.identity import ROOT_TAG, parse_token
from tracklayer.linking import read_links
from tracklayer.store.opening import open_store
from tracklayer_airflow import upstream

if TYPE_CHECKING:
    from airflow_story import Story

    from tracklayer.context import Token

pytestmark = pytest.mark.timeout(1_200)

UPSTREAM = {
    "prepare": [],
    "train": ["prepare"],  # by way of a task that is not tracked
    "evaluate": ["prepare", "train"],
    "part[0]": ["prepare"],
    "scored[0]": ["part[0]"],  # expanded one for one
    "scored[2]": ["part[2]"],
    "total": ["scored[0]", "scored[1]", "scored[2]"],
    "fold.fit[1]": ["prepare"],
    "fold.test[1]": ["fold.fit[1]"],  # of the same mapped task group
    "not_taken": ["prepare"],
    "joined": ["train"],  # not through the branch that was skipped
    "chosen": ["train"],  # nor through one that is called as an instance of the other
    "by_hand": ["train"],
    "publish": ["prepare"],
}


@pytest.fixture(scope="module")
def story(stories: dict[str, Story]) -> Story:
    return stories["handing_over"]


def test_the_dag_run_went_well(story: Story) -> None:
    assert story.told["state"] == "success"
    assert story.parent.status == "FINISHED"


@pytest.mark.parametrize("task", UPSTREAM)
def test_a_task_is_linked_to_the_nearest_tracked_tasks(story: Story, task: str) -> None:
    assert story.upstream(task) == UPSTREAM[task]
    assert {link.kind for link in read_links(story.run(task).tags)} <= {"hand-over"}


def test_every_stage_is_of_the_one_parent(story: Story) -> None:
    parent = story.parent.run_id
    assert {run.tags["mlflow.parentRunId"] for run in story.runs if run.run_id != parent} == {parent}
    assert {run.tags[ROOT_TAG] for run in story.runs if run.run_id != parent} == {parent}


def test_tags_say_where_a_run_comes_from(story: Story) -> None:
    train = story.run("train")
    expected = {
        "airflow.dag_id": "handing_over",
        "airflow.dag_tags": "flights,test",
        "airflow.operator": "@task.tracked",
        "airflow.owner": "data-team",
        "airflow.pool": "default_pool",
        "airflow.queue": "default",
        "team": "risk",
        "tracklayer.orchestrator": "airflow",
        "tracklayer.stage": "training",
        "tracklayer.workflow": "handing_over",
        "tracklayer.workflow_run": story.told["run_id"],
    }
    assert expected.items() <= train.tags.items()
    assert "/dags/handing_over/runs/manual__" in train.tags["airflow.dag_run_url"]
    assert "/tasks/train" in train.tags["airflow.task_url"]
    assert story.parent.tags["airflow.owner"] == "data-team"
    for run in (train, story.parent):  # what tells the DAG runs of one DAG apart
        assert run.tags["airflow.run_type"] == "manual"
        assert str(uuid.UUID(run.tags["airflow.dag_version"])) == run.tags["airflow.dag_version"]
    experiment = open_store(story.uri, connect_timeout=5, timeout=30).get_experiment_by_name("handing_over")
    assert experiment
    assert "airflow.run_type" not in experiment.tags, "it has DAG runs of every type"
    assert "airflow.task_url" not in story.parent.tags
    assert "How tasks hand **over**." in story.parent.tags["mlflow.note.content"]


def test_names_and_stages_are_the_users(story: Story) -> None:
    assert story.run("train").name == "train 0.5"  # a template that was rendered
    assert story.run("evaluate").name == "judge"
    assert story.run("total").tags["tracklayer.stage"] == "total"


def test_params_are_settings_and_not_data(story: Story) -> None:
    assert story.run("train").params == {"lr": "0.1"}  # neither the rows that came from upstream, nor Airflow's params
    assert story.run("evaluate").params == {"model": story.run("train").run_id}
    assert story.parent.params == {"sample": "0.5", "password": "***"}


def test_fluent_calls_land_in_the_run(story: Story) -> None:
    train = story.run("train")
    assert story.xcom("train.return_value") == train.run_id
    assert list(train.metrics) == ["auc"]
    assert list(story.run("prepare").metrics) == ["rows"]


def test_code_can_track_itself_in_a_task_that_is_not_tracked(story: Story) -> None:
    run = story.run("by_hand")
    assert run.tags["tracklayer.stage"] == "reporting"
    assert story.xcom("by_hand.return_value") == story.xcom("by_hand.tracklayer")


def test_subprocesses_get_the_token_of_the_task(story: Story) -> None:
    assert story.xcom("evaluate.return_value") == story.xcom("evaluate.tracklayer")


def test_macros_and_functions_give_tokens(story: Story) -> None:
    assert story.xcom("in_shell.return_value") == story.xcom("evaluate.tracklayer")
    assert story.xcom("alone.return_value") == "."
    nearest, run_id, of_untracked = story.xcom("trigger.return_value")
    assert nearest == story.xcom("prepare.tracklayer")
    assert run_id == story.run("train").run_id
    assert of_untracked == ""


def test_assets_carry_the_token(story: Story) -> None:
    events = story.told["events"]
    assert events["s3://warehouse/flights"] == {"tracklayer": story.xcom("prepare.tracklayer")}
    assert events["s3://warehouse/planes"] == {"rows": 7, "tracklayer": story.xcom("publish.tracklayer")}
    assert events["s3://warehouse/wings"] == {"rows": 8, "tracklayer": story.xcom("publish.tracklayer")}


def test_a_token_in_the_conf_links_the_parent_and_the_first_task(stories: dict[str, Story], given_token: Token) -> None:
    story = stories["given_token"]
    elsewhere = given_token.run.run_id
    assert story.upstream("start") == [elsewhere]
    assert story.upstream("go_on") == ["start"]
    assert [(link.run.run_id, link.kind) for link in read_links(story.parent.tags)] == [(elsewhere, "token")]
    assert story.parent.params == {"year": "2013"}
    assert story.run("go_on").tags[ROOT_TAG] == elsewhere
    token = parse_token(story.xcom("go_on.tracklayer"))
    assert token.root == elsewhere


def test_a_token_that_cannot_be_read_is_no_reason_to_fail(stories: dict[str, Story]) -> None:
    story = stories["given_nonsense"]
    assert story.told["state"] == "success"
    assert story.upstream("start") == []
    assert story.parent.status == "FINISHED"


def test_a_dag_that_reads_what_another_wrote_is_linked_to_it_by_the_data(stories: dict[str, Story]) -> None:
    """Nothing else joins the two: no asset, no trigger, no token."""
    writer, reader = stories["writes_data"], stories["reads_data"]
    (link,) = read_links(reader.run("read").tags)
    assert (link.run.run_id, link.kind, link.dataset) == (
        writer.run("write").run_id,
        "data",
        "s3://warehouse/by-data/flights",
    )
    assert reader.upstream("read_what_nobody_wrote") == []
    assert writer.parent.run_id != reader.parent.run_id
    assert {run.status for story in (writer, reader) for run in story.runs} == {"FINISHED"}


def test_a_task_does_not_wait_long_for_what_it_is_linked_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Airflow is asked for one task after the other, and may be slow."""
    names = [f"part_{number}" for number in range(100)]
    asked: list[str] = []

    def pull(*, task_ids: list[str], key: str) -> list[None]:  # Airflow's signature
        asked.extend(task_ids)
        time.sleep(0.05)
        return [None]

    ti = SimpleNamespace(
        dag_id="wide", run_id="r1", task_id="total", map_index=-1, try_number=1, task=None, xcom_pull=pull
    )
    parts = {name: SimpleNamespace(upstream_task_ids=set()) for name in names}
    dag = SimpleNamespace(task_dict={**parts, "total": SimpleNamespace(upstream_task_ids=set(names))})
    monkeypatch.setattr(upstream, "LONGEST", 0.2)
    assert upstream.tokens({"ti": ti, "dag": dag}) == ()
    assert 1 <= len(asked) < 10
    assert "not all tasks upstream of total were asked" in caplog.text
