"""Tasks that call MLflow by themselves and know nothing of tracklayer: what they start is their task's run."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from observed_story import ObservedStory

from harness.airflow import AirflowHome, AirflowService
from harness.outage import flush, journals
from harness.process import wait_for
from tracklayer.identity import ROOT_TAG, parse_token
from tracklayer.linking import read_links
from tracklayer.store.opening import open_store
from tracklayer_airflow.workflow import PARENT_URL_XCOM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.store import Run

DAGS = Path(__file__).parent / "dags_observed"

FIELD = "automated_training"

pytestmark = pytest.mark.timeout(1_200)

# `python` is that of the tests, and makes environments without a registry.
VIRTUALENV = {
    "AIRFLOW__STANDARD__VENV_INSTALL_METHOD": "pip",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    with AirflowHome(tmp_path_factory.mktemp("observed"), DAGS, imported=["mlflow", "pandas"]) as home:
        yield home


@pytest.fixture(scope="module")
def told(home: AirflowHome, mlflow_server: MlflowServer) -> dict[str, ObservedStory]:
    return ran(home, mlflow_server.uri, "unchosen", "observed", "with_changes", FIELD, fresh=True)


def ran(
    home: AirflowHome, uri: str, *dags: str, environ: Mapping[str, str] | None = None, fresh: bool = False
) -> dict[str, ObservedStory]:
    """DAG runs by ``dag.test()``, all in one process; in one that has not imported MLflow, if it is to be fresh."""
    told = home.test(*dags, environ={"MLFLOW_TRACKING_URI": uri, **(environ or {})}, fresh=fresh)
    flush(uri, journal=home.folder / "journal")  # on a busy machine something may be late
    return {dag_id: ObservedStory(uri, dag_id, told[dag_id]) for dag_id in told}


@pytest.fixture(scope="module")
def unchosen(told: dict[str, ObservedStory]) -> ObservedStory:
    return told["unchosen"]


@pytest.fixture(scope="module")
def observed(told: dict[str, ObservedStory]) -> ObservedStory:
    return told["observed"]


def ended(run: Run) -> tuple[str, str | None, str | None]:
    return run.status, run.tags.get("tracklayer.error.type"), run.tags.get("tracklayer.outcome")


# ------------------------------------------------------------------------------------------ the example of the field


def test_the_example_of_the_field(told: dict[str, ObservedStory]) -> None:
    assert told[FIELD].told["state"] == "success"
    check_the_example_of_the_field(told[FIELD])


def check_the_example_of_the_field(story: ObservedStory) -> None:
    train, evaluate = story.run("train_model"), story.run("evaluate_model")
    # What its code says stands.
    assert re.fullmatch(r"training_run_\d{4}-\d\d-\d\d", str(train.name))
    assert {story.experiment(run) for run in (train, evaluate)} == {
        str(train.name).replace("_run", "").replace("training", "automated_training")
    }
    assert (train.params, train.metrics) == ({"learning_rate": "0.01", "n_estimators": "100"}, {"accuracy": 0.95})
    assert train.tags["model_type"] == "random_forest"
    # And it is a story.
    assert len(story.all_runs) == 3
    assert story.experiment(story.parent) == FIELD
    assert {run.tags["mlflow.parentRunId"] for run in (train, evaluate)} == {story.parent.run_id}
    assert {run.tags[ROOT_TAG] for run in (train, evaluate)} == {story.parent.run_id}
    assert story.upstream("evaluate_model") == ["train_model"]
    assert [run.status for run in story.all_runs] == ["FINISHED"] * 3
    expected = {
        "airflow.dag_id": FIELD,
        "airflow.operator": "PythonOperator",
        "airflow.owner": "data-science",
        "tracklayer.stage": "train_model",
        "mlflow.source.type": "LOCAL",
    }
    assert expected.items() <= train.tags.items()
    assert "/tasks/train_model" in train.tags["airflow.task_url"]


def test_the_task_hands_over_like_a_tracked_one(told: dict[str, ObservedStory]) -> None:
    story = told[FIELD]
    train = story.run("train_model")
    assert parse_token(story.xcom("train_model.tracklayer")).run.run_id == train.run_id
    assert story.xcom("train_model.tracklayer_url").endswith(f"/runs/{train.run_id}")
    parent = story.parent
    page = f"{story.uri}/#/experiments/{parent.experiment_id}/runs/{parent.run_id}"
    assert [story.xcom(f"{task}.tracklayer_parent_url") for task in ("train_model", "evaluate_model")] == [page, page]


# ------------------------------------------------------------------------------------------ nobody chose an experiment


def test_what_mlflow_starts_by_itself_is_the_run_of_the_task(unchosen: ObservedStory) -> None:
    run = unchosen.run("implicit")
    assert unchosen.xcom("implicit.return_value") == run.run_id
    assert run.metrics == {"auc": 0.9}
    assert run.params == {"rows": "3"}  # the argument of the function
    assert (run.name, unchosen.experiment(run)) == ("implicit", "unchosen")
    assert ended(run) == ("FINISHED", None, None)


def test_a_task_that_fails_after_its_run_went_well(unchosen: ObservedStory) -> None:
    run = unchosen.run("failing_afterwards")
    assert (run.name, run.metrics) == ("went well", {"auc": 0.7})
    assert ended(run) == ("FAILED", "ValueError", None)
    assert unchosen.upstream("failing_afterwards") == ["implicit"]
    assert unchosen.parent.status == "FAILED"


def test_a_task_that_looks_at_its_callbacks_and_calls_them(unchosen: ObservedStory) -> None:
    assert unchosen.xcom("calling_its_callbacks.return_value") == ["told", "len", 2, True]
    assert ended(unchosen.run("calling_its_callbacks")) == ("FINISHED", None, None)


def test_what_is_left_open_ends_with_the_task(unchosen: ObservedStory) -> None:
    run = unchosen.run("left_open")
    (below,) = unchosen.below(run)
    assert (ended(run), below.name, below.status) == (("FINISHED", None, None), "below", "FINISHED")


def test_a_skip_is_no_failure(unchosen: ObservedStory) -> None:
    assert ended(unchosen.run("skipping")) == ("FINISHED", None, "skipped")


def test_a_stage_of_its_own_is_as_ever(unchosen: ObservedStory) -> None:
    run = unchosen.run("tracked_by_hand")
    assert (run.tags["tracklayer.stage"], run.metrics) == ("reporting", {"lines": 3.0})
    assert unchosen.xcom("tracked_by_hand.return_value") == unchosen.xcom("tracked_by_hand.tracklayer")
    assert str(unchosen.xcom("tracked_by_hand.tracklayer_url")).endswith(
        f"/runs/{run.run_id}"
    )  # the button on its page


def test_a_stage_within_the_run_is_below_it(unchosen: ObservedStory) -> None:
    run = unchosen.run("with_a_stage_inside")
    (inner,) = unchosen.below(run)
    assert (run.name, inner.tags["tracklayer.stage"], inner.metrics) == ("around", "inner", {"inside": 1.0})


def test_all_else_is_plain_mlflow(unchosen: ObservedStory) -> None:
    assert unchosen.xcom("away_from_stage.return_value") == "away_from_stage"
    assert unchosen.xcom("refused.return_value") == "RESOURCE_DOES_NOT_EXIST"
    assert unchosen.tries("refused") == []


def test_a_task_without_mlflow_has_no_run(unchosen: ObservedStory) -> None:
    assert unchosen.tries("plain") == []
    assert not [key for key in unchosen.told["xcoms"] if key.startswith("plain.") and key != "plain.return_value"]


# ------------------------------------------------------------------------------------------ the ways of MLflow


def test_name_tags_and_description_are_the_users(observed: ObservedStory) -> None:
    run = observed.run("prepare")
    assert (run.name, observed.experiment(run)) == ("preparation", "observed data")
    assert (run.tags["source"], run.params) == ("csv", {"rows": "10"})
    assert run.tags["mlflow.note.content"].startswith("What is **done**.")
    assert observed.xcom("prepare.return_value") == run.run_id
    assert observed.told["events"]["s3://observed/flights"] == {"tracklayer": observed.xcom("prepare.tracklayer")}


def test_links_between_observed_and_managed_tasks(observed: ObservedStory) -> None:
    assert observed.upstream("twice") == ["prepare"]  # through a task that has no run
    assert observed.upstream("managed") == ["twice"]
    assert {link.kind for task in ("twice", "managed") for link in read_links(observed.run(task).tags)} == {"hand-over"}
    assert observed.experiment(observed.run("managed")) == "observed"


def test_further_runs_are_below_the_first(observed: ObservedStory) -> None:
    first = observed.run("twice")
    (second,) = observed.below(first)
    (fold,) = observed.below(second)
    assert [(run.name, run.status, run.metrics["loss"]) for run in (first, second, fold)] == [
        ("first", "FINISHED", 1.0),
        ("second", "FINISHED", 0.5),
        ("fold", "FINISHED", 0.4),
    ]
    assert {observed.experiment(run) for run in (first, second, fold)} == {"observed training"}
    assert observed.xcom("twice.return_value") == [first.run_id, second.run_id]


def test_a_run_of_a_client(observed: ObservedStory) -> None:
    run = observed.run("by_client")
    assert (run.name, run.metrics, run.tags["who"]) == ("of a client", {"auc": 0.8}, "client")
    assert observed.experiment(run).startswith("observed by client ")
    assert observed.xcom("by_client.return_value") == run.run_id
    assert run.status == "FINISHED"


def test_autologging(observed: ObservedStory) -> None:
    run = observed.run("autologging")
    assert run.params["fit_intercept"] == "True"
    assert "training_score" in run.metrics
    assert observed.experiment(run) == "observed training"


def test_every_try_has_a_run(observed: ObservedStory) -> None:
    first, second = observed.tries("retried")
    assert (ended(first), ended(second)) == (("FAILED", "ConnectionError", None), ("FINISHED", None, None))
    assert first.tags["tracklayer.superseded_by"] == second.run_id
    assert [run.metrics["try"] for run in (first, second)] == [1.0, 2.0]


def test_mapped_tasks(observed: ObservedStory) -> None:
    assert [observed.run(f"mapped[{index}]").metrics for index in (0, 1)] == [{"number": 0.0}, {"number": 1.0}]


def test_a_deferred_task_goes_on_with_its_run(observed: ObservedStory) -> None:
    run = observed.run("deferring")
    assert (run.status, run.metrics) == ("FINISHED", {"before": 1.0, "after": 2.0})
    assert observed.experiment(run) == "observed elsewhere"  # where it began
    assert observed.xcom("deferring.return_value") == run.run_id
    done = observed.run("deferring_and_done")  # after which MLflow was not called again
    assert (done.status, done.metrics) == ("FINISHED", {"before": 1.0})


def test_so_does_a_rescheduled_one(observed: ObservedStory) -> None:
    run = observed.run("rescheduled")
    assert (run.status, run.name, run.metrics) == ("FINISHED", "poked", {"reschedules": 1.0})


def test_no_run_is_left_running_or_without_a_parent(told: dict[str, ObservedStory]) -> None:
    for story in told.values():
        assert "RUNNING" not in {run.status for run in story.all_runs}
        known = {run.run_id for run in story.all_runs}
        assert all(run.tags["mlflow.parentRunId"] in known for run in story.all_runs if run is not story.parent)


def test_what_code_changes_leads_the_tracking_nowhere_else(told: dict[str, ObservedStory]) -> None:
    """A run in another server is not the task's, and the DAG run has one parent, in the one that Airflow knows."""
    story = told["with_changes"]
    assert [run.name for run in story.all_runs if run is not story.parent] == ["here", "report"]
    assert story.parent.status == "FINISHED"


