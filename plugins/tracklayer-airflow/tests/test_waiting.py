"""Tracked triggers and sensors of Airflow's own, in a real scheduler with a triggerer."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from airflow_story import Story, name

from harness.airflow import AirflowHome, AirflowService
from harness.process import wait_for
from tracklayer.linking import read_links

if TYPE_CHECKING:
    from harness.backends import Backend
    from harness.mlflow import MlflowServer

DAG = Path(__file__).parent / "dags_any_operator" / "waiting.py"


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_dag_that_starts_another_and_waits_for_it(
    tmp_path: Path, mlflow_server: MlflowServer, postgresql: Backend
) -> None:
    """On PostgreSQL: on SQLite a busy Airflow answers its own sensors that the database is locked."""
    folder, hold = tmp_path / "dags", tmp_path / "hold"
    folder.mkdir()
    hold.touch()
    (folder / DAG.name).write_text(DAG.read_text())
    with ExitStack() as stack:
        home = AirflowHome(tmp_path / "home", folder, database=stack.enter_context(postgresql.database()))
        environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "TRACKLAYER_AIRFLOW_OWN_RUNS": "true"}
        environ |= {"AIRFLOW__TRACKLAYER__PASS_TOKENS": "True", "TEST_HOLD": str(hold)}
        airflow = stack.enter_context(AirflowService(home, environ=environ, triggerer=True))
        run_id = airflow.trigger("waiting")

        def ended(dag_id: str, run_id: str) -> dict[str, tuple[str, int]]:
            path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances"
            found = airflow.call(path)["task_instances"]
            return {task["task_id"]: (task["state"], task["try_number"]) for task in found}

        not_yet = {None, "scheduled", "queued", "running"}
        wait_for(lambda: ended("waiting", run_id)["whole"][0] not in not_yet, 240, "sensor that is deferred")
        hold.unlink()
        state = airflow.wait("waiting", run_id, seconds=480)["state"]
        given_up = [line for line in airflow.log("scheduler").splitlines() if "state attribute is" in line]
        assert state == "success", (ended("waiting", run_id), given_up)
        triggered, plainly = airflow.wait("awaited"), airflow.wait("started_plainly")
        waiting = Story(mlflow_server.uri, "waiting", {"run_id": run_id})
        awaited = Story(mlflow_server.uri, "awaited", {"run_id": triggered["dag_run_id"]})

        def parents() -> list[str]:
            told = {"waiting": run_id, "awaited": triggered["dag_run_id"]}
            return [Story(mlflow_server.uri, dag_id, {"run_id": run}).parent.status for dag_id, run in told.items()]

        wait_for(lambda: parents() == ["FINISHED", "FINISHED"], 60, "end of the parents")
        links: dict[str, Any] = airflow.links("waiting", run_id, "one")
        triggering: dict[str, Any] = airflow.links("waiting", run_id, "start")

    runs = sorted(name(run) for run in waiting.runs if name(run))
    tasks = [
        "again",
        "deferred",
        "from_trigger",
        "mapped",
        "observed",
        "one",
        "plain",
        "rescheduled",
        "start",
        "start_and_wait",
        "use",
        "whole",
    ]
    assert runs == tasks, "one run each, however often it was resumed"
    assert {run.status for run in waiting.runs if name(run)} == {"FINISHED"}
    assert waiting.run("from_trigger").tags["tracklayer.outcome"] == "ends from its trigger"
    assert [waiting.run(task).tags["tracklayer.outcome"] for task in ("start", "again")] == [
        "triggered a DAG run",
        "skipped",
    ]
    # the links on the pages
    pages = f"{mlflow_server.uri}/#/experiments/{waiting.parent.experiment_id}/runs/"
    assert links["MLflow run"] == pages + waiting.run("one").run_id
    assert links["MLflow DAG run"] == pages + waiting.parent.run_id
    assert set(triggering) == {"Triggered DAG", "MLflow run", "MLflow DAG run"}
    assert "/dags/awaited/" in triggering["Triggered DAG"]
    # the token went along, and nothing else of the conf changed
    assert set(triggered["conf"]) == {"rows", "tracklayer"}
    start = waiting.run("start").run_id
    assert [link.run.run_id for link in read_links(awaited.parent.tags)] == [start]
    assert awaited.upstream("prepare") == [start]
    assert set(plainly["conf"]) == {"rows", "tracklayer"}
    started = Story(mlflow_server.uri, "started_plainly", {"run_id": plainly["dag_run_id"]})
    assert started.upstream("begin") == [waiting.run("plain").run_id]
    # and came back by the sensors
    assert waiting.upstream("one") == sorted(["start", awaited.run("prepare").run_id])
    assert waiting.upstream("observed") == sorted(["start", awaited.run("prepare").run_id])
    assert waiting.upstream("mapped") == sorted(["start", awaited.run("part[0]").run_id])
    assert waiting.upstream("whole") == sorted(["start", awaited.parent.run_id])
    assert waiting.upstream("use") == ["mapped", "observed", "one", "whole"]
    assert waiting.upstream("rescheduled") == waiting.upstream("deferred") == []
