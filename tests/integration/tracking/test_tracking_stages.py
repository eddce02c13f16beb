"""One tracked stage, in scripts and child processes, too: what is logged in it, how it ends, where it is kept."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest

import tracklayer
from harness.lookup import get
from harness.patience import PATIENCE, patient
from tracklayer import RunContext
from tracklayer.settings import Settings
from tracklayer.tracking import close_workflow_run, track

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tracklayer.store import Store


def test_a_stage_is_a_child_of_the_workflow_run_in_an_experiment_of_its_name(
    store: Store, workflow: str, at: Callable[..., RunContext]
) -> None:
    before = int(time.time() * 1000)
    with track("training", context=at("fit"), params={"model": {"lr": 0.1}}, tags={"team": "risk"}) as run:
        run.log_metrics({"auc": 0.9}, step=3)
        run.log_metric("auc", 0.95, step=4)
    stage = get(store, run.run_id)
    assert (stage.status, stage.name) == ("FINISHED", "fit")
    assert stage.params["model.lr"] == "0.1"
    assert stage.metrics == {"auc": 0.95}
    assert stage.tags["team"] == "risk"
    assert stage.tags["tracklayer.stage"] == "training"
    assert stage.start_time is not None
    assert stage.end_time is not None
    assert before <= stage.start_time <= stage.end_time
    parent = get(store, stage.tags["mlflow.parentRunId"])
    assert (parent.name, parent.status) == ("r1", "RUNNING")
    experiment = store.get_experiment(stage.experiment_id)
    assert experiment.name == workflow
    assert experiment.tags["mlflow.note.content"] == "# Flights"
    assert experiment.tags["tracklayer.workflow"] == workflow
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no data"), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(2), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_an_exception_passes_unchanged_and_ends_the_run(
    store: Store, at: Callable[..., RunContext], error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)) as caught, track(context=at("fit")) as run:
        raise error
    assert caught.value is error
    stage = get(store, run.run_id)
    assert stage.status == status
    if status == "FAILED":
        assert stage.tags["tracklayer.error.type"] == type(error).__name__
        assert stage.tags["tracklayer.error.message"] == str(error)


def test_secrets_reach_neither_params_nor_tags_nor_error_messages(store: Store, at: Callable[..., RunContext]) -> None:
    def connect(run: tracklayer.StageRun) -> None:
        run.set_tag("api_key", "hunter2")
        raise OSError("cannot connect to postgresql://me:hunter2@host/db")

    with (
        pytest.raises(OSError, match="hunter2"),
        track(context=at("fit"), params={"db": {"password": "hunter2"}}) as run,
    ):
        connect(run)
    stage = get(store, run.run_id)
    assert "hunter2" not in json.dumps([dict(stage.params), dict(stage.tags)])
    assert stage.params["db.password"] == "***"


def test_a_param_that_mlflow_would_cut_is_kept_whole(store: Store, at: Callable[..., RunContext]) -> None:
    text = "x" * 9000 + "end"
    with track(context=at("fit"), params={"query": text}) as run:
        pass
    stage = get(store, run.run_id)
    shown = stage.params["query"]
    path = shown.rpartition("whole in ")[2].rstrip("]")
    assert store.read_artifact(stage, path).decode() == text


def test_a_param_keeps_its_first_value_and_says_so(
    store: Store, at: Callable[..., RunContext], caplog: pytest.LogCaptureFixture
) -> None:
    with track(context=at("fit")) as run:
        run.log_param("lr", 0.1)
        run.flush()
        run.log_param("lr", 0.2)
        run.log_param("lr", 0.1)
    assert get(store, run.run_id).params["lr"] == "0.1"
    assert caplog.text.count("param 'lr' was logged twice") == 1


def test_artifacts_are_stored_where_they_belong(store: Store, at: Callable[..., RunContext], tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "roc.svg").write_text("<svg/>")
    with track(context=at("fit")) as run:
        run.log_dict({"classes": [0, 1]}, "config/model.json")
        run.log_text("fine", "summary.md")
        run.log_artifact(tmp_path / "plots" / "roc.svg")
        run.log_artifact(tmp_path / "plots", "all")
    stage = get(store, run.run_id)
    assert json.loads(store.read_artifact(stage, "config/model.json")) == {"classes": [0, 1]}
    assert store.read_artifact(stage, "summary.md") == b"fine"
    assert store.read_artifact(stage, "roc.svg") == b"<svg/>"
    assert store.read_artifact(stage, "all/plots/roc.svg") == b"<svg/>"


def test_stages_can_have_experiments_of_their_own(
    store: Store, uri: str, workflow: str, at: Callable[..., RunContext]
) -> None:
    settings = patient(uri, experiment="{workflow}/{stage}")
    with track("training", context=at("fit"), settings=settings) as run:
        left = tracklayer.tracking.open_stage("evaluation", context=at("score"), settings=settings)
    names = [store.get_experiment(get(store, one.run_id).experiment_id).name for one in (run, left)]
    assert names == [f"{workflow}/training", f"{workflow}/evaluation"]
    assert run.parent == left.parent
    close_workflow_run(at("fit"), "FINISHED", settings=settings)
    assert get(store, left.run_id).status == "KILLED"


def test_a_deleted_experiment_is_restored_with_a_word(
    store: Store, uri: str, workflow: str, at: Callable[..., RunContext], caplog: pytest.LogCaptureFixture
) -> None:
    with track(context=at("fit")) as first:
        pass
    delete_experiment(uri, first.experiment_id)
    with track(context=at("again", run="r2")) as second:
        pass
    assert get(store, second.run_id).status == "FINISHED"
    assert store.get_experiment(second.experiment_id or "").name == workflow
    assert "had been deleted and was restored" in caplog.text


def delete_experiment(uri: str, experiment_id: str | None) -> None:
    import urllib3

    urllib3.request("POST", f"{uri}/api/2.0/mlflow/experiments/delete", json={"experiment_id": experiment_id})


SCRIPT = """
import sys
import tracklayer

