"""A real Airflow whose MLflow server neither takes nor refuses connections, with the default patience."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.airflow import AirflowHome, AirflowService
from harness.proxy import black_hole
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

DAGS = Path(__file__).parent / "dags_black_hole"

LOOP = re.compile(r"Ran scheduling loop in ([\d.]+) ms")

PATIENT = 4.0
"""Seconds: more than tracking may add where the server is away (about one) on a busy machine, and less than any time-out
of MLflow's or of ours that somebody waits for (5 s and more)."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_neither_the_scheduler_nor_a_task_waits(tmp_path: Path) -> None:
    took = tmp_path / "took"
    took.mkdir()
    ages: list[float] = []
    with black_hole() as uri:
        environ = {
            "MLFLOW_TRACKING_URI": uri,
            "TRACKLAYER_PATIENCE": str(Settings().patience),
            "TRACKLAYER_AIRFLOW_OWN_RUNS": "true",
            "TRACKLAYER_AIRFLOW_SKIP_TASKS": "untracked",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner=debug",
        }
        with AirflowService(AirflowHome(tmp_path / "home", DAGS), environ=environ) as airflow:
            run_id = airflow.trigger("black_holed", {"took": str(took)})
            path = f"/api/v2/dags/black_holed/dagRuns/{run_id}"
            deadline = time.monotonic() + 240
            # And so much longer as parents that are ended would hold the scheduler up.
            while airflow.call(path)["state"] in {"queued", "running"} and time.monotonic() < deadline:
                ages.append(heartbeat_age(airflow))
                time.sleep(0.5)
            for _ in range(8):
                ages.append(heartbeat_age(airflow))
                time.sleep(0.5)
            instances = airflow.call(f"{path}/taskInstances?limit=100")["task_instances"]
            assert airflow.call(path)["state"] == "failed"
            loops = [float(found) / 1_000 for found in LOOP.findall(airflow.log("scheduler"))]

    expected = {"managed": "success", "observed": "success", "own_run": "success", "untracked": "success"}
    assert {(item["task_id"], item["state"], item["try_number"]) for item in instances} == {
        (task, state, 1) for task, state in {**expected, "failing": "failed"}.items()
    }
    assert max(ages) < PATIENT + 1, "the scheduler's heartbeat is each second"
    assert len(loops) > 20
    assert max(loops) < PATIENT

    # Of three the quickest: where somebody waits, all of them do.
    around = {
        task: min(seconds_around(item, took) for item in instances if item["task_id"] == task) for task in expected
    }
    added = {task: seconds - around["untracked"] for task, seconds in around.items()}
    assert {task: seconds for task, seconds in added.items() if seconds > PATIENT} == {}


def heartbeat_age(airflow: AirflowService) -> float:
    """Seconds since the scheduler's last heartbeat."""
    health = airflow.call("/api/v2/monitor/health")["scheduler"]
    assert health["status"] == "healthy"
    last = datetime.fromisoformat(health["latest_scheduler_heartbeat"])
    return (datetime.now(UTC) - last).total_seconds()


def seconds_around(item: Mapping[str, Any], took: Path) -> float:
    """Seconds of a task instance without those of its own code."""
    own = float((took / f"{item['task_id']}.{item['map_index']}").read_text())
    return float(item["duration"]) - own