def test_what_is_called_at_the_end_of_a_task_is_within_it(told: dict[str, ObservedStory]) -> None:
    story = told["with_changes"]
    run = story.run("reported")
    assert (run.name, ended(run)) == ("report", ("FINISHED", None, None))
    assert story.upstream("reported") == ["other_server"]
    assert parse_token(story.xcom("reported.tracklayer")).run.run_id == run.run_id


# ------------------------------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    "environ",
    [
        {"AIRFLOW__TRACKLAYER__OBSERVE": "False"},
        {"TRACKLAYER_AIRFLOW_SKIP_DAGS": "automated_*"},
        {"TRACKLAYER_AIRFLOW_OBSERVE_STAGES": "data-prep"},
        {"AIRFLOW__TRACKLAYER__ENABLED": "False"},
        {"TRACKLAYER_AIRFLOW_OBSERVE_TAGS": "ml", "AIRFLOW__TRACKLAYER__OBSERVE_TAGS": "data, ml"},
    ],
    ids=["not observed", "left out", "another stage", "switched off", "another tag"],
)
def test_what_is_not_observed_is_plain_mlflow(
    home: AirflowHome, mlflow_server: MlflowServer, environ: dict[str, str]
) -> None:
    story = ran(home, mlflow_server.uri, FIELD, environ=environ)[FIELD]
    assert story.told["state"] == "success"
    assert (story.all_runs, list(story.told["xcoms"])) == ([], [])
    assert "Traceback" not in home.log
    # Its own runs are there.
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    (plain,) = store.search_runs(
        [], "tags.mlflow.runName LIKE 'training_run_%'", order_by=["attributes.start_time DESC"], limit=1
    )
    assert (plain.status, "tracklayer.key" in plain.tags) == ("FINISHED", False)


