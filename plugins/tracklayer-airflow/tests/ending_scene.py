"""One Airflow that runs every DAG of ``dags_scheduled`` while its tasks are killed, marked, cleared and deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_story import PARENT, Story
from ending_table import OBSERVED, Ended
from observed_story import ObservedStory

from harness.outage import flush
from harness.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.airflow import AirflowService

SOON: Final = 60.0
"""Seconds within which a try that was killed is to be ended on the tracking server."""

HEARTBEAT_TIMEOUT: Final = 30.0
"""Seconds after which Airflow takes a try for lost whose supervisor is silent, while its process may well be alive."""

ENVIRON: Final = {
    "AIRFLOW__CORE__PARALLELISM": "16",
    "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "30",  # a slow callback takes 16 s of it, and the machine is busy
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": f"{HEARTBEAT_TIMEOUT:.0f}",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
}

DATABASE: Final = os.environ.get("TRACKLAYER_TEST_AIRFLOW_DATABASE", "postgresql")
"""Airflow's: ``postgresql``, or ``sqlite`` (``make endings-sqlite``), where all of it takes twice as long."""

TWINS: Final = ("", OBSERVED) if DATABASE != "sqlite" else ("",)
"""How the names of DAGs begin of which there are two: with tracked tasks, and with tasks that are observed.

Those are left out on SQLite: with so many processes at once its lock is not to be had in time, and Airflow's scheduler ends.
"""

ENDED_BY_AIRFLOW: Final = tuple(
    (f"{twin}{dag_id}", task_id)
    for twin in TWINS
    for dag_id, task_id in (
        *(("held", task) for task in ("heartbeat_lost", "marked_failed", "marked_success")),
        ("timed", "endless"),
        ("deleted", "forgotten"),
    )
)
"""DAG and task of those that hold until Airflow ends their processes."""

ON_SCHEDULE: Final = ("one_of_two", "two_of_two")

NAMES: Final = ("held", "timed", "deleted", "cleared", "ends")
"""The DAGs of which there are two."""

VERSIONED: Final = """
from airflow.sdk import DAG, task

with DAG("versioned", schedule=None):

    @task.tracked
    def {task}() -> None:
        pass

    {task}()
"""


