"""What a real Airflow says about its DAG runs and tasks, and what reconciling makes of it."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow_story import Story

from harness.airflow import AirflowHome, AirflowService
from harness.process import Program, free_port, wait_for
from tracklayer.cli import main
from tracklayer.context import State, TaskRun, WorkflowRun
from tracklayer_airflow import truth
from tracklayer_airflow.api import URL_VARIABLE, AirflowUnavailable, api
from tracklayer_airflow.hookimpls import tracklayer_task_state, tracklayer_workflow_state
from tracklayer_airflow.settings import AirflowSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.mlflow import MlflowServer

HERE = Path(__file__).parent

PAGES = "https://airflow.example.com"
"""How the Airflow calls itself; it is asked at an address of loopback."""

FORGOTTEN = """
from airflow.sdk import DAG, task

with DAG("forgotten", schedule=None):

    @task.tracked
    def once() -> None:
        pass

    once()
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]


@dataclass
class Airflow:
    """A running Airflow whose listener is switched off: a DAG run that failed, one that waits, one whose DAG was deleted."""

    service: AirflowService
    failed: str
    waiting: str
    forgotten: str
    hold: Path


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, mlflow_server: MlflowServer) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("airflow-truth")
    hold = folder / "hold"
    hold.touch()
    dags = folder / "dags"
    dags.mkdir()
    shutil.copy(HERE / "dags_truth" / "truth.py", dags)
    (dags / "forgotten.py").write_text(FORGOTTEN)
    environ = {
        "MLFLOW_TRACKING_URI": mlflow_server.uri,
        "TRACKLAYER_AIRFLOW_LISTENER": "false",
        "AIRFLOW__API__BASE_URL": PAGES,
    }
    with AirflowService(AirflowHome(folder / "home", dags), environ=environ) as service:
        forgotten = service.trigger("forgotten")
        assert service.wait("forgotten", forgotten)["state"] == "success"
        (dags / "forgotten.py").unlink()
        failed = service.trigger("truth")
        waiting = service.trigger("waits", {"hold": str(hold)})
        assert service.wait("truth", failed, seconds=240)["state"] == "failed"
        # Not before: a scheduler of Airflow 3.1 that has yet to hear from its executor of a task that is deleted ends with
        # an error. And a DAG processor that was reading the file while that went has written the DAG down once more.
        wait_for(lambda: is_deleted(service, "forgotten"), 60, "deletion of a DAG")
        yield Airflow(service, failed, waiting, forgotten, hold)
        hold.unlink(missing_ok=True)


def is_deleted(service: AirflowService, dag_id: str) -> bool:
    """Whether Airflow has no such DAG any more; deletes it if it has."""
    try:
        service.call(f"/api/v2/dags/{dag_id}")
    except urllib.error.HTTPError as error:
        return error.code == 404
    service.call(f"/api/v2/dags/{dag_id}", method="DELETE")
    return False