@pytest.mark.parametrize(
    "variable", ["TRACKLAYER_AIRFLOW_OBSERVE", "AIRFLOW__TRACKLAYER__OWN_RUNS"], ids=["tracklayer's", "Airflow's"]
)
def test_a_wrong_rule_is_named_and_the_tasks_run(home: AirflowHome, mlflow_server: MlflowServer, variable: str) -> None:
    story = ran(home, mlflow_server.uri, FIELD, environ={variable: "perhaps"})[FIELD]
    assert story.told["state"] == "success"
    assert story.all_runs == []
    name = variable.rpartition("AIRFLOW_")[2] if "TRACKLAYER_AIRFLOW" in variable else "own_runs"
    assert re.search(rf"no task is observed: setting '(airflow\.)?{name.lower()}'", home.log)
    assert "must be true or false, not 'perhaps'" in home.log


def test_tasks_without_mlflow_have_no_runs_and_cost_nothing(home: AirflowHome, mlflow_server: MlflowServer) -> None:
    story = ran(home, mlflow_server.uri, "without_mlflow", environ=VIRTUALENV, fresh=True)["without_mlflow"]
    assert story.all_runs == []
    assert story.told["xcoms"] == {"first.return_value": [], "apart.return_value": []}


def test_runs_of_their_own(home: AirflowHome, mlflow_server: MlflowServer) -> None:
    environ = {"AIRFLOW__TRACKLAYER__OWN_RUNS": "true", **VIRTUALENV}
    story = ran(home, mlflow_server.uri, "without_mlflow", environ=environ, fresh=True)["without_mlflow"]
    first, second = story.run("first"), story.run("second")
    assert (ended(first), ended(second)) == (("FINISHED", None, None), ("FAILED", "ValueError", None))
    assert second.params == {"number": "1"}
    assert {story.experiment(run) for run in story.all_runs} == {"without_mlflow"}
    assert 0 < (second.end_time or 0) - (second.start_time or 0) < 60_000
    assert story.upstream("second") == ["first"]
    assert (ended(story.run("apart")), story.run("apart").tags["airflow.operator"]) == (
        ("FINISHED", None, None),
        "@task.virtualenv",
    )
    assert story.parent.status == "FAILED"


