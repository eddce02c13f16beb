"""One Airflow home for the session, and what a few DAG runs in it have left on a real MLflow server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.airflow import AirflowHome
from harness.outage import flush

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.mlflow import MlflowServer

sys.path.insert(0, str(Path(__file__).parent))

from airflow_story import Story

from tracklayer.context import RunRef, Token
from tracklayer.identity import format_token
from tracklayer.store.opening import open_store

HERE = Path(__file__).parent

pytest.register_assert_rewrite("ending_table")


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    with AirflowHome(tmp_path_factory.mktemp("airflow"), HERE / "dags", imported=["mlflow", "pandas"]) as home:
        yield home


@pytest.fixture(scope="session")
def given_token(mlflow_server: MlflowServer) -> Token:
    """The token of a run that was made elsewhere."""
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    run = store.create_run(store.create_experiment("elsewhere", {}), name="elsewhere", start_time=1, tags={})
    return Token(run=RunRef(run_id=run.run_id, experiment_id=run.experiment_id, stage="data-prep"))


@pytest.fixture(scope="session")
def stories(airflow_home: AirflowHome, mlflow_server: MlflowServer, given_token: Token) -> dict[str, Story]:
    """DAG runs by ``dag.test()``, all in one process as somebody's session at a desk."""
    conf = {"given_token": format_token(given_token), "given_nonsense": "tl1.nonsense"}
    dags = [f"{dag_id}={json.dumps({'tracklayer': token, 'year': 2013})}" for dag_id, token in conf.items()]
    told = airflow_home.test(
        *("plain_endings", "tracked_endings", "handing_over", "writes_data", "reads_data"),
        *dags,
        environ={"MLFLOW_TRACKING_URI": mlflow_server.uri, "TEST_TIME_LIMIT": "5"},
    )
    flush(mlflow_server.uri, journal=airflow_home.folder / "journal")  # on a busy machine something may be late
    return {dag_id: Story(mlflow_server.uri, dag_id, told[dag_id]) for dag_id in told}