with tracklayer.track("training") as run:
    run.log_metrics({"auc": 0.9})
    ready = "tracklayer.untracked" in sys.modules  # a signal handler's current_run() may not interrupt its import
print(run.run_id, "mlflow" in sys.modules, "requests" in sys.modules, ready)
if len(sys.argv) > 1:
    raise ValueError("after the stage")
"""


@pytest.mark.parametrize(("arguments", "code", "status"), [([], 0, "FINISHED"), (["fail"], 1, "FAILED")])
def test_a_script_is_a_workflow_of_its_own_and_imports_no_mlflow(
    store: Store, tmp_path: Path, arguments: list[str], code: int, status: str
) -> None:
    script = tmp_path / f"script_{uuid.uuid4().hex[:8]}.py"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert ended.returncode == code
    run_id, mlflow, requests, ready = ended.stdout.split()
    assert (mlflow, requests, ready) == ("False", "False", "True")
    stage = get(store, run_id)
    assert stage.status == "FINISHED"
    assert store.get_experiment(stage.experiment_id).name == script.stem
    assert get(store, stage.tags["mlflow.parentRunId"]).status == status


ENDINGS = """
import sys
import tracklayer

def stage(code=None):
    with tracklayer.track("training"):
        if code is not None:
            sys.exit(code)

def caught(code):
    try:
        stage(code)
    except SystemExit:
        pass

{then}
"""


@pytest.mark.parametrize(
    ("then", "code", "status"),
    [
        ("stage(2)", 2, "FAILED"),
        ("stage('no rows')", 1, "FAILED"),
        ("stage(0)", 0, "FINISHED"),
        ("caught(2); stage()", 0, "FINISHED"),
        ("with tracklayer.track('sweep'):\n    caught(2)", 0, "FINISHED"),
        ("stage(); stage(2)", 2, "FAILED"),
    ],
)
def test_a_script_that_leaves_its_last_stage_by_exit_ends_as_that_says(
    store: Store, tmp_path: Path, then: str, code: int, status: str
) -> None:
    script = tmp_path / f"script_{uuid.uuid4().hex[:8]}.py"
    script.write_text(ENDINGS.replace("{then}", then))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == code
    runs = store.search_runs([], f"tags.`tracklayer.workflow` = '{script.stem}'")
    assert [run.status for run in runs if "mlflow.parentRunId" not in run.tags] == [status]


LEFT = """
import threading
import time
import tracklayer

def rows():
    with tracklayer.track("suspended") as run:
        run.log_metric("rows", 1)
        yield 1

def serve(begun):
    with tracklayer.track("serving") as run:
        run.log_metric("requests", 1)
        begun.set()
        time.sleep(60)

