"""A real Airflow whose MLflow server neither takes nor refuses connections, with the default patience."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from airflow_story import AIRFLOW

from harness.airflow import AirflowHome, AirflowService
from harness.process import wait_for
from harness.proxy import black_hole
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

DAGS = Path(__file__).parent / "dags_black_hole"

LOOP = re.compile(r"^(\S+Z) .*Ran scheduling loop in ([\d.]+) ms", re.MULTILINE)

SCHEDULER_TELLS = (
    {"AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner=debug"}
    if AIRFLOW >= (3, 2)
    else {"AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG"}
)
"""That the scheduler's log has its loops; Airflow 3.1 tells either all or nothing."""

PATIENT = 4.0
"""Seconds: more than tracking may add where the server is away (about one) on a busy machine, and less than any time-out
of MLflow's or of ours that somebody waits for (5 s and more)."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_neither_the_scheduler_nor_a_task_waits(tmp_path: Path) -> None:
    took = tmp_path / "took"
    took.mkdir()
    ages: list[float] = []
    gone: dict[str, float] = {}
    with black_hole() as uri:
        environ = {
            "MLFLOW_TRACKING_URI": uri,
            "TRACKLAYER_PATIENCE": str(Settings().patience),
            "TRACKLAYER_AIRFLOW_OWN_RUNS": "true",
            "TRACKLAYER_AIRFLOW_SKIP_TASKS": "untracked",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            **SCHEDULER_TELLS,
        }
        with AirflowService(AirflowHome(tmp_path / "home", DAGS), environ=environ) as airflow:
            run_id = airflow.trigger("black_holed", {"took": str(took)})
            path = f"/api/v2/dags/black_holed/dagRuns/{run_id}"

            def over() -> bool:
                ages.append(heartbeat_age(airflow))
                look(took, gone)
                return airflow.call(path)["state"] not in {"queued", "running"}

            wait_for(over, 240, "end of the DAG run")
            ended = time.monotonic()  # the parent is being ended now, and the last tasks' hooks may still be at work
            wait_for(
                lambda: over() and time.monotonic() > ended + PATIENT and len(gone) == len(list(took.iterdir())),
                60,
                "what comes afterwards",
            )
            instances = airflow.call(f"{path}/taskInstances?limit=100")["task_instances"]
            loops = LOOP.findall(airflow.log("scheduler"))

    expected = {"managed": "success", "observed": "success", "own_run": "success", "untracked": "success"}
    assert sorted((item["task_id"], item["state"], item["try_number"]) for item in instances) == sorted(
        (task, state, 1) for task, state in {**expected, "failing": "failed"}.items() for _ in range(2)
    )
    assert max(ages) < PATIENT, "the scheduler's heartbeat is each second"
    times = [datetime.fromisoformat(at) for at, _ in loops]
    assert len(times) > 20
    assert max(float(took) for _, took in loops) < PATIENT * 1_000
    assert max(later - earlier for earlier, later in pairwise(times)) < timedelta(seconds=PATIENT)

    # The quicker of both: where somebody waits, each of them does.
    around = {
        task: min(seconds_around(item, took, gone) for item in instances if item["task_id"] == task)
        for task in (*expected, "failing")
    }
    assert {task: more for task, each in around.items() if (more := each - around["untracked"]) > PATIENT} == {}


def heartbeat_age(airflow: AirflowService) -> float:
    """Seconds since the scheduler's last heartbeat."""
    health = airflow.call("/api/v2/monitor/health")["scheduler"]
    assert health["status"] == "healthy"
    last = datetime.fromisoformat(health["latest_scheduler_heartbeat"])
    return (datetime.now(UTC) - last).total_seconds()


def look(took: Path, gone: dict[str, float]) -> None:
    """Note which tasks' processes have ended by now: hooks run on when a task's state is told."""
    for path in took.iterdir():
        word = path.read_text().split()
        if path.name not in gone and len(word) == 2 and has_ended(int(word[0])):
            gone[path.name] = time.time()


def has_ended(pid: int) -> bool:
    """Whether a process has; its supervisor takes five seconds now and then to see it, without tracking, too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def seconds_around(item: Mapping[str, Any], took: Path, gone: Mapping[str, float]) -> float:
    """Seconds from the start of a task to the end of its process, without those of its own code."""
    name = f"{item['task_id']}.{item['map_index']}"
    own = float((took / name).read_text().split()[1])
    return gone[name] - datetime.fromisoformat(item["start_date"]).timestamp() - own
