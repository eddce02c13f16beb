"""A tracked task ends exactly as it would untracked, and its run says how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow_story import AIRFLOW, Story, name, without_tracking

from harness.process import free_port
from tracklayer.identity import parse_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.airflow import AirflowHome
    from harness.mlflow import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]


ENDINGS = {
    # task: status, error type and note of each try's run
    "ok": [("FINISHED", None, None)],
    "failing": [("FAILED", "ValueError", None)],
    "unprintable": [("FAILED", "CustomError", None)],
    "retried": [("FAILED", "ConnectionError", None), ("FINISHED", None, None)],
    "skipping": [("FINISHED", None, "skipped")],
    "failing_for_good": [("FAILED", "AirflowFailException", None)],
    "exiting": [("FAILED", "SystemExit", None), ("FAILED", "SystemExit", None)],
    "exiting_in_order": [("FAILED", "SystemExit", None)],  # Airflow fails a task for sys.exit(0)
    "interrupted": [("KILLED", "KeyboardInterrupt", None)],
    "stopping_iteration": [("FAILED", "StopIteration", None)],
    "overdue": [("FAILED", "AirflowTaskTimeout", "timed out")],
    # Airflow 3.1 fails a coroutine's task, tracked or not.
    "waiting": [("FAILED", "RuntimeError", None) if AIRFLOW < (3, 2) else ("FINISHED", None, None)],
    "returning_none": [("FINISHED", None, None)],
    "unstorable": [("FAILED", "TypeError", None)],
    "after": [("FAILED", "LookupError", None)],
    "generating": [("FINISHED", None, None)],
    "mapped[0]": [("FINISHED", None, None)],
    "mapped[1]": [("FAILED", "ValueError", None)],
    "mapped[2]": [("FINISHED", None, None)],
    "several": [("FINISHED", None, None)],
    "operator": [("FINISHED", None, None)],
    "operators[0]": [("FINISHED", None, None)],
    "operators[1]": [("FINISHED", None, None)],
    "deferring": [("FINISHED", None, None)],  # one run, however often it was deferred
    "rescheduled": [("FINISHED", None, None)],
}


@pytest.fixture(scope="module")
def plain(stories: dict[str, Story]) -> Story:
    return stories["plain_endings"]


@pytest.fixture(scope="module")
def tracked(stories: dict[str, Story]) -> Story:
    return stories["tracked_endings"]


def test_tracking_changes_no_ending(plain: Story, tracked: Story) -> None:
    assert tracked.told["tasks"] == plain.told["tasks"]
    assert tracked.told["state"] == plain.told["state"] == "failed"
    assert without_tracking(tracked.told["xcoms"]) == plain.told["xcoms"]


def test_neither_does_tracking_that_is_switched_off(plain: Story, airflow_home: AirflowHome, tmp_path: Path) -> None:
    refusing = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "TRACKLAYER_JOURNAL": str(tmp_path / "j")}
    environ = {**refusing, "AIRFLOW__TRACKLAYER__ENABLED": "False"}
    told = airflow_home.test("tracked_endings", environ=environ)["tracked_endings"]
    assert told["tasks"] == plain.told["tasks"]
    assert told["xcoms"] == plain.told["xcoms"], "nothing of tracking: there is no run to name or to show"
    assert "tracking" not in airflow_home.log
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (dict, "tracking is off because there is no tracking URI"),
        (lambda: {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}, "the tracking server is away"),
    ],
    ids=["off", "refused"],
)
def test_neither_does_tracking_that_cannot_be(
    plain: Story, airflow_home: AirflowHome, environ: Callable[[], dict[str, str]], message: str
) -> None:
    told = airflow_home.test("tracked_endings", environ=environ())["tracked_endings"]
    assert told["tasks"] == plain.told["tasks"]
    assert told["state"] == plain.told["state"]
    assert without_tracking(told["xcoms"]) == plain.told["xcoms"]
    assert not [key for key in told["xcoms"] if key.endswith(".tracklayer_url")]  # there is no page yet
    assert message in airflow_home.log


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("TRACKLAYER_AIRFLOW_ARGUMENTS", "maybe"),
        ("TRACKLAYER_TIMEOUT", "soon"),
        ("TRACKLAYER_PLUGINS", "no.such:plugin"),
    ],
)
def test_nor_do_wrong_settings(
    airflow_home: AirflowHome, mlflow_server: MlflowServer, setting: str, value: str
) -> None:
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, setting: value}
    told = airflow_home.test("given_token", environ=environ)["given_token"]
    assert told["tasks"] == {"start": ["success", 1], "go_on": ["success", 1]}
    assert setting in airflow_home.log or value.partition(":")[0] in airflow_home.log


def test_every_try_that_ran_has_one_run(plain: Story, tracked: Story) -> None:
    tried = {task: tries for task, (_, tries) in plain.told["tasks"].items() if task != "reporting"}
    assert {task: len(tracked.tries(task)) for task in tried} == tried
    assert len(tracked.runs) == 1 + sum(tried.values())


@pytest.mark.parametrize("task", ENDINGS)
def test_the_run_of_a_try_says_how_it_ended(tracked: Story, task: str) -> None:
    ended = [
        (run.status, run.tags.get("tracklayer.error.type"), run.tags.get("tracklayer.outcome"))
        for run in tracked.tries(task)
    ]
    assert ended == ENDINGS[task]
    assert all((run.end_time or 0) >= (run.start_time or 1) for run in tracked.tries(task))


def test_an_earlier_try_names_the_one_that_took_its_place(tracked: Story) -> None:
    first, second = tracked.tries("retried")
    assert first.tags["tracklayer.superseded_by"] == second.run_id
    assert "tracklayer.superseded_by" not in second.tags
    assert second.tags["airflow.task_url"].endswith("try_number=2")


def test_the_parent_ends_as_the_dag_run(tracked: Story) -> None:
    parent = tracked.parent
    assert (parent.status, parent.name) == ("FAILED", tracked.told["run_id"])
    assert "task_failure" in parent.tags["tracklayer.error.message"]
    assert {run.tags.get("mlflow.parentRunId") for run in tracked.runs if run.run_id != parent.run_id} == {
        parent.run_id
    }
    assert "RUNNING" not in {run.status for run in tracked.runs}


def test_every_task_shows_its_run(tracked: Story) -> None:
    """The button's address and the token are XComs, of the last try."""
    for task in ENDINGS:
        last = tracked.tries(task)[-1]
        url = f"{tracked.uri}/#/experiments/{last.experiment_id}/runs/{last.run_id}"
        assert tracked.xcom(f"{task}.tracklayer_url") == url
        token = parse_token(tracked.xcom(f"{task}.tracklayer"))
        assert (token.run.run_id, token.run.key) == (last.run_id, last.tags["tracklayer.key"])
        assert token.parent
        assert token.parent.run_id == tracked.parent.run_id


def test_params_are_what_the_function_was_called_with(tracked: Story) -> None:
    assert tracked.run("ok").params == {"number": "7", "text": "a word"}
    assert tracked.run("operator").params == {"number": "8", "text": "manual"}
    assert tracked.run("mapped[2]").params == {"number": "3"}
    assert tracked.run("operators[1]").params == {"number": "7", "text": "a word"}


def test_nothing_of_a_tracked_task_is_left_to_the_next(tracked: Story) -> None:
    assert tracked.xcom("reporting.return_value") == ""
    assert "reporting" not in {name(run) for run in tracked.runs}