begun = threading.Event()
threading.Thread(target=serve, args=(begun,), daemon=True).start()
begun.wait()
suspended = rows()
next(suspended)
"""


def test_a_stage_whose_block_a_script_never_leaves_ends_with_it(store: Store, tmp_path: Path) -> None:
    script = tmp_path / f"script_{uuid.uuid4().hex[:8]}.py"
    script.write_text(LEFT)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    runs = store.search_runs([], f"tags.`tracklayer.workflow` = '{script.stem}'")
    told = {run.tags.get("tracklayer.stage"): (run.status, run.tags.get("tracklayer.outcome")) for run in runs}
    left = ("KILLED", "left open")
    assert told == {None: ("FINISHED", None), "serving": left, "suspended": left}


TASKS = """
import asyncio
import tracklayer

async def fold(name):
    with tracklayer.track(name) as run:
        await asyncio.sleep(0.2)
        with tracklayer.track("inner"):
            pass

async def sweep():
    with tracklayer.track("sweep"):
        await asyncio.gather(fold("c"), fold("d"))

async def main():
    await asyncio.gather(fold("a"), fold("b"))
    await sweep()

asyncio.run(main())
"""


def test_stages_of_async_tasks_side_by_side_are_not_one_within_the_other(store: Store, tmp_path: Path) -> None:
    script = tmp_path / f"script_{uuid.uuid4().hex[:8]}.py"
    script.write_text(TASKS)
    subprocess.run([sys.executable, script], check=True, timeout=60, cwd=tmp_path)
    runs = store.search_runs([], f"tags.`tracklayer.workflow` = '{script.stem}'")
    stages = {run.run_id: run.tags.get("tracklayer.stage", "parent") for run in runs}
    below = sorted((stages[run.run_id], stages.get(run.tags.get("mlflow.parentRunId", ""))) for run in runs)
    inner = [("inner", name) for name in "abcd"]
    told = [("a", "parent"), ("b", "parent"), ("c", "sweep"), ("d", "sweep"), ("sweep", "parent"), ("parent", None)]
    assert below == sorted([*inner, *told])


def test_tracking_off_is_said_once_and_everything_still_works(
    at: Callable[..., RunContext], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = Settings(enabled=False)
    with caplog.at_level(logging.DEBUG, "tracklayer"), track(context=at("fit"), settings=settings) as run:
        run.log_metrics({"auc": 1.0})
        run.produces("s3://x")
        assert run.consumes("s3://x") is None
    assert (run.run_id, run.url, run.token, run.ref) == (None, None, None, None)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


ORCHESTRATOR = """
from tracklayer import hookimpl


@hookimpl
def tracklayer_run_params(context):
    return {"lr": 0.1, "depth": 3, "rows": 10} if context.task_run else None
"""


def test_params_of_the_orchestrator_give_way_to_those_of_user_code(
    store: Store, uri: str, at: Callable[..., RunContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"orchestrator_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(ORCHESTRATOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = patient(uri, plugins=(module,))
    with track(context=at("fit"), settings=settings, run_name="x") as run:
        run.log_params({"lr": 0.2})
        run.flush()
        store.log_batch(run.run_id or "", params={"depth": "4"})  # as mlflow.log_param in the block does
    stage = get(store, run.run_id)
    assert stage.params == {"lr": "0.2", "depth": "4", "rows": "10"}
    assert "tracklayer.refused" not in stage.tags


CHILD = "import tracklayer; run = tracklayer.current_run(); run.log_metrics({'auc': 0.9}); print(run.run_id)"


def child(environment: dict[str, str]) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKLAYER_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**clean, "TRACKLAYER_PATIENCE": str(PATIENCE), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_child_process_that_is_attached_logs_to_the_stage_and_leaves_its_end_alone(
    store: Store, at: Callable[..., RunContext]
) -> None:
    with track(context=at("fit")) as run:
        assert child(run.attach_environment()) == run.run_id
        assert get(store, run.run_id).status == "RUNNING"
    assert get(store, run.run_id).metrics == {"auc": 0.9}


@pytest.mark.parametrize("token", ["untracked", "tl1.forged"])
def test_a_child_process_whose_stage_has_no_run_works_all_the_same(uri: str, token: str) -> None:
    assert child({"TRACKLAYER_ATTACH": token, "MLFLOW_TRACKING_URI": uri}) == "None"


def test_a_stage_that_is_ended_within_its_block_gives_way_to_the_one_around_it(
    store: Store, at: Callable[..., RunContext]
) -> None:
    with track(context=at("fit")) as outer:
        with track("inner") as inner:
            inner.end("FINISHED")
            found = tracklayer.current_run()
            assert found is outer
            found.log_params({"after": 1})
        assert tracklayer.current_run() is outer
    assert get(store, outer.run_id).params == {"after": "1"}
    assert get(store, inner.run_id).params == {}
