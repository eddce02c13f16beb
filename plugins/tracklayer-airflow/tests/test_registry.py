"""Operators, sensors, hook and connection of MLflow: on a real server, with and without credentials."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.exceptions import AirflowException  # type: ignore[attr-defined]  # its place in all versions
from airflow.sdk import DAG
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.airflow import AirflowHome
from harness.faults import GuardedServer
from harness.process import free_port
from tracklayer.exceptions import SettingsError
from tracklayer.provisional import id_tag, provisional_id
from tracklayer_airflow.connection import VARIABLES, variables
from tracklayer_airflow.hooks import MlflowHook
from tracklayer_airflow.registry import RegisterModelOperator
from tracklayer_airflow.sensors import MlflowRunSensor, ModelAliasSensor

if TYPE_CHECKING:
    from harness.mlflow import MlflowServer

pytestmark = pytest.mark.timeout(1_200)


@dataclass
class Connection:
    conn_id: str = "mlflow_default"
    host: str | None = "https://mlflow.example.com"
    schema: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = None
    extra_dejson: Any = field(default_factory=dict)


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (Connection(), {}),
        (Connection(host=" http://mlflow:5000/below "), {"MLFLOW_TRACKING_URI": "http://mlflow:5000/below"}),
        (Connection(host="mlflow", port=5000, schema="HTTP"), {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}),
        (Connection(host="http://mlflow/x", port=5000), {"MLFLOW_TRACKING_URI": "http://mlflow:5000/x"}),
        (Connection(host="http://mlflow:80", port=5000), {"MLFLOW_TRACKING_URI": "http://mlflow:80"}),
        (Connection(host="mlflow/x", port=5000), {"MLFLOW_TRACKING_URI": "https://mlflow:5000/x"}),
        (Connection(host="::1", port=5000, schema="http"), {"MLFLOW_TRACKING_URI": "http://[::1]:5000"}),
        (Connection(host="mlflow"), {"MLFLOW_TRACKING_URI": "https://mlflow"}),
        (Connection(host="sqlite:////data/mlflow.db"), {"MLFLOW_TRACKING_URI": "sqlite:////data/mlflow.db"}),
        (
            Connection(login="ann", password="s3cret"),
            {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "s3cret"},
        ),
        (Connection(password="t0ken"), {"MLFLOW_TRACKING_TOKEN": "t0ken"}),
        (
            Connection(extra_dejson={"token": "t0ken", "insecure_tls": True, "ca_file": None, "workspace": "team"}),
            {
                "MLFLOW_TRACKING_TOKEN": "t0ken",
                "MLFLOW_TRACKING_INSECURE_TLS": "true",
                "MLFLOW_WORKSPACE": "team",
            },
        ),
        (
            Connection(extra_dejson={"insecure_tls": False, "ca_file": "/ca.pem", "client_cert": "/me.pem"}),
            {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem", "MLFLOW_TRACKING_CLIENT_CERT_PATH": "/me.pem"},
        ),
    ],
)
def test_a_connection_is_mlflows_variables(connection: Connection, expected: dict[str, str]) -> None:
    assert variables(connection) == {"MLFLOW_TRACKING_URI": "https://mlflow.example.com", **expected}
    assert set(variables(connection)) <= set(VARIABLES)


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        (Connection(host=None), "it has no host"),
        (Connection(host="mlflow", schema="ftp"), "its schema is 'ftp'"),
        (Connection(host="https://ann:s3cret@mlflow"), "its host holds credentials"),
        (Connection(host="http://[mlflow"), "its host is no URI"),
        (Connection(extra_dejson={"tokn": "x"}), "extra has tokn; known are token"),
        (Connection(login="ann", extra_dejson={"token": "x"}), "it has a login and a token"),
        (
            Connection(extra_dejson={"token": ["s3cret"]}),
            "token in its extra must be text, or true or false, not a list",
        ),
        (Connection(extra_dejson={"workspace": {"a": "s3cret"}}), "workspace in its extra must be text"),
        (Connection(extra_dejson=["s3cret"]), "its extra is no table"),
    ],
)
def test_a_wrong_connection_is_named(connection: Connection, message: str) -> None:
    with pytest.raises(SettingsError, match="the connection 'mlflow_default' cannot be used for MLflow") as failure:
        variables(connection)
    assert message in str(failure.value)
    assert "s3cret" not in str(failure.value)


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", **fields}))


def test_the_hook_speaks_with_the_connections_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody-else")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    before = dict(os.environ)
    with GuardedServer(tmp_path / "guarded") as server:
        login, password = server.ADMIN
        connect(monkeypatch, host=server.uri, login=login, password=password)
        hook = MlflowHook()
        assert hook.test_connection()[0] is True
        with hook.client() as client:
            assert client.get_experiment("0").name == "Default"
        connect(monkeypatch, host=server.uri, login=login, password="wrong")
        fine, told = hook.test_connection()
        assert not fine
        assert "wrong" not in told.replace("wrong password", "")
        connect(monkeypatch, host=f"http://127.0.0.1:{free_port()}")
        assert hook.test_connection()[0] is False
        connect(monkeypatch, host="")
        assert "it has no host" in hook.test_connection()[1]
    monkeypatch.delenv("AIRFLOW_CONN_MLFLOW_DEFAULT")
    assert dict(os.environ) == before


def test_without_a_connection_it_is_mlflows_own_variables(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    assert MlflowHook(None).variables() == {}
    with MlflowHook(None).client(retries=0, timeout=5) as client:
        assert client.get_experiment("0").name == "Default"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_run_that_is_not_delivered_yet_is_waited_for(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    given_out = provisional_id()
    sensor = MlflowRunSensor(task_id="wait", run_id=given_out)
    assert not sensor.poke({}).is_done
    client = MlflowClient(mlflow_server.uri)
    run_id = client.create_run("0", tags={id_tag(given_out): "1"}).info.run_id
    assert not sensor.poke({}).is_done
    client.set_terminated(run_id)
    assert sensor.poke({}).xcom_value == "FINISHED"
    with pytest.raises(MlflowException, match="not found"):
        MlflowRunSensor(task_id="unknown", run_id=uuid.uuid4().hex).poke({})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert not MlflowRunSensor(task_id="away", run_id=given_out).poke({}).is_done


@pytest.mark.parametrize("run_id", [None, "None", ""])
def test_a_run_that_nobody_knows_is_neither_waited_for_nor_replaced(run_id: Any) -> None:
    """Nothing came of the template; the nearest run upstream may have made quite another model."""
    with pytest.raises(AirflowException, match="there is no run to wait for: run_id is"):
        MlflowRunSensor(task_id="ended", run_id=run_id).poke({})
    register = RegisterModelOperator(task_id="register", name="flights", run_id="{{ run }}")
    register.run_id = run_id
    with pytest.raises(RuntimeError, match="the run that made the model is not known: run_id is"):
        register.execute({})


def test_a_rescheduled_sensor_must_be_told_since_when() -> None:
    with pytest.raises(ValueError, match="moved: in the mode 'reschedule' the sensor has to be told"):
        ModelAliasSensor(task_id="moved", name="flights", alias="champion", mode="reschedule")


@pytest.mark.parametrize(("native", "rendered"), [(False, "None"), (True, None)])
def test_an_alias_that_stood_for_none_before(
    native: bool, rendered: str | None, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``since=promote.output`` is None then, or the text of it: any version will do."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    client, name = MlflowClient(mlflow_server.uri), f"first-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    client.create_model_version(name, "s3://models/1")
    client.set_registered_model_alias(name, "champion", "1")
    with DAG("moved", schedule=None, render_template_as_native_obj=native):
        sensor = ModelAliasSensor(
            task_id="moved", name=name, alias="champion", since="{{ before }}", mode="reschedule", mlflow_conn_id=None
        )
    context: Any = {"before": None}  # all that the template needs
    sensor.render_template_fields(context)
    assert sensor.since == rendered
    assert sensor.poke({}).xcom_value == "1"
    given = ModelAliasSensor(task_id="given", name=name, alias="champion", since=None)
    assert given.poke({}).xcom_value == "1"


@pytest.fixture(scope="module")
def told(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = AirflowHome(tmp_path_factory.mktemp("airflow-registry"), Path(__file__).parent / "dags_registry")
    connection = json.dumps({"conn_type": "mlflow", "host": mlflow_server.uri})
    return home.test(
        "registry",
        "registry_troubles",
        "alias_moves",
        environ={"MLFLOW_TRACKING_URI": mlflow_server.uri, "AIRFLOW_CONN_MLFLOW_DEFAULT": connection},
    )


def test_a_model_goes_through_the_registry(told: dict[str, Any], mlflow_server: MlflowServer) -> None:
    assert told["registry"]["state"] == "success", told["registry"]["tasks"]
    xcoms = told["registry"]["xcoms"]
    version = xcoms["register.return_value"]
    assert xcoms["again.return_value"] == version
    assert xcoms.get("promote.return_value") is None
    assert xcoms["moved.return_value"] == version
    assert xcoms["ended.return_value"] == "FINISHED"
    client = MlflowClient(mlflow_server.uri)
    found = client.get_model_version_by_alias("doubler", "champion")
    assert (found.version, found.tags["checked"]) == (version, "yes")
    assert sorted(found.aliases) == ["challenger", "champion"]
    run = client.get_run(found.run_id or "")
    assert run.data.tags["tracklayer.stage"] == "training"
    assert len(client.search_model_versions("name='doubler'")) == 1


def test_an_alias_that_moves_while_somebody_waits(told: dict[str, Any], mlflow_server: MlflowServer) -> None:
    """By the mode poke since what it was at first, by the mode reschedule since what is told; not since where it is."""
    tasks, xcoms = told["alias_moves"]["tasks"], told["alias_moves"]["xcoms"]
    states = {task: state for task, (state, _) in tasks.items()}
    assert states == dict.fromkeys(tasks, "success") | {"known_already": "failed"}
    assert (xcoms["remembered.return_value"], xcoms["told.return_value"]) == ("2", "2")
    # Each promotion says what it has put an end to.
    assert [xcoms[f"{task}.return_value"] for task in ("up", "again_up", "down")] == ["1", "2", "2"]
    assert MlflowClient(mlflow_server.uri).get_model_version_by_alias("mover", "champion").version == "1"


def test_when_an_alias_has_moved(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    client, name = MlflowClient(mlflow_server.uri), f"moved-{uuid.uuid4().hex[:8]}"

    def waiting(**since: Any) -> ModelAliasSensor:
        return ModelAliasSensor(task_id="moved", name=name, alias="champion", **since)

    since_then, since_one, since_none = waiting(), waiting(since=1), waiting(since="")
    assert [sensor.poke({}).is_done for sensor in (since_then, since_one, since_none)] == [False] * 3, "no such model"
    client.create_registered_model(name)
    for number in ("1", "2"):
        client.create_model_version(name, f"s3://models/{number}")
    assert [sensor.poke({}).is_done for sensor in (since_then, since_one, since_none)] == [False] * 3, "no such alias"
    client.set_registered_model_alias(name, "champion", "1")
    assert [sensor.poke({}).xcom_value for sensor in (since_then, since_one, since_none)] == ["1", None, "1"]
    late = waiting()
    assert [late.poke({}).is_done, late.poke({}).is_done] == [False, False], "it stands where it stood at first"
    client.delete_registered_model_alias(name, "champion")
    assert [sensor.poke({}).is_done for sensor in (late, since_one)] == [False, False], "it stands for nothing"
    client.set_registered_model_alias(name, "champion", "2")
    assert [sensor.poke({}).xcom_value for sensor in (late, since_one)] == ["2", "2"]
    # While the server is away nothing is remembered.
    away = waiting()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert not away.poke({}).is_done
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    assert not away.poke({}).is_done
    client.set_registered_model_alias(name, "champion", "1")
    assert away.poke({}).xcom_value == "1"


def test_what_cannot_be_done_fails_and_says_why(told: dict[str, Any]) -> None:
    tasks = told["registry_troubles"]["tasks"]
    states = {name: state for name, (state, _) in tasks.items()}
    assert states == {
        "two": "success",
        "which_of_two": "failed",
        "one_of_two": "success",
        "of_nobody": "failed",
        "untracked_run": "success",
        "killed": "failed",
        "killed_as_expected": "success",
        "unknown": "failed",
        "never": "failed",
    }
    assert tasks["killed"][1] == 1, "an end is an end: no retries"
