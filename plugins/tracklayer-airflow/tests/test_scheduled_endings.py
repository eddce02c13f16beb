"""Every way a task or a DAG run can end, on a real scheduler with supervisors, api-server, dag-processor and triggerer.

One Airflow runs all of it at once (`ending_scene`), and each row of one table (`ending_table`) says which runs there have
to be afterwards, with which status, try, parent, tags and links.
"""

from __future__ import annotations

import re
import urllib.request
from contextlib import ExitStack
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

import pytest
from ending_scene import DATABASE, ENVIRON, HEARTBEAT_TIMEOUT, SOON, TWINS, VERSIONED, Scene, run_everything
from ending_table import OBSERVED, ROWS, Row, check
from observed_story import ObservedStory

from harness.airflow import AirflowHome, AirflowService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.mlflow import MlflowServer

HERE = Path(__file__).parent

CASES: Final = (
    *("success", "exception", "AirflowFail", "AirflowSkip", "sys.exit", "os._exit", "execution_timeout", "SIGTERM"),
    *("SIGKILL with retries left", "SIGKILL without retries left", "supervisor killed", "heartbeat time-out"),
    *("marked failed while running", "marked success while running", "retried then succeeded", "cleared after success"),
    *("mapped over 5 with one failing", "dynamic mapping over zero items", "deferrable resumed twice"),
    *("reschedule sensor poked three times", "branch not taken", "short-circuited", "upstream_failed"),
    *("setup and teardown", "TaskGroup", "dagrun_timeout", "DAG run deleted", "backfill of three dates"),
    *("manual run with no logical date", "two DAGs on one schedule", "two DAG versions"),
    *("SIGTERM to the supervisor", "a person is asked"),
)