@dataclass
class Scene:
    """What was run, and what was seen while it ran.

    Attributes:
        service: the Airflow.
        uri: the MLflow server.
        hold: where tasks say that they are there, when they die, and are told to go on.
        runs: run ids of DAG runs, by the DAG or a name of their own.
        dags: the DAG of those that have a name of their own.
        seen: seconds until a try that was killed was ended on the tracking server, by DAG and task.
        orphans: by DAG the run of the task whose supervisor was killed, as it was while the task itself still ran, and
            whether it ran.
        before: statuses of the runs of the DAG runs that were deleted, before reconciling.
        reports: what reconciling said for people, and when it was repeated, as JSON.
    """

    service: AirflowService
    uri: str
    hold: Path
    runs: dict[str, str] = field(default_factory=dict)
    dags: dict[str, str] = field(default_factory=dict)
    seen: dict[tuple[str, str], float] = field(default_factory=dict)
    orphans: dict[str, tuple[str, bool]] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    reports: tuple[str, Mapping[str, Any]] = ("", {})
    _ended: dict[str, Ended] = field(default_factory=dict)

    def story(self, run: str) -> Story:
        """The runs of a DAG run, as they are now."""
        kind = ObservedStory if run.startswith(OBSERVED) else Story
        return kind(self.uri, self.dags.get(run, run), {"run_id": self.runs[run]})

    def ended(self, run: str) -> Ended:
        """A DAG run that has ended; asked for once."""
        if run not in self._ended:
            self._ended[run] = Ended.of(self.service, self.story(run))
        return self._ended[run]

    def path(self, run: str) -> str:
        """Where Airflow's API has the DAG run."""
        return f"/api/v2/dags/{self.dags.get(run, run)}/dagRuns/{self.runs[run]}"

    def processes(self, dag_id: str, task_id: str) -> tuple[int, int]:
        """The processes of a task that holds, once it does: its own, and its supervisor's."""
        path = self.hold / f"{dag_id}.{task_id}.1.pid"
        wait_for(lambda: path.exists() and len(path.read_text().split()) == 2, 240, f"{task_id} that holds")
        own, supervisor = map(int, path.read_text().split())
        return own, supervisor

    def go_on(self, dag_id: str, task_id: str) -> None:
        """Let a task that holds go on."""
        (self.hold / f"{dag_id}.{task_id}.go").touch()

    def killed(self, dag_id: str, task_id: str) -> None:
        """Write down when a task was killed, as those do that kill themselves."""
        (self.hold / f"{dag_id}.{task_id}.1.died").write_text(str(time.time()))

    def wait_until_seen(self, dag_id: str, *tasks: str) -> None:
        """Wait until their runs are ended on the tracking server."""
        keys = {(dag_id, task) for task in tasks}
        wait_for(lambda: keys <= self.seen.keys(), 3 * SOON, f"end of the runs of {', '.join(tasks)}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile somebody looks every second which of the tries that were killed are ended."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(1.0):
                for path in self.hold.glob("*.1.died"):
                    dag_id, task_id = path.name.split(".")[:2]
                    text = path.read_text()
                    if (dag_id, task_id) in self.seen or not text:
                        continue
                    if self._is_ended(dag_id, task_id):
                        self.seen[dag_id, task_id] = time.time() - float(text)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _is_ended(self, dag_id: str, task_id: str) -> bool:
        story = self.story(dag_id)
        return bool(story.runs) and any(run.status != "RUNNING" for run in story.tries(task_id)[:1])


def run_everything(scene: Scene, dags: Path, *, backfill: bool) -> None:
    """Start every DAG, do to it what its rows say, and wait until all of it has ended.

    Args:
        scene: the Airflow, which is running.
        dags: its folder of DAGs.
        backfill: whether to make one, which Airflow refuses on SQLite while a scheduler runs.
    """
    try:
        with scene.watching():
            _run_everything(scene, dags, backfill=backfill)
    finally:
        for path in scene.hold.glob("*.pid"):
            path.with_name(".".join([*path.name.split(".")[:2], "go"])).touch()


def _run_everything(scene: Scene, dags: Path, *, backfill: bool) -> None:
    service, runs = scene.service, scene.runs
    orphans: dict[str, int] = {}
    for twin in TWINS:  # one after the other: so many tasks that begin at once would take all of the machine
        for name in NAMES:
            runs[f"{twin}{name}"] = service.trigger(f"{twin}{name}")
        orphans[f"{twin}held"] = _kill_and_mark(scene, f"{twin}held")
    for dag_id in ("versioned", "evicted", "asked", *(("observed_slow",) if OBSERVED in TWINS else ())):
        runs[dag_id] = service.trigger(dag_id)
    for dag_id in ON_SCHEDULE:  # not before the API is there, without which their tasks fail
        service.call(f"/api/v2/dags/{dag_id}", {"is_paused": False}, method="PATCH")
    with _silent(scene, *_twins("held")):
        for dag_id in _twins("deleted"):
            _delete(scene, dag_id)
        for dag_id in _twins("cleared"):
            _clear(scene, dag_id)
        if backfill:
            _backfill(scene)
        _change(scene, dags)
    _let_go(scene, orphans)
    _wait_for_ends(scene, orphans)
    _reconcile(scene)


@contextmanager
def _silent(scene: Scene, *dag_ids: str) -> Iterator[None]:
    """Supervisors do not answer meanwhile, and until Airflow has given their tasks up."""
    stopped = [scene.processes(dag_id, "heartbeat_lost")[1] for dag_id in dag_ids]
    for supervisor in stopped:
        os.kill(supervisor, signal.SIGSTOP)
    try:
        yield

        def given_up(dag_id: str) -> bool:
            path = f"{scene.path(dag_id)}/taskInstances/heartbeat_lost"
            return bool(scene.service.call(path)["state"] == "failed")

        for dag_id in dag_ids:
            wait_for(partial(given_up, dag_id), 240, "task whose supervisor does not answer, to be given up")
            scene.killed(dag_id, "heartbeat_lost")
    finally:
        for supervisor in stopped:
            os.kill(supervisor, signal.SIGCONT)


def _let_go(scene: Scene, orphans: Mapping[str, int]) -> None:
    """Let what holds go on once what was killed meanwhile is ended on the tracking server."""
    killed = ("supervisor_killed", "orphaned", "heartbeat_lost", "marked_failed", "marked_success")
    for dag_id, orphan in orphans.items():
        scene.wait_until_seen(dag_id, *killed)
        scene.orphans[dag_id] = (scene.story(dag_id).run("orphaned").status, _lives(orphan))
        scene.go_on(dag_id, "orphaned")
    _answer(scene)
    for dag_id in _twins("ends"):
        scene.wait_until_seen(dag_id, "os_exit", "sigkill", "sigkill_with_retries")
        scene.go_on(dag_id, "holding")


def _answer(scene: Scene) -> None:
    """What a person does who is asked. By now Airflow has long heard that the task waits: see `PAUSE` in its DAG."""
    path = f"{scene.path('asked')}/taskInstances/answered/-1/hitlDetails"
    scene.service.call(path, {"chosen_options": ["yes"], "params_input": {}}, method="PATCH")


def _wait_for_ends(scene: Scene, orphans: Mapping[str, int]) -> None:
    """Wait until every DAG run, every process and every parent has ended."""
    service, runs = scene.service, scene.runs
    for dag_id in ON_SCHEDULE:
        runs[dag_id] = service.wait(dag_id)["dag_run_id"]
    left = runs.keys() - {*_twins("deleted")}
    for dag_id in left - {*ON_SCHEDULE, *scene.dags}:
        service.wait(dag_id, runs[dag_id], seconds=400)
    for orphan in orphans.values():
        wait_for(partial(_is_gone, orphan), SOON, "end of a task whose supervisor was killed")
    # Else they are let go in the end, and say of themselves that all went well.
    for dag_id, task_id in ENDED_BY_AIRFLOW:
        own, _ = scene.processes(dag_id, task_id)
        wait_for(partial(_is_gone, own), SOON, f"end of {task_id}, which Airflow ends")
    # Where the machine is so busy that the MLflow server seemed to be away, something is in a journal still.
    flush(scene.uri, journal=service.home.folder / "journal")
    for run in left:
        wait_for(partial(_parent_ended, scene.story(run)), SOON, f"parent of {run}")
    for dag_id in _twins("deleted"):
        scene.wait_until_seen(dag_id, "forgotten")


def _twins(*names: str) -> list[str]:
    return [f"{twin}{name}" for name in names for twin in TWINS]


def _kill_and_mark(scene: Scene, dag_id: str) -> int:
    """What is done to the tasks that hold; the process that is left an orphan."""
    own, supervisor = scene.processes(dag_id, "supervisor_killed")
    os.kill(supervisor, signal.SIGKILL)
    os.kill(own, signal.SIGKILL)
    scene.killed(dag_id, "supervisor_killed")
    orphan, supervisor = scene.processes(dag_id, "orphaned")
    os.kill(supervisor, signal.SIGKILL)
    scene.killed(dag_id, "orphaned")
    for task_id, state in (("marked_failed", "failed"), ("marked_success", "success")):
        scene.processes(dag_id, task_id)
        path = f"{scene.path(dag_id)}/taskInstances/{task_id}"
        scene.service.call(path, {"new_state": state}, method="PATCH")
        scene.killed(dag_id, task_id)
    return orphan


def _delete(scene: Scene, dag_id: str) -> None:
    """Delete a DAG run while its task runs. Airflow refuses that while it is running itself, and not when it is queued."""
    scene.processes(dag_id, "forgotten")

    def deleted() -> bool:
        scene.service.call(scene.path(dag_id), {"state": "queued"}, method="PATCH")
        try:
            scene.service.call(scene.path(dag_id), method="DELETE")
        except urllib.error.HTTPError as error:
            if error.code != 409:  # the scheduler was faster
                raise
            return False
        return True

    wait_for(deleted, 30, "deletion of a DAG run")
    scene.killed(dag_id, "forgotten")


def _clear(scene: Scene, dag_id: str) -> None:
    scene.service.wait(dag_id, scene.runs[dag_id], seconds=240)
    told = {"dry_run": False, "dag_run_id": scene.runs[dag_id], "task_ids": ["again"], "only_failed": False}
    scene.service.call(f"/api/v2/dags/{dag_id}/clearTaskInstances", {**told, "reset_dag_runs": True})


def _backfill(scene: Scene) -> None:
    """Three dates, each with a name of its own: the date."""
    service = scene.service
    told = {"dag_id": "daily", "from_date": "2025-01-01T00:00:00Z", "to_date": "2025-01-03T00:00:00Z"}
    service.call("/api/v2/dags/daily", {"is_paused": False}, method="PATCH")
    service.call("/api/v2/backfills", {**told, "max_active_runs": 3})
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        every = service.call("/api/v2/dags/daily/dagRuns?limit=100")["dag_runs"]
        found[:] = [run for run in every if run["run_type"] == "backfill"]
        return [run["state"] for run in found].count("success") >= 3

    wait_for(ended, 240, "backfill")
    for run in found:
        date = run["logical_date"][:10]
        scene.runs[date], scene.dags[date] = run["dag_run_id"], "daily"


def _change(scene: Scene, dags: Path) -> None:
    """Write another version of a DAG, and run it."""
    service = scene.service
    service.wait("versioned", scene.runs["versioned"], seconds=240)
    (dags / "versioned.py").write_text(VERSIONED.format(task="second"))
    versions = "/api/v2/dags/versioned/dagVersions"
    wait_for(lambda: service.call(versions)["total_entries"] == 2, 120, "second version of a DAG")
    scene.runs["versioned again"], scene.dags["versioned again"] = service.trigger("versioned"), "versioned"
    service.wait("versioned", scene.runs["versioned again"])


def _reconcile(scene: Scene) -> None:
    """Reconcile what is left of the DAG runs that were deleted, twice."""
    deleted = _twins("deleted")
    scene.before = {run.run_id: run.status for dag_id in deleted for run in scene.story(dag_id).runs}
    program = [str(Path(sys.executable).with_name("tracklayer")), "reconcile"]
    program += [text for dag_id in deleted for text in ("--experiment", dag_id)]
    environ = {"MLFLOW_TRACKING_URI": scene.uri, "TRACKLAYER_AIRFLOW_API_URL": scene.service.uri}

    def reconcile(*more: str) -> str:
        command = [*program, "--older-than", "0s", "--apply", *more]
        done = subprocess.run(
            command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    scene.reports = (reconcile(), json.loads(reconcile("--format", "json")))


def _parent_ended(story: Story) -> bool:
    """Whether there is one, and it is ended; asked anew."""
    parents = [run for run in replace(story).runs if PARENT not in run.tags]
    return bool(parents) and all(run.status != "RUNNING" for run in parents)


def _is_gone(pid: int) -> bool:
    return not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
