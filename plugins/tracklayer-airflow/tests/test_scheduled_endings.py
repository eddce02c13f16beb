"""Every way a task or a DAG run can end, on a real scheduler with supervisors, api-server, dag-processor and triggerer.

One Airflow runs all of it at once (the DAGs are in ``dags_scheduled``); meanwhile the tests kill, mark, clear and delete.
Afterwards each row of the tables says which runs there have to be, with which status, try, parent, tags and links.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from airflow_story import AIRFLOW, PARENT, Story, name
from ending_table import GONE, check, how

from harness.airflow import AirflowHome, AirflowService
from harness.outage import flush
from harness.process import wait_for
from tracklayer.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.backends import Backend
    from harness.mlflow import MlflowServer

HERE = Path(__file__).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOON: Final = 60.0
"""Seconds within which a try that was killed is to be ended on the tracking server."""

VERSIONED = """
from airflow.sdk import DAG, task

with DAG("versioned", schedule=None):

    @task.tracked
    def {task}() -> None:
        pass

    {task}()
"""


@dataclass
class Scheduled:
    """What was run, and what was seen while it ran.

    Attributes:
        service: the Airflow.
        uri: the MLflow server.
        hold: where tasks say that they are there, and are told to go on.
        runs: run ids of DAG runs by a name of their own.
        seen: seconds until a try that was killed was ended on the tracking server, by task.
    """

    service: AirflowService
    uri: str
    hold: Path
    runs: dict[str, str] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)

    def story(self, dag_id: str, run: str | None = None) -> Story:
        """The runs of a DAG run."""
        return Story(self.uri, dag_id, {"run_id": self.runs[run or dag_id]})

    def path(self, dag_id: str, run: str | None = None) -> str:
        """Where Airflow's API has the DAG run."""
        return f"/api/v2/dags/{dag_id}/dagRuns/{self.runs[run or dag_id]}"

    def processes(self, dag_id: str, task_id: str) -> tuple[int, int]:
        """The processes of a task that holds, once it does: its own, and its supervisor's."""
        path = self.hold / f"{dag_id}.{task_id}.1.pid"
        wait_for(lambda: path.exists() and bool(path.read_text()), 240, f"{task_id} that holds")
        own, supervisor = map(int, path.read_text().split())
        return own, supervisor

    def go_on(self, dag_id: str, task_id: str) -> None:
        """Let a task that holds go on."""
        (self.hold / f"{dag_id}.{task_id}.go").touch()

    def ended(self, dag_id: str, task_id: str, began: float) -> None:
        """Wait until the only run of a task is ended, and write down how long that took since it was killed."""
        wait_for(lambda: self.story(dag_id).run(task_id).status != "RUNNING", 2 * SOON, f"end of the run of {task_id}")
        self.seen[task_id] = time.monotonic() - began


@pytest.fixture(scope="module")
def scheduled(
    tmp_path_factory: pytest.TempPathFactory, mlflow_server: MlflowServer, postgresql: Backend
) -> Iterator[Scheduled]:
    """On PostgreSQL: a backfill and a busy scheduler are too much for Airflow on SQLite, which answers that it is locked."""
    folder = tmp_path_factory.mktemp("scheduled")
    dags, hold = folder / "dags", folder / "hold"
    dags.mkdir()
    hold.mkdir()
    (dags / "scheduled_endings.py").write_text((HERE / "dags_scheduled" / "scheduled_endings.py").read_text())
    (dags / "versioned.py").write_text(VERSIONED.format(task="first"))
    environ = {
        "MLFLOW_TRACKING_URI": mlflow_server.uri,
        "TEST_HOLD": str(hold),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    }
    with ExitStack() as stack:
        home = AirflowHome(folder / "home", dags, database=stack.enter_context(postgresql.database()))
        service = stack.enter_context(AirflowService(home, environ=environ, triggerer=True))
        found = Scheduled(service, mlflow_server.uri, hold)
        try:
            run_everything(found, dags)
            yield found
        finally:
            for path in hold.glob("*.pid"):
                path.with_name(".".join([*path.name.split(".")[:2], "go"])).touch()


