"""CeleryExecutor for real: Redis as broker, PostgreSQL as database, and two workers with a journal folder each."""

from __future__ import annotations

import os
import signal
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil
import pytest
import redis
from airflow_story import Story
from ending_scene import HEARTBEAT_TIMEOUT
from ending_table import DONE, GONE, ROWS, Ended, Ending, check, how

from harness.airflow import AirflowHome, AirflowService
from harness.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.backends import Backend
    from harness.mlflow import MlflowServer

HERE = Path(__file__).parent
WORKERS = ("worker-1", "worker-2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]


@dataclass
class Celery:
    """A running Airflow with two workers, and where its tasks hold."""

    service: AirflowService
    uri: str
    hold: Path


@pytest.fixture(scope="module")
def celery(
    tmp_path_factory: pytest.TempPathFactory, mlflow_server: MlflowServer, postgresql: Backend, redis_uri: str
) -> Iterator[Celery]:
    folder = tmp_path_factory.mktemp("celery")
    hold = folder / "hold"
    hold.mkdir()
    prefix = f"tracklayer-{uuid.uuid4().hex[:12]}:"
    configuration = folder / "airflow.cfg"  # the scheduler of Airflow 3.2 looks for this section nowhere else
    configuration.write_text(f"[celery_broker_transport_options]\nglobal_keyprefix = {prefix}\n")
    with ExitStack() as stack:
        database = stack.enter_context(postgresql.database())
        stack.callback(forget, redis_uri, prefix)
        environ = {
            "MLFLOW_TRACKING_URI": mlflow_server.uri,
            "TEST_HOLD": str(hold),
            "AIRFLOW_CONFIG": str(configuration),
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
            # Else the scheduled ones have runs of the same names here as where all of these DAGs are run.
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
            "AIRFLOW__CELERY__BROKER_URL": redis_uri,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": f"{HEARTBEAT_TIMEOUT:.0f}",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        }
        home = AirflowHome(folder / "home", HERE / "dags_scheduled", database=database)
        workers = {name: {"TRACKLAYER_JOURNAL": str(folder / f"journal-{name}")} for name in WORKERS}
        service = AirflowService(home, environ=environ, triggerer=True, workers=workers)
        stack.enter_context(service)
        yield Celery(service, mlflow_server.uri, hold)


def test_the_table_on_two_workers(celery: Celery) -> None:
    (celery.hold / "ends.holding.go").touch()  # nobody here watches how long it takes
    run_id = celery.service.trigger("ends")
    celery.service.wait("ends", run_id, seconds=400)
    told = {"run_id": run_id}
    wait_for(lambda: Story(celery.uri, "ends", told).parent.status != "RUNNING", 60, "end of the parent")
    ended = Ended.of(celery.service, Story(celery.uri, "ends", told))
    for row in ROWS:
        if row.dag == "ends":
            check(ended, row)
    journals = {path.read_text() for path in celery.hold.glob("ends.*.journal")}
    assert journals == {str(celery.hold.with_name(f"journal-{name}")) for name in WORKERS}, "both have worked"


def test_a_task_that_is_killed_alone_and_a_worker_that_is_killed_with_its_tasks(celery: Celery) -> None:
    run_id = celery.service.trigger("held")
    story = {"run_id": run_id}
    tasks = ("supervisor_killed", "orphaned", "heartbeat_lost", "marked_failed", "marked_success")
    pids = {task: celery.hold / f"held.{task}.1.pid" for task in tasks}
    wait_for(lambda: all(path.exists() and path.read_text() for path in pids.values()), 240, "tasks that hold")
    worker_of = {task: worker_above(first_in(path)) for task, path in pids.items()}
    alone, *gone = max((by_worker(worker_of, each) for each in worker_of.values()), key=len)
    assert gone
    assert len(gone) + 1 < len(tasks), "the other worker has some of them, so the DAG run goes on"

    def ends(*names: str) -> set[Ending]:
        return {how(Story(celery.uri, "held", story).run(task)) for task in names}

    def goes_on() -> bool:
        return bool(celery.service.call(f"/api/v2/dags/held/dagRuns/{quote(run_id)}")["state"] == "running")

    # Its worker lives and has no other task to begin: the process beside the worker finds what it left behind.
    os.kill(first_in(pids[alone]), signal.SIGKILL)
    wait_for(lambda: ends(alone) == {GONE}, 60, "end of the try that was killed alone")
    assert goes_on()
    for process in [worker_of[alone], *worker_of[alone].children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)

    # Nobody on the lost machine delivers its journal: the scheduler misses the heartbeats, and says so.
    wait_for(lambda: ends(*gone) == {GONE}, 120 + HEARTBEAT_TIMEOUT, "end of the tries on the lost machine")
    assert goes_on()
    for task in tasks:
        (celery.hold / f"held.{task}.go").touch()
    celery.service.wait("held", run_id, seconds=400)
    wait_for(lambda: Story(celery.uri, "held", story).parent.status != "RUNNING", 60, "end of the parent")
    assert ends(alone, *gone) == {GONE}
    assert ends(*set(tasks) - {alone, *gone}) == {DONE}
    assert Story(celery.uri, "held", story).parent.status == "FAILED"


def worker_above(pid: int) -> psutil.Process:
    """The Celery worker of a task's process."""
    return [each for each in psutil.Process(pid).parents() if "celery worker" in " ".join(each.cmdline())][-1]


def by_worker(workers: Mapping[str, psutil.Process], worker: psutil.Process) -> list[str]:
    """The tasks of a worker."""
    return [task for task, each in workers.items() if each == worker]


def first_in(path: Path) -> int:
    """The task's own process, of those that it has written down."""
    return int(path.read_text().split()[0])


def forget(uri: str, prefix: str) -> None:
    """Remove what the broker keeps in Redis."""
    with closing(redis.Redis.from_url(uri)) as client:
        keys = list(client.scan_iter(f"{prefix}*"))
        if keys:
            client.delete(*keys)
