"""Tasks that their triggers end, in a real scheduler with a triggerer: no worker comes back, and no listener is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from airflow_story import AIRFLOW, Story, name

from harness.airflow import AirflowHome, AirflowService
from harness.process import wait_for
from tracklayer.cli import main
from tracklayer.ending import LEFT_OPEN
from tracklayer.outcome import ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.backends import Backend
    from harness.mlflow import MlflowServer
    from tracklayer.store import Run

HERE = Path(__file__).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

DAGS = ("ended", "timed_out", "marked_run")


class Scene:
    """An Airflow in which all DAGs have ended."""

    def __init__(self, airflow: AirflowService, uri: str) -> None:
        self.airflow = airflow
        self._uri = uri
        self.runs = {dag_id: airflow.trigger(dag_id) for dag_id in DAGS}
        wait_for(self.all_wait, 120, "tasks that wait")
        self.waiting = {name(run): run.status for run in self.story("ended").runs}
        airflow.call(f"{self.path('ended')}/taskInstances/marked", {"new_state": "success"}, method="PATCH")
        wait_for(lambda: self.instances("marked_run")["failed"]["state"] == "failed", 120, "end by the trigger")
        airflow.call(self.path("marked_run"), {"state": "failed"}, method="PATCH")
        for dag_id, run_id in self.runs.items():
            assert airflow.wait(dag_id, run_id, seconds=240)["state"] == "failed"
        wait_for(lambda: all("RUNNING" not in self.statuses(dag_id) for dag_id in DAGS), 60, "end of all runs")

    def story(self, dag_id: str) -> Story:
        return Story(self._uri, dag_id, {"run_id": self.runs[dag_id]})

    def statuses(self, dag_id: str) -> list[str]:
        return [run.status for run in self.story(dag_id).runs]

    def all_wait(self) -> bool:
        """Whether every task of the first DAG is deferred, or was."""
        return {"success", "failed", "skipped", "unsaid", "retried", "observed", "crashed", "marked"} <= {
            task
            for task, item in self.instances("ended").items()
            if item["state"] in {"deferred", "success", "failed", "skipped", "up_for_retry"}
        }

    def instances(self, dag_id: str) -> dict[str, dict[str, str]]:
        instances = self.airflow.call(f"{self.path(dag_id)}/taskInstances")["task_instances"]
        return {item["task_id"]: item for item in instances}

    def path(self, dag_id: str) -> str:
        return f"/api/v2/dags/{dag_id}/dagRuns/{quote(self.runs[dag_id])}"


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, mlflow_server: MlflowServer, postgresql: Backend
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("deferred-ends")
    dags, modules = folder / "dags", folder / "modules"
    for where, file in ((dags, "dags_deferred_ends/deferred_ends.py"), (modules, "ending_trigger.py")):
        where.mkdir()
        (where / Path(file).name).write_text((HERE / file).read_text())
    environ = {
        "AIRFLOW__CORE__PARALLELISM": "8",
        "MLFLOW_TRACKING_URI": mlflow_server.uri,
        "PYTHONPATH": str(modules),
        "TRACKLAYER_AIRFLOW_OBSERVE": "true",
    }
    with postgresql.database() as database:
        home = AirflowHome(folder / "home", dags, database=database)
        with AirflowService(home, environ=environ, triggerer=True) as airflow:
            yield Scene(airflow, mlflow_server.uri)


def told(run: Run) -> tuple[str, str | None]:
    return run.status, run.tags.get("tracklayer.outcome")


@pytest.mark.parametrize(
    ("task", "state", "end"),
    [
        ("success", "success", ("FINISHED", ELSEWHERE)),
        ("failed", "failed", ("FAILED", ELSEWHERE)),
        ("skipped", "skipped", ("FINISHED", "skipped")),
        ("unsaid", "failed", ("FAILED", None)),
        ("observed", "failed", ("FAILED", None)),
        ("marked", "success", ("FINISHED", None)),  # by somebody, while it waited
    ],
)
def test_a_run_ends_as_its_trigger_ends_the_task(
    scene: Scene, task: str, state: str, end: tuple[str, str | None]
) -> None:
    """Also where the trigger had not said that it would."""
    instance = scene.instances("ended")[task]
    assert instance["state"] == state
    run = scene.story("ended").run(task)
    assert told(run) == end
    airflows = Story.moment(instance["end_date"])
    assert run.end_time == airflows, "not when the DAG run ended"


def test_one_whose_trigger_fails_itself_comes_back_and_ends_by_itself(scene: Scene) -> None:
    run = scene.story("ended").run("crashed")
    assert told(run) == ("FAILED", None)
    assert run.tags["tracklayer.error.type"] == "TaskDeferralError"


def test_it_is_open_as_long_as_the_task_waits(scene: Scene) -> None:
    """As it is while any other task is deferred."""
    assert {scene.waiting[task] for task in ("success", "failed", "skipped", "unsaid", "observed")} == {"RUNNING"}


def test_a_try_after_which_there_is_another_has_failed(scene: Scene) -> None:
    tries = [told(run) for run in scene.story("ended").tries("retried")]
    # Before Airflow 3.3 a task that its trigger fails is not tried again.
    assert tries == [("FAILED", ELSEWHERE)] * (2 if AIRFLOW >= (3, 3) else 1)


@pytest.mark.parametrize(
    ("dag_id", "waiting"),
    [
        ("timed_out", ("KILLED", LEFT_OPEN)),
        # It marks what waits, too; that is in memory since Airflow 3.3.
        ("marked_run", ("FAILED", None) if AIRFLOW >= (3, 3) else ("KILLED", LEFT_OPEN)),
    ],
)
def test_where_airflow_tells_nothing_reconciling_asks(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    mlflow_server: MlflowServer,
    dag_id: str,
    waiting: tuple[str, str | None],
) -> None:
    """When a DAG run times out, or is marked, only those of its tasks are in memory that had not ended until then."""
    before = scene.story(dag_id)
    # Airflow 3.1 loads all tasks of a DAG run that times out.
    known = dag_id == "timed_out" and AIRFLOW < (3, 2)
    assert told(before.run("failed")) == ("FAILED" if known else "KILLED", ELSEWHERE)
    assert told(before.run("endless")) == waiting
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", scene.airflow.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    with pytest.raises(SystemExit) as ended:
        main(["reconcile", "--apply", "--experiment", dag_id])
    assert not ended.value.code
    after = scene.story(dag_id)
    assert told(after.run("failed")) == ("FAILED", ELSEWHERE)
    assert after.run("failed").end_time == Story.moment(scene.instances(dag_id)["failed"]["end_date"])
    assert told(after.run("endless")) == waiting
    assert after.parent.status == "FAILED"
