"""`tracked` makes any operator a tracked one, and what its tasks start learns of their run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow_story import Story, name, without_tracking

from harness.airflow import AirflowHome
from harness.outage import flush
from tracklayer.identity import parse_token
from tracklayer.linking import read_links
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from harness.mlflow import MlflowServer
    from tracklayer.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

DAGS = Path(__file__).parent / "dags_any_operator"
# `python` is that of the tests, and makes environments without a registry.
ENVIRON = {
    "AIRFLOW__STANDARD__VENV_INSTALL_METHOD": "pip",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
TRACKED = "any_operator"
UNTRACKED = "any_operator_untracked"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    with AirflowHome(tmp_path_factory.mktemp("any-operator"), DAGS) as home:
        yield home


@pytest.fixture(scope="module")
def story(home: AirflowHome, mlflow_server: MlflowServer) -> Story:
    told = home.test(TRACKED, environ={"MLFLOW_TRACKING_URI": mlflow_server.uri, **ENVIRON})
    flush(mlflow_server.uri, journal=home.folder / "journal")
    return Story(mlflow_server.uri, TRACKED, told[TRACKED])


@pytest.fixture(scope="module")
def untracked(home: AirflowHome, story: Story) -> dict[str, Any]:  # one after the other in this home
    told = home.test(UNTRACKED, environ={"TRACKLAYER_ENABLED": "false", **ENVIRON})
    found: dict[str, Any] = told[UNTRACKED]
    return found


def seen(story: Story, task: str) -> list[str | None]:
    """Which token and which address a process had in its environment."""
    found: list[str | None] = json.loads(story.xcom(f"{task}.return_value"))
    return found


def in_experiment(story: Story, experiment: str) -> Sequence[Run]:
    """The runs of an experiment, oldest first."""
    store = open_store(story.uri, connect_timeout=5, timeout=30)
    found = store.get_experiment_by_name(experiment)
    assert found is not None
    return store.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], limit=100)


NOT_RUN = {"taken", "not_taken", "chosen", "not_chosen", "cut", "within"}


def test_tasks_end_as_untracked(story: Story, untracked: dict[str, Any]) -> None:
    assert story.told["tasks"] == untracked["tasks"]
    states = {task: state for task, (state, _) in story.told["tasks"].items()}
    assert {task for task, state in states.items() if state == "failed"} == {"failing", "failing_in_virtualenv"}
    assert {"skipping", "not_taken", "not_chosen", "cut"} == {t for t, state in states.items() if state == "skipped"}


def test_each_try_is_one_run(story: Story) -> None:
    runs = sorted(name(run) for run in story.runs if name(run))
    assert runs == sorted(set(story.told["tasks"]) - NOT_RUN)
    failed = {name(run) for run in story.runs if name(run) and run.status == "FAILED"}
    assert failed == {"failing", "failing_in_virtualenv"}
    assert {run.status for run in story.runs} == {"FINISHED", "FAILED"}


@pytest.mark.parametrize(
    ("task", "outcome"),
    [("skipping", "skipped"), ("branch", "skipped downstream"), ("choose", "skipped downstream"), ("short", None)],
)
def test_skips_are_told(story: Story, task: str, outcome: str | None) -> None:
    run = story.run(task)
    assert run.status == "FINISHED"
    assert outcome is None or run.tags["tracklayer.outcome"] == outcome


def test_arguments_of_tracking_are_its_own(story: Story) -> None:
    run = story.run("bash")
    assert (run.name, run.tags["tracklayer.stage"]) == ("bash of a tree", "training")
    assert run.tags["airflow.operator"] == "TrackedBashOperator"
    assert story.run("choose").tags["airflow.operator"] == "@task.branch"
    assert story.run("choose").params == {"name": "chosen"}
    assert story.run("outside[0]").tags["tracklayer.stage"] == "elsewhere"


def test_arguments_that_the_operator_has_itself_are_the_operators(story: Story) -> None:
    assert story.xcom("named.return_value") == "the job's @stage"
    assert story.xcom("named._link_OwnLink") == "https://jobs.example.com/7"
    run = story.run("named")
    assert (run.tags["tracklayer.stage"], run.tags["team"]) == ("named", "trees")
    assert run.name != "the job's"
    assert "/runs/" in story.xcom("named.tracklayer_url")


@pytest.mark.parametrize("task", ["bash", "deferring", "external", "inherits", "virtualenv"])
def test_processes_get_the_token(story: Story, task: str) -> None:
    assert story.xcom(f"{task}.return_value") == story.xcom(f"{task}.tracklayer")


def test_the_users_own_value_stands(story: Story) -> None:
    assert story.xcom("own.return_value") == "mine"


def test_a_function_in_another_interpreter_has_no_decorator(story: Story) -> None:
    assert story.xcom("outside[0].return_value") == f"1 {story.xcom('outside[0].tracklayer')}"


def test_nor_has_one_in_a_virtual_environment(story: Story) -> None:
    """Made by Airflow for the task, without packages of its own."""
    number, folder, token = story.xcom("in_virtualenv.return_value").split()
    assert (number, folder, token) == ("2", "virtualenvs", story.xcom("in_virtualenv.tracklayer"))
    assert story.run("in_virtualenv").tags["tracklayer.stage"] == "apart"
    assert "no data" in story.run("failing_in_virtualenv").tags["tracklayer.error.message"]


def test_runs_of_a_plain_script_are_linked(story: Story) -> None:
    assert story.xcom("script.return_value") == "tree"
    mine = in_experiment(story, "scripts")
    (link,) = read_links(mine[-1].tags)
    assert (link.run.run_id, link.kind) == (story.run("script").run_id, "token")
    assert list(mine[-1].metrics) == ["auc"]


@pytest.mark.parametrize("task", ["docker", "docker_file", "pod", "bare_pod", "pod_with_map", "spark"])
def test_containers_get_the_token(story: Story, task: str) -> None:
    token, address = seen(story, task)
    assert token == story.xcom(f"{task}.tracklayer")
    # The server of the tests is at a loopback address, which would be the container itself there.
    assert address == ("http://of-the-pod" if task == "pod" else None)


def test_macros_give_ids(story: Story) -> None:
    bash = story.run("bash")
    assert story.xcom("macros.return_value") == f"{story.parent.run_id} {bash.experiment_id} ."


def test_links_lead_to_run_and_parent(story: Story) -> None:
    parent = story.parent
    page = f"{story.uri}/#/experiments/{parent.experiment_id}/runs/"
    assert story.xcom("bash.tracklayer_url") == page + story.run("bash").run_id
    assert story.xcom("bash.tracklayer_parent_url") == page + parent.run_id


def test_where_tracking_is_off_nothing_is_there(untracked: dict[str, Any]) -> None:
    assert without_tracking(untracked["xcoms"]) == untracked["xcoms"]
    assert untracked["xcoms"]["bash.return_value"] == ""
    assert untracked["xcoms"]["named._link_OwnLink"] == "https://jobs.example.com/7"


def test_the_token_names_the_run(story: Story) -> None:
    assert parse_token(story.xcom("bash.return_value")).run.run_id == story.run("bash").run_id