# ------------------------------------------------------------------------------------------ outages


def test_an_outage_leaves_no_trace_in_the_story(
    home: AirflowHome, recording_proxy: RecordingProxy, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    environ = {"MLFLOW_TRACKING_URI": recording_proxy.uri, "TRACKLAYER_JOURNAL": str(journal)}
    with recording_proxy.refused():
        began = time.monotonic()
        told = home.test(FIELD, environ=environ)[FIELD]
        took = time.monotonic() - began
    assert told["state"] == "success"
    assert told["tasks"] == {"train_model": ["success", 1], "evaluate_model": ["success", 1]}
    assert took < 120, "MLflow itself tries for minutes, and fails the task"
    flush(recording_proxy.uri, journal=journal)
    story = ObservedStory(recording_proxy.uri, FIELD, told)
    train, evaluate = story.run("train_model"), story.run("evaluate_model")
    assert [run.status for run in story.all_runs] == ["FINISHED"] * 3
    assert (train.params["n_estimators"], evaluate.metrics) == ("100", {"test_accuracy": 0.93})
    assert story.experiment(train).startswith("automated_training_")
    assert str(train.name).startswith("training_run_")
    assert story.upstream("evaluate_model") == ["train_model"]
    assert journals(journal) == []


PARTS = {
    "task": """
import sys
from tracklayer import RunContext, TaskRun, WorkflowRun, track
run = WorkflowRun(orchestrator="airflow", workflow=sys.argv[1], run_id="manual__1")
with track("training", context=RunContext(workflow_run=run, task_run=TaskRun(task="train"))) as stage:
    stage.log_metrics({"auc": 0.9})
""",
    "end": """
import sys, time
now, ago = time.time_ns, int(sys.argv[2])
time.time_ns = lambda: now() - ago * 1_000_000_000  # it was written down then, too
from tracklayer import RunContext, RunRef, WorkflowRun, settings
from tracklayer.backend import open_backend
from tracklayer.identity import workflow_run_key
from tracklayer.journal.operations import Close
from tracklayer.journal.recorders import recorder_of
from tracklayer.opening import milliseconds
from tracklayer.provisional import PENDING, provisional_id
run = WorkflowRun(orchestrator="airflow", workflow=sys.argv[1], run_id="manual__1")
key, told = workflow_run_key(run), settings.load()
parent = RunRef(run_id=provisional_id(key), experiment_id=PENDING, key=key)
at, perhaps = milliseconds(None), sys.argv[3] == "perhaps"
close = Close(RunContext(workflow_run=run), "FINISHED", at, parent=parent, observed=True, perhaps=perhaps)
recorder_of(open_backend(told), told).append(close)
""",
}


def part(name: str, uri: str, journal: Path, *arguments: str) -> None:
    """What one machine does while the server is away, with a journal of its own."""
    told = {"MLFLOW_TRACKING_URI": uri, "TRACKLAYER_JOURNAL": str(journal), "TRACKLAYER_PATIENCE": "0.2"}
    command = [sys.executable, "-c", PARTS[name], *arguments]
    subprocess.run(command, env={**os.environ, **told}, check=True, timeout=60)


@pytest.mark.parametrize(("kind", "seconds_ago"), [*(("perhaps", s) for s in (0, 60, 90_000)), ("certain", 700_000)])
def test_a_parent_that_may_never_come_is_waited_for_only_after_an_outage(
    recording_proxy: RecordingProxy, tmp_path: Path, kind: str, seconds_ago: int
) -> None:
    """The scheduler's machine and the worker's have journals of their own, and nobody knows whether MLflow was used.

    The machine may take its time, too: what is delivered `PROMPT` after the end is late.
    """
    dag_id, scheduler, worker = f"{kind}-{seconds_ago}", tmp_path / "scheduler", tmp_path / "worker"
    with recording_proxy.refused():
        part("task", recording_proxy.uri, worker, dag_id)
        part("end", recording_proxy.uri, scheduler, dag_id, str(seconds_ago - 20), kind)
    flush(recording_proxy.uri, journal=scheduler, left=seconds_ago > 0)
    assert bool(journals(scheduler)) is (seconds_ago > 0)
    flush(recording_proxy.uri, journal=worker)
    flush(recording_proxy.uri, journal=scheduler)
    story = ObservedStory(recording_proxy.uri, dag_id, {"run_id": "manual__1"})
    assert (story.run("train").status, story.run("train").metrics) == ("FINISHED", {"auc": 0.9})
    assert story.parent.status == ("FINISHED" if seconds_ago else "RUNNING")
    assert (journals(scheduler), journals(worker)) == ([], [])


# ------------------------------------------------------------------------------------------ a real scheduler


@pytest.mark.slow
def test_on_a_real_scheduler(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "on_a_scheduler.py").write_text((DAGS / "on_a_scheduler.py").read_text())
    hold = tmp_path / "hold"
    hold.touch()
    home = AirflowHome(tmp_path / "home", folder)
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5"}
    with AirflowService(home, environ=environ, triggerer=True) as airflow:
        # By its schedule it runs at once, and where the API does not answer yet its task would be tried again much later.
        (folder / f"{FIELD}.py").write_text((DAGS / f"{FIELD}.py").read_text())
        run_id = airflow.trigger("scheduled", {"hold": str(hold)})

        def link(task: str = "train", index: int = -1) -> str | None:
            with contextlib.suppress(urllib.error.HTTPError):  # it is not mapped yet
                return airflow.links("scheduled", run_id, task, index).get("MLflow run")
            return None

        wait_for(lambda: link() is not None, 120, "link to the run of a task that runs")
        held = ObservedStory(mlflow_server.uri, "scheduled", {"run_id": run_id}).run("train")
        assert (held.status, held.name) == ("RUNNING", "held")
        assert link() == f"{mlflow_server.uri}/#/experiments/{held.experiment_id}/runs/{held.run_id}"
        other = airflow.trigger("nothing_of_mlflow")
        parts_hold = tmp_path / "hold.parts"
        parts_hold.touch()
        hold.unlink()
        assert airflow.wait("nothing_of_mlflow", other)["state"] == "success"
        wait_for(lambda: all(link("part", index) for index in (0, 1)), 120, "links of a mapped task that runs")
        live = [link("part", index) for index in (0, 1)]
        story = ObservedStory(mlflow_server.uri, "scheduled", {"run_id": run_id})
        assert [story.run(f"part[{index}]").status for index in (0, 1)] == ["RUNNING", "RUNNING"]
        parts_hold.unlink()
        of_field = airflow.wait(FIELD, seconds=240)  # by its schedule
        assert of_field["state"] == "success"
        assert airflow.wait("scheduled", run_id)["state"] == "failed"  # its last task kills itself

        def running() -> list[str]:
            told = (("scheduled", run_id), (FIELD, of_field["dag_run_id"]))
            stories = [ObservedStory(mlflow_server.uri, dag_id, {"run_id": run_id}) for dag_id, run_id in told]
            return [str(run.name) for story in stories for run in story.all_runs if run.status == "RUNNING"]

        wait_for(lambda: not running(), 60, "end of every run")
        assert [link("part", index) for index in (0, 1)] == live
        told = airflow.call(
            f"/api/v2/dags/scheduled/dagRuns/{quote(run_id)}/taskInstances/train/xcomEntries/{PARENT_URL_XCOM}"
        )

    story = ObservedStory(mlflow_server.uri, "scheduled", {"run_id": run_id})
    assert (story.parent.status, story.experiment(story.parent)) == ("FAILED", "scheduled")
    assert ended(story.run("train")) == ("FINISHED", None, None)
    assert {story.experiment(run) for run in story.runs if run is not story.parent} == {"scheduled, chosen"}
    assert [str(url).rpartition("/")[2] for url in live] == [story.run(f"part[{index}]").run_id for index in (0, 1)]
    assert told["value"].endswith(f"/runs/{story.parent.run_id}")
    assert [story.upstream(task) for task in ("part[0]", "part[1]", "waiting", "die")] == [["train"]] * 4
    # After the deferral it did not call MLflow again, and ended all the same.
    assert (ended(story.run("waiting")), story.run("waiting").metrics) == (("FINISHED", None, None), {"before": 1.0})
    assert ended(story.run("die")) in {("KILLED", None, note) for note in ("died", "left open")}  # whoever saw it first
    check_the_example_of_the_field(ObservedStory(mlflow_server.uri, FIELD, {"run_id": of_field["dag_run_id"]}))
    nothing = ObservedStory(mlflow_server.uri, "nothing_of_mlflow", {"run_id": other})
    assert nothing.all_runs == []
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    assert store.get_experiment_by_name("nothing_of_mlflow") is None, "nothing was tracked, so nothing is made"
    flush(mlflow_server.uri, journal=home.folder / "journal")
    assert journals(home.folder / "journal") == [], "nobody waits for the parent that never comes"
