"""Tasks are tracked at the server of an Airflow connection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow_story import Story

from harness.airflow import AirflowHome
from harness.faults import GuardedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.mlflow import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

BY_AIRFLOW = {"AIRFLOW__TRACKLAYER__MLFLOW_CONN_ID": "mlflow_team"}
BY_VARIABLE = {"TRACKLAYER_AIRFLOW_MLFLOW_CONN_ID": "mlflow_team"}
BY_BOTH = {**BY_AIRFLOW, "TRACKLAYER_AIRFLOW_MLFLOW_CONN_ID": "another"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    with GuardedServer(tmp_path_factory.mktemp("guarded") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    dags = Path(__file__).parent / "dags_connected"
    with AirflowHome(tmp_path_factory.mktemp("connected"), dags, imported=["mlflow", "pandas"]) as home:
        yield home


@pytest.mark.parametrize(
    "named", [BY_BOTH, BY_VARIABLE], ids=["Airflow's option goes before", "the plugin's setting alone"]
)
def test_a_connection_tells_server_and_credentials(
    home: AirflowHome, server: GuardedServer, named: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    login, password = server.ADMIN
    connection = {"conn_type": "mlflow", "host": server.uri, "login": login, "password": password}
    # The setting of another server loses against the connection.
    environ = {"AIRFLOW_CONN_MLFLOW_TEAM": json.dumps(connection), "TRACKLAYER_TRACKING_URI": "http://127.0.0.1:9"}
    told = home.test("connected", environ={**named, **environ})["connected"]
    assert told["state"] == "success"
    assert told["xcoms"]["train.return_value"] == server.uri
    assert told["xcoms"]["after.return_value"] == ["TRACKLAYER_TRACKING_URI"], "nothing is left of the connection"
    assert password not in json.dumps(told["xcoms"])
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", login)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    story = Story(server.uri, "connected", told)
    assert list(story.run("train").metrics) == ["auc"]
    assert story.upstream("cut_off") == ["train"]
    # The end of the DAG run is heard outside of tasks; the connection is a variable, so it is known there, too.
    assert {run.status for run in story.runs} == {"FINISHED"}


@pytest.mark.parametrize("connection", [None, {"conn_type": "mlflow", "host": ""}], ids=["none", "no host"])
def test_without_the_connection_the_task_runs_untracked(
    home: AirflowHome, mlflow_server: MlflowServer, connection: dict[str, str] | None
) -> None:
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, **BY_AIRFLOW}
    if connection is not None:
        environ["AIRFLOW_CONN_MLFLOW_TEAM"] = json.dumps(connection)
    told = home.test("connected", environ=environ)["connected"]
    assert told["state"] == "success"
    assert "train.tracklayer" not in told["xcoms"], "nor anywhere else"
    assert "finding the MLflow server failed" in home.log
    assert "mlflow_team" in home.log


def test_outside_of_tasks_the_database_is_not_asked(home: AirflowHome, mlflow_server: MlflowServer) -> None:
    """The usual case: somebody has made the connection on Airflow's pages."""
    airflow = Path(sys.executable).with_name("airflow")
    command = [
        str(airflow),
        "connections",
        "add",
        "mlflow_team",
        "--conn-type",
        "mlflow",
        "--conn-host",
        mlflow_server.uri,
    ]
    subprocess.run(command, env=home.environ(), cwd=home.folder, check=True, capture_output=True, timeout=240)
    told = home.test("connected", environ=BY_AIRFLOW)["connected"]
    story = Story(mlflow_server.uri, "connected", told)
    assert {run.status for run in story.runs if run.run_id != story.parent.run_id} == {"FINISHED"}
    assert story.parent.status == "RUNNING"
    assert "'mlflow_team' is not among the variables AIRFLOW_CONN_" in home.log
    told = home.test("connected", environ={"MLFLOW_TRACKING_URI": mlflow_server.uri, **BY_AIRFLOW})["connected"]
    assert Story(mlflow_server.uri, "connected", told).parent.status == "FINISHED", "by the variable"
