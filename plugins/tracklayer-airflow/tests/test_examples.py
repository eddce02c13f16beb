"""The DAGs in the repository's ``dags/`` run as they are, on a small part of the data; so do those that the provider ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from observed_story import ObservedStory

import tracklayer_airflow
from harness.outage import flush
from tracklayer.linking import read_links

if TYPE_CHECKING:
    from harness.airflow import AirflowHome
    from harness.mlflow import MlflowServer

DAGS = Path(__file__).parents[3] / "dags"
EXAMPLES = Path(tracklayer_airflow.__file__).parent / "example_dags"

SHIPPED = ("example_tracklayer", "example_tracklayer_observed", "example_tracklayer_registry")

pytestmark = pytest.mark.timeout(1_200)

pytest.importorskip("flights_model")


@pytest.fixture(scope="module")
def told(
    airflow_home: AirflowHome, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ObservedStory]:
    conf = {"sample": 4000, "max_iter": 5, "data_dir": str(tmp_path_factory.mktemp("flights"))}
    folder, journal = tmp_path_factory.mktemp("dags"), tmp_path_factory.mktemp("journal")
    for path in (*DAGS.glob("*.py"), *EXAMPLES.glob("example_*.py")):
        shutil.copyfile(path, folder / path.name)
    told = airflow_home.test(
        *(f"{dag_id}={json.dumps(conf)}" for dag_id in ("flights_prepare", "flights", "flights_observed")),
        *SHIPPED,
        environ={
            "MLFLOW_TRACKING_URI": mlflow_server.uri,
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "TRACKLAYER_JOURNAL": str(journal),  # the home's may hold what other tests left for servers that never were
        },
        not_run="start_training",  # the pipeline has tests of its own
        fresh=True,  # of another folder of DAGs
    )
    flush(mlflow_server.uri, journal=journal)  # on a busy machine something may be late
    return {dag_id: ObservedStory(mlflow_server.uri, dag_id, told[dag_id]) for dag_id in told}


@pytest.mark.slow
def test_flights(told: dict[str, ObservedStory]) -> None:
    story = told["flights"]
    assert story.told["state"] == "success"
    assert [story.run(task).tags["tracklayer.stage"] for task in ("prepare", "train", "evaluate")] == [
        "data-prep",
        "training",
        "evaluation",
    ]
    assert {run.status for run in story.runs} == {"FINISHED"}
    assert story.upstream("train") == ["prepare"]
    assert story.upstream("evaluate") == ["prepare", "train"]
    assert story.run("prepare").metrics["rows_train"] > 1_000
    assert story.run("train").params["max_iter"] == "5"
    assert 0 < story.run("evaluate").metrics["roc_auc"] < 1


@pytest.mark.slow
def test_flights_prepare(told: dict[str, ObservedStory]) -> None:
    story = told["flights_prepare"]
    assert story.told["state"] == "success"
    prepare = story.run("prepare")
    assert (prepare.status, prepare.tags["tracklayer.stage"]) == ("FINISHED", "data-prep")
    assert read_links(prepare.tags) == []
    assert {dataset.name for dataset in prepare.datasets} == {"flights-train", "flights-test"}
    assert story.xcom("prepare.tracklayer")


@pytest.mark.slow
def test_flights_observed(told: dict[str, ObservedStory]) -> None:
    story = told["flights_observed"]
    assert story.told["state"] == "success"
    train, evaluate = story.run("train"), story.run("evaluate")
    assert [(run.name, story.experiment(run)) for run in (story.parent, train, evaluate)] == [
        (story.told["run_id"], "flights_observed"),
        ("gradient boosting", "late flights"),
        ("how good is it", "late flights"),
    ]
    assert {run.status for run in story.all_runs} == {"FINISHED"}
    assert story.tries("prepare") == []
    assert story.upstream("evaluate") == ["train"]
    assert train.params["max_iter"] == "5"
    assert 0 < evaluate.metrics["roc_auc"] < 1


@pytest.mark.slow
def test_the_examples_that_the_provider_ships(told: dict[str, ObservedStory]) -> None:
    tracked, observed, registry = (told[dag_id] for dag_id in SHIPPED)
    assert {story.told["state"] for story in (tracked, observed, registry)} == {"success"}
    assert tracked.upstream("train") == ["prepare"]
    assert tracked.upstream("judge") == ["train"]
    assert (tracked.run("train").params["learning_rate"], tracked.run("judge").name) == ("0.1", "judge 0.1")
    assert {observed.experiment(observed.run(task)) for task in ("train", "evaluate")} == {"example_tracklayer_models"}
    assert observed.upstream("evaluate") == ["train"]
    assert registry.run("train").tags["tracklayer.stage"] == "training"
    assert registry.xcom("promoted.return_value") == registry.xcom("register.return_value")
    assert {run.status for story in (tracked, observed, registry) for run in story.all_runs} == {"FINISHED"}


def test_they_are_those_that_airflow_finds() -> None:
    """In the folder in which it looks, where it is told to load examples."""
    assert {path.stem for path in EXAMPLES.glob("example_*.py")} == set(SHIPPED)