CASES_OF_OBSERVED: Final = (
    *("success", "exception", "AirflowFail", "AirflowSkip", "sys.exit", "os._exit", "execution_timeout", "SIGTERM"),
    *("SIGTERM to the supervisor", "SIGKILL with retries left", "SIGKILL without retries left", "supervisor killed"),
    *("heartbeat time-out", "marked failed while running", "marked success while running", "retried then succeeded"),
    *("cleared after success", "reschedule sensor poked three times", "setup and teardown", "dagrun_timeout"),
    "DAG run deleted",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, mlflow_server: MlflowServer, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scheduled")
    dags, hold = folder / "dags", folder / "hold"
    dags.mkdir()
    hold.mkdir()
    for path in (HERE / "dags_scheduled").glob("*.py"):
        (dags / path.name).write_text(path.read_text())
    (dags / "versioned.py").write_text(VERSIONED.format(task="first"))
    (folder / "plugins").mkdir()
    (folder / "plugins" / "ending_ahead.py").write_text((HERE / "ending_ahead.py").read_text())
    environ = {**ENVIRON, "MLFLOW_TRACKING_URI": mlflow_server.uri, "TEST_HOLD": str(hold)}
    environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(folder / "plugins")
    with ExitStack() as stack:
        database = None
        if DATABASE == "postgresql":
            database = stack.enter_context(request.getfixturevalue("postgresql").database())
        home = AirflowHome(folder / "home", dags, database=database)
        service = stack.enter_context(AirflowService(home, environ=environ, triggerer=True))
        found = Scene(service, mlflow_server.uri, hold)
        run_everything(found, dags, backfill=DATABASE != "sqlite")
        yield found


def skip_unless_run(dag: str) -> None:
    if dag.startswith(OBSERVED) and OBSERVED not in TWINS:
        pytest.skip("observed tasks are left out on SQLite, see `ending_scene.TWINS`")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_table(scene: Scene, row: Row) -> None:
    if row.case.startswith("backfill") and DATABASE == "sqlite":
        pytest.skip("Airflow makes no backfill on SQLite while a scheduler runs")
    skip_unless_run(row.dag)
    check(scene.ended(row.run or row.dag), row)


def test_the_table_has_every_way_to_end() -> None:
    observed = {row.case for row in ROWS if row.dag.startswith(OBSERVED)}
    assert {row.case for row in ROWS if not row.dag.startswith(OBSERVED)} - {""} == set(CASES)
    assert observed - {""} == set(CASES_OF_OBSERVED)


@pytest.mark.parametrize(
    ("dag", "task"),
    [(row.dag, row.task) for row in ROWS if len(row.tries) > 1 or row.task in {"success", "exception", "os_exit"}]
    + [("ends", "sigkill"), ("ends", "sigterm"), ("held", "supervisor_killed"), ("held", "marked_success")]
    + [(row.dag, row.task) for row in ROWS if row.dag.startswith(OBSERVED) and row.task and len(row.tries) == 1],
)
def test_what_a_try_logged_is_there_however_it_ended(scene: Scene, dag: str, task: str) -> None:
    skip_unless_run(dag)
    for number, run in enumerate(scene.ended(dag).story.tries(task), 1):
        assert run.metrics["tried"] == number


@pytest.mark.parametrize(
    ("dag", "task"),
    [
        (f"{twin}{dag}", task)
        for twin in TWINS
        for dag, task in (
            *(("ends", task) for task in ("os_exit", "sigkill", "sigkill_with_retries")),
            *(("held", task) for task in ("supervisor_killed", "orphaned", "heartbeat_lost")),
            *(("held", task) for task in ("marked_failed", "marked_success")),
            ("deleted", "forgotten"),
        )
    ]
    + [("observed_ends", "os_exit_afterwards")],
)
def test_a_try_that_was_killed_is_ended_within_a_minute(scene: Scene, dag: str, task: str) -> None:
    """While its DAG run goes on. Of one that lives, and whose supervisor does not, nobody knows before Airflow's time-out."""
    skip_unless_run(dag)
    unknown = HEARTBEAT_TIMEOUT if task in {"orphaned", "heartbeat_lost"} else 0.0
    assert scene.seen[dag, task] < SOON + unknown


@pytest.mark.parametrize("dag", ["held", "observed_held"])
def test_a_task_whose_supervisor_is_gone_ends_with_its_own_end(scene: Scene, dag: str) -> None:
    """Airflow gives it up and so its run is ended; what the code then does is still seen."""
    skip_unless_run(dag)
    assert scene.orphans[dag] == ("KILLED", True)
    (run,) = scene.ended(dag).story.tries("orphaned")
    assert run.metrics["tried"] == 1


def test_nothing_stays_running(scene: Scene) -> None:
    """After every DAG run has ended, and what nobody could see was reconciled."""
    stories = {run: scene.ended(run).story for run in scene.runs}
    runs = {name: story.all_runs if isinstance(story, ObservedStory) else story.runs for name, story in stories.items()}
    assert all(runs.values())
    assert {(name, run.name) for name, found in runs.items() for run in found if run.status == "RUNNING"} == set()


def test_two_dags_on_one_schedule_have_one_run_id_and_two_parents(scene: Scene) -> None:
    assert scene.runs["one_of_two"] == scene.runs["two_of_two"]
    one, two = scene.ended("one_of_two").story, scene.ended("two_of_two").story
    assert one.parent.run_id != two.parent.run_id


def test_reconciling_ends_what_belongs_to_a_deleted_dag_run(scene: Scene) -> None:
    """Nobody told of the end of those DAG runs."""
    told, again = scene.reports
    assert f"Parents of workflow runs that have ended: {len(TWINS)}" in told
    for twin in TWINS:
        parent = scene.ended(f"{twin}deleted").story.parent
        assert scene.before[parent.run_id] == "RUNNING"
        assert parent.run_id[:8] in told
    assert told.count("RUNNING → KILLED") == len(TWINS)
    assert again["findings"] == []


def test_the_dag_runs_page_has_a_tab_with_its_run(scene: Scene) -> None:
    """What Airflow's page loads, and what that asks Airflow's API for. In a browser it was tried by hand."""
    service, story = scene.service, scene.ended("ends").story
    (plugin,) = (one for one in service.call("/api/v2/plugins")["plugins"] if one["name"] == "tracklayer")
    (tab,) = plugin["react_apps"]
    assert (tab["name"], tab["destination"]) == ("MLflow", "dag_run")
    with urllib.request.urlopen(f"{service.uri}/{tab['bundle_url']}", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/javascript")
        assert b"globalThis.AirflowPlugin = " in answer.read()

    tasks = f"{scene.path('ends')}/taskInstances"
    for key, run in (("tracklayer_parent_url", story.parent), ("tracklayer_url", story.run("success"))):
        found = service.call(f"{tasks}/~/xcomEntries?xcom_key_pattern={key}&limit=100")
        entry = next(one for one in found["xcom_entries"] if one["key"] == key and one["task_id"] == "success")
        where = f"{tasks}/{entry['task_id']}/xcomEntries/{key}?map_index={entry['map_index']}"
        assert service.call(where)["value"].endswith(f"/runs/{run.run_id}")


def test_the_page_of_providers_leads_to_the_documentation(scene: Scene) -> None:
    """A browser looks for a relative address below the base of Airflow's pages, and without a space that stands before it."""
    service = scene.service
    (provider,) = (
        one
        for one in service.call("/api/v2/providers?limit=100")["providers"]
        if one["package_name"] == "tracklayer-airflow"
    )
    with urllib.request.urlopen(f"{service.uri}/providers", timeout=30) as answer:
        (base,) = re.findall(r'<base href="([^"]+)"', answer.read().decode())
    address = urljoin(urljoin(service.uri, base), provider["documentation_url"].strip())
    assert address == f"{service.uri}/tracklayer/docs/"
    for url, heading in ((address, "What can be tracked"), (urljoin(address, "reference"), "Options of Airflow's")):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
            page = unescape(answer.read().decode())
        assert f"tracklayer-airflow {provider['version']}" in page
        assert f">{heading}" in page
        assert "Tracking is off here." not in page
