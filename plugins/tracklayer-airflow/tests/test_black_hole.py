"""A real Airflow whose MLflow server neither takes nor refuses connections, with the default patience."""

from __future__ import annotations

import re
import shutil
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

import pytest
from airflow_story import AIRFLOW

from harness.airflow import AirflowHome, AirflowService
from harness.process import wait_for
from harness.proxy import black_hole, refused_port
from tracklayer.settings import Settings

DAGS = Path(__file__).parent / "dags_black_hole"

LOOP = re.compile(r"^(\S+Z) .*Ran scheduling loop in ([\d.]+) ms", re.MULTILINE)

SCHEDULER_TELLS = (
    {"AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner=debug"}
    if AIRFLOW >= (3, 2)
    else {"AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG"}
)
"""That the scheduler's log has its loops; Airflow 3.1 tells either all or nothing."""

PATIENT = 4.0
"""Seconds, at most, from one heartbeat to the next on a busy machine, and for a loop; alone one, and some hundredths of one."""

AT_MOST: Final = 1.0
"""Seconds for which tracking lets a task wait for the server, in all, where that is away."""

AT_ONCE: Final = 0.25
"""Seconds: so long no hook waits on the scheduler's thread. There is nothing there to wait for."""

HOOKS: Final = ("on_dag_run_running", "on_dag_run_success", "on_dag_run_failed")

OUTCOMES: Final = {
    "black_holed": dict.fromkeys(("managed", "observed", "own_run", "untracked"), "success"),
    "black_holed_failing": {"failing": "failed"},
}
"""By DAG: its tasks, of which there are two each, and how they end."""


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_neither_the_scheduler_nor_a_task_waits(tmp_path: Path) -> None:
    """First connections are neither taken nor refused, then they are refused."""
    ages: list[float] = []
    added: dict[str, dict[str, float]] = {}
    hooks = tmp_path / "hooks"
    home = AirflowHome(tmp_path / "home", DAGS)
    (home.folder / "plugins").mkdir()
    shutil.copy(Path(__file__).with_name("hook_times.py"), home.folder / "plugins")
    with ExitStack() as away:
        uri = away.enter_context(black_hole())
        environ = {
            "MLFLOW_TRACKING_URI": uri,
            "TEST_HOOK_TIMES": str(hooks),
            "TRACKLAYER_PATIENCE": str(Settings().patience),
            "TRACKLAYER_AIRFLOW_OWN_RUNS": "true",
            "TRACKLAYER_AIRFLOW_SKIP_TASKS": "untracked",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            **SCHEDULER_TELLS,
        }
        with AirflowService(home, environ=environ) as airflow:
            added["black-holed"] = seconds_added(airflow, tmp_path / "black-holed", ages)
            away.close()
            away.enter_context(refused_port(urlsplit(uri).port or 0))
            added["refused"] = seconds_added(airflow, tmp_path / "refused", ages)
            loops = LOOP.findall(airflow.log("scheduler"))

    calls = [
        (hook, float(took), float(waited)) for hook, took, waited in map(str.split, hooks.read_text().splitlines())
    ]
    for hook in HOOKS:
        assert len([call for call in calls if call[0] == hook]) >= len(added) * (2 if hook == HOOKS[0] else 1)
    assert [call for call in calls if call[2] > AT_ONCE] == [], "a hook that waits holds up every DAG"
    too_long = {
        (outage, task): seconds for outage, each in added.items() for task, seconds in each.items() if seconds > AT_MOST
    }
    assert too_long == {}, added

    # Whatever else of ours might be in the scheduler's way. A machine that is busy for a moment is not.
    assert median(ages) < PATIENT, "the scheduler's heartbeat is each second"
    times = [datetime.fromisoformat(at) for at, _ in loops]
    assert len(times) > 20
    assert median(float(took) for _, took in loops) < PATIENT * 1_000
    assert median((later - earlier).total_seconds() for earlier, later in pairwise(times)) < PATIENT


def seconds_added(airflow: AirflowService, folder: Path, ages: list[float]) -> dict[str, float]:
    """Run the DAGs; for each task that is tracked the seconds for which its process waited for the server.

    That is, beyond three times those for which an untracked one waited for Airflow: a tracked one asks it more.

    Args:
        airflow: where.
        folder: where tasks leave word.
        ages: how old the scheduler's last heartbeat was, looked at again and again meanwhile.

    Returns:
        By task, for the quicker of both instances: where somebody waits, each of them does.
    """
    folder.mkdir()
    runs = {dag: airflow.trigger(dag, {"waited": str(folder)}) for dag in OUTCOMES}
    paths = {dag: f"/api/v2/dags/{dag}/dagRuns/{run_id}" for dag, run_id in runs.items()}

    def over() -> bool:
        ages.append(heartbeat_age(airflow))
        return all(airflow.call(path)["state"] not in {"queued", "running"} for path in paths.values())

    wait_for(over, 240, "end of the DAG runs")
    words = 2 * sum(map(len, OUTCOMES.values()))
    # The last tasks' hooks may still be at work.
    wait_for(lambda: over() and len(list(folder.glob("*.[01]"))) == words, 60, "end of the tasks' processes")
    ended = time.monotonic()  # and parents are being ended
    wait_for(lambda: over() and time.monotonic() > ended + PATIENT, 60, "what comes afterwards")
    for dag, path in paths.items():
        instances = airflow.call(f"{path}/taskInstances?limit=100")["task_instances"]
        told = sorted((item["task_id"], item["state"], item["try_number"]) for item in instances)
        assert told == sorted((task, state, 1) for task, state in OUTCOMES[dag].items() for _ in range(2))
    waited = {
        task: min(float((folder / f"{task}.{index}").read_text()) for index in (0, 1))
        for tasks in OUTCOMES.values()
        for task in tasks
    }
    return {task: seconds - 3 * waited["untracked"] for task, seconds in waited.items() if task != "untracked"}


def heartbeat_age(airflow: AirflowService) -> float:
    """Seconds since the scheduler's last heartbeat."""
    health = airflow.call("/api/v2/monitor/health")["scheduler"]
    assert health["status"] == "healthy"
    last = datetime.fromisoformat(health["latest_scheduler_heartbeat"])
    return (datetime.now(UTC) - last).total_seconds()