def run_everything(scheduled: Scheduled, dags: Path) -> None:
    """Start every DAG, do to it what its row says, and wait until all of it has ended."""
    service, runs = scheduled.service, scheduled.runs
    for dag_id in ("held", "timed", "deleted", "cleared", "versioned", "ends"):
        runs[dag_id] = service.trigger(dag_id)
    kill_and_mark(scheduled)

    scheduled.processes("deleted", "forgotten")
    service.call(scheduled.path("deleted"), {"state": "failed"}, method="PATCH")
    service.call(scheduled.path("deleted"), method="DELETE")

    service.wait("cleared", runs["cleared"], seconds=240)
    clear = {"dry_run": False, "dag_run_id": runs["cleared"], "task_ids": ["again"], "only_failed": False}
    service.call("/api/v2/dags/cleared/clearTaskInstances", {**clear, "reset_dag_runs": True})
    backfill = {"dag_id": "daily", "from_date": "2025-01-01T00:00:00Z", "to_date": "2025-01-03T00:00:00Z"}
    service.call("/api/v2/dags/daily", {"is_paused": False}, method="PATCH")
    service.call("/api/v2/backfills", {**backfill, "max_active_runs": 3})

    service.wait("versioned", runs["versioned"], seconds=240)
    (dags / "versioned.py").write_text(VERSIONED.format(task="second"))
    versions = "/api/v2/dags/versioned/dagVersions"
    wait_for(lambda: service.call(versions)["total_entries"] == 2, 120, "second version of a DAG")
    runs["versioned again"] = service.trigger("versioned")
    service.wait("versioned", runs["versioned again"])

    for dag_id in ("one_of_two", "two_of_two"):
        runs[dag_id] = service.wait(dag_id)["dag_run_id"]
    wait_for(
        lambda: [run["state"] for run in service.call("/api/v2/dags/daily/dagRuns")["dag_runs"]].count("success") >= 3,
        240,
        "backfill",
    )
    for dag_id in ("held", "timed", "cleared", "ends"):
        service.wait(dag_id, runs[dag_id], seconds=400)
    # Where the machine is so busy that the MLflow server seemed to be away, something is in a journal still.
    flush(scheduled.uri, journal=service.home.folder / "journal")
    for dag_id in ("held", "timed", "cleared", "ends", "versioned", "one_of_two", "two_of_two"):
        wait_for(partial(parent_ended, scheduled.story(dag_id)), SOON, f"parent of {dag_id}")


def parent_ended(story: Story) -> bool:
    """Whether there is one, and it is ended; asked anew."""
    parents = [run for run in replace(story).runs if PARENT not in run.tags]
    return bool(parents) and all(run.status != "RUNNING" for run in parents)


def kill_and_mark(scheduled: Scheduled) -> None:
    """What is done to the tasks that hold."""
    service, path = scheduled.service, scheduled.path("held")
    killed: dict[str, float] = {}
    own, supervisor = scheduled.processes("held", "supervisor_killed")
    os.kill(supervisor, signal.SIGKILL)
    os.kill(own, signal.SIGKILL)
    killed["supervisor_killed"] = time.monotonic()
    _, stopped = scheduled.processes("held", "heartbeat_lost")
    os.kill(stopped, signal.SIGSTOP)
    try:
        for task_id, state in (("marked_failed", "failed"), ("marked_success", "success")):
            scheduled.processes("held", task_id)
            service.call(f"{path}/taskInstances/{task_id}", {"new_state": state}, method="PATCH")
            killed[task_id] = time.monotonic()

        def given_up() -> bool:
            return bool(service.call(f"{path}/taskInstances/heartbeat_lost")["state"] == "failed")

        wait_for(given_up, 240, "task whose supervisor does not answer, to be given up")
    finally:
        os.kill(stopped, signal.SIGCONT)
    killed["heartbeat_lost"] = time.monotonic()
    for task_id, moment in killed.items():
        scheduled.ended("held", task_id, moment)


def test_the_table(scheduled: Scheduled) -> None:
    check(scheduled.service, scheduled.story("ends"))


@pytest.mark.parametrize("task", ["success", "exception", "os_exit", "sigkill", "sigkill_with_retries", "sigterm"])
def test_what_a_try_logged_is_there_however_it_ended(scheduled: Scheduled, task: str) -> None:
    for number, run in enumerate(scheduled.story("ends").tries(task), 1):
        assert run.metrics["tried"] == number


def test_a_retry_names_the_try_whose_place_it_took(scheduled: Scheduled) -> None:
    for task in ("retried", "sigkill_with_retries"):
        first, second = scheduled.story("ends").tries(task)
        assert first.tags["tracklayer.superseded_by"] == second.run_id


@pytest.mark.parametrize("dag_id", ["ends", "held", "timed", "cleared", "versioned", "one_of_two", "two_of_two"])
def test_nothing_stays_running_after_the_dag_run(scheduled: Scheduled, dag_id: str) -> None:
    runs = scheduled.story(dag_id).runs
    assert runs
    assert {name(run): run.status for run in runs if run.status == "RUNNING"} == {}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        # By the word of the scheduler that it is given up, or of whoever finds on the machine that the process is gone.
        ("supervisor_killed", {GONE}),
        ("heartbeat_lost", {GONE, ("KILLED", "terminated")}),
        # The code did not finish, whatever was said about it: the supervisor kills it when it hears.
        ("marked_failed", {GONE, ("KILLED", "terminated")}),
        ("marked_success", {GONE, ("KILLED", "terminated")}),
    ],
)
def test_a_try_that_others_ended(scheduled: Scheduled, task: str, expected: set[tuple[str, str | None]]) -> None:
    run = scheduled.story("held").run(task)
    assert how(run) in expected
    assert run.metrics["tried"] == 1
    assert scheduled.seen[task] < SOON


