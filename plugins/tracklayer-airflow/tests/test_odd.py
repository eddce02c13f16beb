"""Odd operators and odd values: their tasks end as they would untracked, and are tracked as far as that can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow_story import AIRFLOW, Story, without_tracking

from harness.airflow import AirflowHome
from harness.outage import flush
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from harness.mlflow import MlflowServer
    from tracklayer.store import Run

# Before Airflow 3.3 dag.test() takes ten times as long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_700)]

DAGS = Path(__file__).parent / "dags_odd"
IDS = ("odd", "odd_classes", "odd_native", "odd_observed", "odd_pickled")
UNTRACKED = ("odd_untracked", "odd_untracked_classes", "odd_pickled_untracked")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    with AirflowHome(tmp_path_factory.mktemp("odd"), DAGS, imported=["mlflow", "pandas"]) as home:
        yield home


@pytest.fixture(scope="module")
def stories(home: AirflowHome, mlflow_server: MlflowServer) -> dict[str, Story]:
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "AIRFLOW__API__BASE_URL": "http://ann:s3cret@127.0.0.1:8080"}
    told = home.test(*IDS, environ=environ, seconds=1_200)
    flush(mlflow_server.uri, journal=home.folder / "journal")
    (home.folder / "tracked.log").write_text(home.log)
    return {dag_id: Story(mlflow_server.uri, dag_id, told[dag_id]) for dag_id in IDS}


@pytest.fixture(scope="module")
def untracked(home: AirflowHome, stories: dict[str, Story]) -> dict[str, Any]:  # one after the other in this home
    return home.test(*UNTRACKED, environ={"TRACKLAYER_ENABLED": "false"}, seconds=1_200)


@pytest.fixture(scope="module")
def odd(stories: dict[str, Story]) -> Story:
    return stories["odd"]


@pytest.fixture(scope="module")
def classes(stories: dict[str, Story]) -> Story:
    return stories["odd_classes"]


def elsewhere(story: Story, experiment: str) -> Run:
    """The only run in an experiment of its own, below a parent that is where it always is."""
    store = open_store(story.uri, connect_timeout=5, timeout=30)
    found = store.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = store.search_runs([found.experiment_id], order_by=[], limit=10)
    assert run.tags["mlflow.parentRunId"] == story.parent.run_id
    return run


def results(xcoms: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in without_tracking(xcoms).items() if key.endswith(".return_value")}


def test_tasks_end_as_untracked(stories: dict[str, Story], untracked: dict[str, Any]) -> None:
    for dag_id, plain in zip(("odd", "odd_classes", "odd_pickled"), UNTRACKED, strict=True):
        assert stories[dag_id].told["tasks"] == untracked[plain]["tasks"]
    assert results(stories["odd"].told["xcoms"]) == results(untracked["odd_untracked"]["xcoms"])


@pytest.mark.parametrize("task", ["frame", "array", "broken", "broken_list", "endless", "many", "long"])
def test_a_value_that_is_no_param_costs_no_more_than_that(odd: Story, task: str) -> None:
    assert odd.run(task).params == {"lr": "0.1", "more.colour": "red"}


def test_a_number_of_numpys_is_a_param(odd: Story) -> None:
    assert odd.run("float64").params == {"lr": "0.1", "odd": "0.5", "more.colour": "red"}


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="before 3.3 Airflow itself cannot store this pandas' DataFrame as an XCom")
def test_results_of_other_tasks_may_be_data(odd: Story) -> None:
    assert odd.run("train").params == {"lr": "0.5"}


def test_results_of_mapped_tasks_are_not_pulled(odd: Story) -> None:
    assert odd.run("lazily").params == {"lr": "0.5"}
    assert odd.xcom("lazily.return_value") == "LazyXComSequence"


def test_nor_does_one_cost_an_observed_task_its_run(stories: dict[str, Story]) -> None:
    run = stories["odd_observed"].run("observed")
    assert (run.params, list(run.metrics)) == ({"lr": "0.5"}, ["rows"])


@pytest.mark.parametrize("task", ["mapping", "beside", "called"])
def test_a_task_that_pickles_itself_does_so_beside_tracked_ones(stories: dict[str, Story], task: str) -> None:
    """With its whole DAG: `beside` and `called` are not tracked, and `called` has a callback to announce its end before."""
    story = stories["odd_pickled"]
    assert (story.told["tasks"][task], story.xcom(f"{task}.return_value")) == (["success", 1], [2, 4])
    assert [story.run(name).status for name in ("mapping", "choose")] == ["FINISHED"] * 2


def test_a_callback_that_is_no_list_costs_an_observed_task_nothing(stories: dict[str, Story]) -> None:
    run = stories["odd_observed"].run("bare")
    assert (run.status, run.metrics) == ("FINISHED", {"rows": 2.0})


def test_credentials_in_airflows_address_are_in_no_tag(stories: dict[str, Story]) -> None:
    tags = [run.tags for story in stories.values() for run in story.runs]
    assert any(told.get("airflow.task_url", "").startswith("http://127.0.0.1:8080/dags/odd") for told in tags)
    assert not [value for told in tags for value in told.values() if "s3cret" in value]


def test_nothing_is_said_to_be_switched_off(home: AirflowHome, stories: dict[str, Story]) -> None:
    assert "tracking is off" not in (home.folder / "tracked.log").read_text()


def test_what_an_operator_sets_itself_stays(odd: Story) -> None:
    run = odd.run("of_config")
    assert odd.xcom("of_config.return_value") == ["of the operator", "{{ not.a.template", 4, "odd"]
    assert (run.name, run.tags["tracklayer.stage"]) == ("odd!", "given")
    assert odd.run("of_config_mapped[0]").name == "odd 0"
    assert odd.xcom("of_config_mapped[0].return_value") == ["of the operator", "{{ not.a.template", 4, "a"]


def test_what_an_operators_class_has_stays(odd: Story) -> None:
    run = elsewhere(odd, "odd odd")
    assert (run.tags["tracklayer.stage"], run.tags["team"]) == ("given", "x")
    assert odd.run("of_class_mapped[0]").status == "FINISHED"
    assert odd.xcom("of_class.tracklayer_url").endswith(run.run_id)


@pytest.mark.parametrize(
    ("task", "name", "error"),
    [
        ("unrendered", "x", "UndefinedError"),
        ("before", "odd!", "LookupError"),
        ("mapped_before[0]", None, "UndefinedError"),
    ],
)
def test_a_task_that_fails_before_its_code_begins_has_a_run(
    odd: Story, task: str, name: str | None, error: str
) -> None:
    run = odd.run(task)
    assert (run.status, run.tags["tracklayer.error.type"]) == ("FAILED", error)
    assert name is None or run.name == name
    assert run.tags["mlflow.parentRunId"] == odd.parent.run_id
    assert odd.xcom(f"{task}.tracklayer_url").endswith(run.run_id)


def test_and_so_has_one_that_is_skipped_there(odd: Story) -> None:
    run = odd.run("before_skipped")
    assert (run.status, run.tags["tracklayer.outcome"]) == ("FINISHED", "skipped")


def test_an_execute_of_ones_own_is_inside_the_run(classes: Story) -> None:
    """Once: what it calls by ``super()`` is in the same one."""
    assert elsewhere(classes, "odd mine").tags["airflow.operator"] == "Mine"
    assert classes.xcom("mine.return_value") == [True, "of the class", True]
    for task in ("mine_mixed", "mine_deferring", "mine_alone", "mine_mapped[0]"):
        assert classes.run(task).status == "FINISHED", task
    assert classes.run("mine_failing").tags["tracklayer.error.type"] == "ValueError"
    assert classes.xcom("mine_deferring.return_value") == ["finished", "and mine"]


def test_what_an_instance_does_in_its_own_place_is_inside_the_run(classes: Story) -> None:
    """And once, where that calls what the class does."""
    assert classes.run("put").name == "put"
    assert classes.xcom("put.return_value") == [True, "odd", 0]
    assert classes.xcom("put_mapped[0].return_value") == [True, "a", 0]
    assert classes.xcom("mine_wrapped.return_value") == ["wrapped", True, "of the class", True]
    assert {classes.run(task).status for task in ("put", "put_mapped[0]", "mine_wrapped")} == {"FINISHED"}


def test_names_are_text_where_templates_are_rendered_natively(stories: dict[str, Story]) -> None:
    native = stories["odd_native"]
    assert elsewhere(native, "20250101").name == "20250101"
    assert (native.run("listed").name, native.run("listed").tags["n"]) == ("[1, 2]", "20250101")


def test_an_argument_that_cannot_be_used_costs_no_more_than_that(stories: dict[str, Story], home: AirflowHome) -> None:
    run = stories["odd_native"].run("wrong")
    assert (run.tags["tracklayer.stage"], run.params["lr"]) == ("red", "0.1")
    log = (home.folder / "tracked.log").read_text()
    assert "run_name must be text, and not object" in log
    assert "run_tags must be a mapping, and not str" in log


@pytest.mark.parametrize("switch", ["maybe", ""])
def test_a_wrong_switch_fails_no_task(home: AirflowHome, mlflow_server: MlflowServer, switch: str) -> None:
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "AIRFLOW__TRACKLAYER__ENABLED": switch}
    told = home.test("odd_switch", environ=environ)["odd_switch"]
    assert told["tasks"] == {"asks": ["success", 1]}
    assert told["xcoms"] == {"asks.return_value": True}
    assert "tracking: the task runs untracked" in home.log


def test_a_wrong_connection_fails_no_task(home: AirflowHome) -> None:
    told = home.test("odd_switch", environ={"AIRFLOW__TRACKLAYER__MLFLOW_CONN_ID": "nowhere"})["odd_switch"]
    assert told["xcoms"] == {"asks.return_value": True}
    assert "tracking is off" not in home.log


@pytest.mark.parametrize("own", [True, False])
def test_an_observed_task_that_fails_before_its_code_begins(
    home: AirflowHome, mlflow_server: MlflowServer, own: bool
) -> None:
    """It has a run where tasks without one get one, with try and links; else nobody knows what it would have done."""
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "AIRFLOW__TRACKLAYER__OWN_RUNS": str(own)}
    told = home.test("odd_before", environ=environ)["odd_before"]
    flush(mlflow_server.uri, journal=home.folder / "journal")
    story = Story(mlflow_server.uri, "odd_before", told)
    begun = [story.run(task) for task in ("comes_back", "comes_back_tracked")]
    assert {run.name for run in begun} == {"begun"}
    assert [(run.status, run.tags["tracklayer.error.type"]) for run in begun] == [("FAILED", "LookupError")] * 2
    if not own:
        assert {key.partition(".")[0] for key in told["xcoms"].keys() - without_tracking(told["xcoms"]).keys()} == {
            "comes_back",
            "comes_back_tracked",
        }
        assert len(story.runs) == 3
        return
    tries = story.tries("unrendered")
    assert [(run.status, run.tags["tracklayer.error.type"]) for run in tries] == [("FAILED", "UndefinedError")] * 2
    assert tries[0].tags["tracklayer.superseded_by"] == tries[1].run_id
    assert story.run("mapped_before[0]").tags["tracklayer.error.type"] == "UndefinedError"
    assert story.run("before").tags["tracklayer.error.type"] == "LookupError"
    assert story.run("before_skipped").tags["tracklayer.outcome"] == "skipped"
    for task in ("unrendered", "mapped_before[0]", "before", "before_skipped"):
        assert story.upstream(task) == ["first"]
        assert story.xcom(f"{task}.tracklayer_url").endswith(story.tries(task)[-1].run_id)


def test_a_task_that_is_tried_out_leaves_nothing_open(home: AirflowHome, mlflow_server: MlflowServer) -> None:
    """By ``airflow tasks test``: nobody tells of the end of the DAG run, which Airflow deletes."""
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri}
    home.test("odd_switch", environ=environ)  # which has Airflow know the DAGs
    home.test("odd_tried!good", "odd_tried!bad", "odd_tried!by_itself", environ=environ)
    flush(mlflow_server.uri, journal=home.folder / "journal")
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    found = store.get_experiment_by_name("odd_tried")
    assert found is not None
    runs = {run.run_id: run for run in store.search_runs([found.experiment_id], limit=20)}
    stages = {str(run.name): run for run in runs.values() if "mlflow.parentRunId" in run.tags}
    ends = {name: (run.status, runs[run.tags["mlflow.parentRunId"]].status) for name, run in stages.items()}
    assert ends == {"good": ("FINISHED",) * 2, "bad": ("FAILED",) * 2, "by_itself": ("FINISHED",) * 2}