@pytest.fixture
def asked(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Airflow:
    """The Airflow, named in the settings."""
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", airflow.service.uri)
    return airflow


def dag_run(dag_id: str, run_id: str, instance: str = "default", *, url: str | None = None) -> WorkflowRun:
    tags = {"airflow.dag_run_url": f"{url}/dags/{dag_id}/runs/{run_id}"} if url else {}
    return WorkflowRun(orchestrator="airflow", instance=instance, workflow=dag_id, run_id=run_id, tags=tags)


def test_the_state_of_dag_runs(asked: Airflow) -> None:
    failed = tracklayer_workflow_state(dag_run("truth", asked.failed))
    assert failed is not None
    assert (failed.status, failed.said) == ("FAILED", "failed")
    assert failed.ended_at is not None
    assert failed.ended_at.tzinfo is not None
    assert tracklayer_workflow_state(dag_run("waits", asked.waiting)) == State(status="RUNNING", said="running")
    assert tracklayer_workflow_state(dag_run("waits", "never was?")) == State(status="GONE")
    assert tracklayer_workflow_state(dag_run("waits", "never/was?")) is None, "its API has no path for a slash"
    assert tracklayer_workflow_state(dag_run("of another Airflow", "r1")) is None
    assert tracklayer_workflow_state(dag_run("truth", asked.failed, instance="another")) is None
    assert tracklayer_workflow_state(WorkflowRun(orchestrator="prefect", workflow="truth", run_id="r1")) is None


def test_a_dag_that_was_deleted_is_told_from_one_of_another_airflow(
    asked: Airflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def state(url: str | None) -> State | None:
        return tracklayer_workflow_state(dag_run("forgotten", asked.forgotten, url=url))

    truth._say_that_a_dag_is_unknown.cache_clear()
    assert state(PAGES) is None, "nobody has said that this is what it calls itself"
    assert f"knows no DAG 'forgotten', whose open runs were made by the Airflow at {PAGES}" in caplog.text
    monkeypatch.setenv(URL_VARIABLE, f"{PAGES}/")
    assert state(PAGES) == State(status="GONE")
    assert [state(url) for url in (None, "https://other.example.com", f"{PAGES}/team", f"{PAGES}.evil")] == [None] * 4
    assert state(asked.service.uri) is None, "the same address is on every machine"
    # The address that is asked counts as well as the other, unless it is that of loopback.
    monkeypatch.delenv(URL_VARIABLE)
    of_name = api(AirflowSettings(api_url="http://airflow:8080"))
    assert of_name is not None
    assert truth._was_of(of_name, dag_run("forgotten", "r1", url="http://airflow:8080"))
    assert not truth._was_of(of_name, dag_run("forgotten", "r1", url="http://airflow:8081"))


def test_reconciling_ends_what_is_left_of_a_deleted_dag(
    asked: Airflow, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    arguments = ["reconcile", "--experiment", "forgotten", "--apply", "--format", "json"]

    def status() -> str:
        return str(Story(mlflow_server.uri, "forgotten", {"run_id": asked.forgotten}).parent.status)

    assert run([*arguments, "--older-than", "0s"]) == 0
    assert "nobody here can say" in json.loads(capsys.readouterr().out)["left_alone"][0]["because"]
    assert status() == "RUNNING", "it may be another Airflow's"
    monkeypatch.setenv(URL_VARIABLE, PAGES)
    assert run(arguments) == 0
    assert "not long ago" in json.loads(capsys.readouterr().out)["left_alone"][0]["because"], "it may be restored"
    assert run([*arguments, "--older-than", "0s"]) == 0
    assert status() == "KILLED"


@pytest.mark.parametrize(
    ("task", "status", "said", "note"),
    [
        (TaskRun(task="prepare"), "FINISHED", "success", None),
        (TaskRun(task="train", index="0"), "FINISHED", "success", None),
        (TaskRun(task="train", index="1", try_number=1), "FAILED", "failed", None),
        (TaskRun(task="train", index="1", try_number=2), "FINISHED", "success", None),
        (TaskRun(task="skip"), "FINISHED", "skipped", "skipped"),
        (TaskRun(task="die"), "FAILED", "failed", None),
    ],
    ids=lambda value: f"{value.task}[{value.index}]#{value.try_number}" if isinstance(value, TaskRun) else None,
)
def test_the_state_of_tries(asked: Airflow, task: TaskRun, status: str, said: str, note: str | None) -> None:
    state = tracklayer_task_state(dag_run("truth", asked.failed), task)
    assert state is not None
    assert (state.status, state.note) == (status, note)
    assert state.said in {said, "up_for_retry"}
    assert state.ended_at is not None


@pytest.mark.parametrize(
    "task",
    [TaskRun(task="train.inner", index="1"), TaskRun(task="prepare", try_number=7), TaskRun(task="x", index="a")],
)
def test_what_airflow_does_not_know_as_a_task(asked: Airflow, task: TaskRun) -> None:
    assert tracklayer_task_state(dag_run("truth", asked.failed), task) is None


def test_a_task_that_runs(asked: Airflow) -> None:
    def running() -> bool:
        state = tracklayer_task_state(dag_run("waits", asked.waiting), TaskRun(task="wait"))
        return state is not None and state.said == "running"

    wait_for(running, 120, "task that runs", asked.service._programs["scheduler"])
    state = tracklayer_task_state(dag_run("waits", asked.waiting), TaskRun(task="wait"))
    assert state == State(status="RUNNING", said="running")


def test_airflows_own_variable_says_where_it_is(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, airflow.service.uri + "/")
    assert tracklayer_workflow_state(dag_run("waits", "never was")) == State(status="GONE")


def test_an_airflow_that_wants_a_user_name(airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = tmp_path / "passwords.json"
    passwords.write_text(json.dumps({"reader": "open sesame"}))
    port = free_port()
    environ = airflow.service.home.environ(
        {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "reader:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        }
    )
    command = [airflow.service.home.program, "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    program = Program(command, log=tmp_path / "api-server.log", environ=environ, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(f"{url}/api/v2/version"), 240, "answer of the API", program)
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        failed = dag_run("truth", airflow.failed)
        with pytest.raises(AirflowUnavailable, match=r"401.*api_username"):
            truth.of_dag_run(failed)
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_USERNAME", "reader")
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_PASSWORD", "wrong")
        with pytest.raises(AirflowUnavailable, match="no token"):
            truth.of_dag_run(failed)
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_PASSWORD", "open sesame")
        state = truth.of_dag_run(failed)
        assert state is not None
        assert state.status == "FAILED"
        body = json.dumps({"username": "reader", "password": "open sesame"}).encode()
        request = urllib.request.Request(f"{url}/auth/token", data=body, headers={"Content-Type": "application/json"})
        token = json.load(urllib.request.urlopen(request, timeout=30))["access_token"]
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_TOKEN", token)
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_PASSWORD", "wrong again")
        assert truth.of_dag_run(failed) == state
    finally:
        program.stop()


def test_reconciling_ends_what_the_listener_did_not(
    asked: Airflow, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    before = Story(mlflow_server.uri, "truth", {"run_id": asked.failed})
    assert before.parent.status == "RUNNING"
    # The task that waits may have found what the killed one left behind: then its run is ended by now.
    found = before.run("die").status == "KILLED"
    assert found or before.run("die").status == "RUNNING"

    arguments = ["reconcile", "--experiment", "truth", "--format", "json"]
    assert run(arguments) == 3
    dry = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in dry["findings"]] == (
        ["open-parent"] if found else ["open-parent", "open-run"]
    )
    assert run([*arguments, "--apply"]) == 0
    capsys.readouterr()
    assert run(arguments) == 0

    after = Story(mlflow_server.uri, "truth", {"run_id": asked.failed})
    told = asked.service.call(f"/api/v2/dags/truth/dagRuns/{asked.failed}")
    assert (after.parent.status, after.run("die").status) == ("FAILED", "KILLED" if found else "FAILED")
    assert after.parent.end_time == milliseconds(told["end_date"])
    assert {run.status for run in after.tries("train[1]")} == {"FAILED", "FINISHED"}
    assert "RUNNING" not in {run.status for run in after.runs}


def test_reconciling_does_not_say_that_all_is_well_where_nobody_can_be_asked(
    airflow: Airflow, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Because nothing says where Airflow is, and a DAG run is open."""
    wait_for(lambda: bool(Story(mlflow_server.uri, "waits", {"run_id": airflow.waiting}).runs), 120, "run that waits")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    arguments = ["reconcile", "--experiment", "waits", "--apply"]
    assert run(arguments) == 1
    told = capsys.readouterr()
    assert "An orchestrator could not be asked about 2 runs. Nothing else is to be done." in " ".join(told.out.split())
    assert "set api_url in [airflow]" in told.err
    assert run([*arguments, "--orchestrator", "script"]) == 0, "nobody asked about its runs"


def test_reconciling_leaves_what_runs_and_ends_what_was_deleted(
    asked: Airflow, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    wait_for(lambda: bool(Story(mlflow_server.uri, "waits", {"run_id": asked.waiting}).runs), 120, "run that waits")
    arguments = ["reconcile", "--experiment", "waits", "--format", "json"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["left_alone"] == []
    asked.hold.unlink()
    asked.service.wait("waits", asked.waiting)
    asked.service.call(f"/api/v2/dags/waits/dagRuns/{asked.waiting}", method="DELETE")
    assert run(arguments) == 0
    assert "deleted" in json.loads(capsys.readouterr().out)["left_alone"][0]["because"], "it may be restored"
    assert run([*arguments, "--apply", "--older-than", "0s"]) == 0
    assert Story(mlflow_server.uri, "waits", {"run_id": asked.waiting}).parent.status == "KILLED"


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def milliseconds(moment: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(moment).timestamp() * 1_000)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


class TestWithoutAnAirflow:
    def test_that_nothing_says_where_it_is_is_no_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(URL_VARIABLE, raising=False)
        with pytest.raises(AirflowUnavailable, match="TRACKLAYER_AIRFLOW_API_URL"):
            tracklayer_workflow_state(dag_run("truth", "r1"))
        with pytest.raises(AirflowUnavailable, match="TRACKLAYER_AIRFLOW_API_URL"):
            tracklayer_task_state(dag_run("truth", "r1"), TaskRun(task="train"))

    def test_one_that_is_away_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(AirflowUnavailable, match="cannot be reached"):
            truth.of_dag_run(dag_run("truth", "r1"))
        with pytest.raises(AirflowUnavailable, match="a moment ago"):
            truth.of_dag_run(dag_run("truth", "r2"))

    def test_secrets_are_not_shown(self) -> None:
        settings = AirflowSettings(api_username="reader", api_password="open sesame", api_token="eyJ")
        assert "sesame" not in repr(settings)
        assert "eyJ" not in repr(settings)