def test_a_cleared_task_has_a_run_for_each_time(scheduled: Scheduled) -> None:
    story = scheduled.story("cleared")
    first, second = story.tries("again")
    assert [first.status, second.status, story.parent.status] == ["FINISHED"] * 3
    assert first.tags["tracklayer.superseded_by"] == second.run_id
    assert (first.metrics["tried"], second.metrics["tried"]) == (1, 2)


def test_a_dag_run_that_takes_too_long(scheduled: Scheduled) -> None:
    story = scheduled.story("timed")
    assert story.parent.status == "FAILED"
    told = story.parent.tags.get("tracklayer.error.message", "")
    assert ("timed_out" in told) is (AIRFLOW >= (3, 2))  # Airflow 3.1 tells its listeners no reason
    assert story.run("endless").status == "KILLED"


def test_a_backfill_of_three_dates(scheduled: Scheduled) -> None:
    runs = scheduled.service.call("/api/v2/dags/daily/dagRuns")["dag_runs"]
    filled = [run["dag_run_id"] for run in runs if run["run_type"] == "backfill"]
    assert len(filled) == 3
    for run_id in filled:
        story = Story(scheduled.uri, "daily", {"run_id": run_id})
        assert [(name(run), run.status) for run in story.runs] == [("", "FINISHED"), ("day", "FINISHED")]
        assert story.run("day").tags[PARENT] == story.parent.run_id


def test_a_manual_run_has_no_logical_date(scheduled: Scheduled) -> None:
    assert scheduled.service.call(scheduled.path("ends"))["logical_date"] is None
    assert scheduled.story("ends").parent.name == scheduled.runs["ends"]


def test_two_dags_on_one_schedule(scheduled: Scheduled) -> None:
    """Their DAG runs have one run id, and are two stories."""
    one, two = scheduled.story("one_of_two"), scheduled.story("two_of_two")
    assert scheduled.runs["one_of_two"] == scheduled.runs["two_of_two"]
    assert one.parent.run_id != two.parent.run_id
    for story in (one, two):
        assert story.run("same").tags[PARENT] == story.parent.run_id
        assert len(story.runs) == 2


def test_two_versions_of_a_dag(scheduled: Scheduled) -> None:
    before, after = scheduled.story("versioned"), scheduled.story("versioned", "versioned again")
    assert [name(run) for run in before.runs] == ["", "first"]
    assert [name(run) for run in after.runs] == ["", "second"]


def test_the_dag_runs_page_has_a_tab_with_its_run(scheduled: Scheduled) -> None:
    """What Airflow's page loads, and what that asks Airflow's API for. In a browser it was tried by hand."""
    service, story = scheduled.service, scheduled.story("ends")
    (plugin,) = (one for one in service.call("/api/v2/plugins")["plugins"] if one["name"] == "tracklayer")
    (tab,) = plugin["react_apps"]
    assert (tab["name"], tab["destination"]) == ("MLflow", "dag_run")
    with urllib.request.urlopen(f"{service.uri}/{tab['bundle_url']}", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/javascript")
        assert b"globalThis.AirflowPlugin = " in answer.read()

    tasks = f"{scheduled.path('ends')}/taskInstances"
    for key, run in (("tracklayer_parent_url", story.parent), ("tracklayer_url", story.run("success"))):
        found = service.call(f"{tasks}/~/xcomEntries?xcom_key_pattern={key}&limit=100")
        entry = next(one for one in found["xcom_entries"] if one["key"] == key and one["task_id"] == "success")
        where = f"{tasks}/{entry['task_id']}/xcomEntries/{key}?map_index={entry['map_index']}"
        assert service.call(where)["value"].endswith(f"/runs/{run.run_id}")


def test_reconciling_ends_what_belongs_to_a_deleted_dag_run(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", scheduled.uri)
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", scheduled.service.uri)
    flush(scheduled.uri, journal=scheduled.service.home.folder / "journal")
    arguments = ["reconcile", "--experiment", "deleted", "--format", "json", "--older-than", "0s", "--apply"]

    def reconcile() -> Any:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    reconcile()
    assert reconcile()["findings"] == []  # it is safe to repeat
    assert {run.status for run in scheduled.story("deleted").runs} <= {"FAILED", "KILLED"}
    assert name(scheduled.story("deleted").run("forgotten")) == "forgotten"
