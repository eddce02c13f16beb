"""The life of stage runs against a real server: what a user of `tracklayer.track` relies on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest

import tracklayer
from tracklayer import RunContext, TaskRun, WorkflowRun, hookimpl, registry
from tracklayer.description import DOWNSTREAM_MARKER, NOTE_TAG
from tracklayer.identity import parse_token, upstream_tag
from tracklayer.provisional import id_tag, is_provisional
from tracklayer.settings import Settings
from tracklayer.store.opening import open_store
from tracklayer.tracking import close_workflow_run, open_workflow_run, track

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.store import Run, Store


@pytest.fixture
def uri(mlflow_server: object, monkeypatch: pytest.MonkeyPatch) -> str:
    address = str(mlflow_server.uri)  # type: ignore[attr-defined]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri, connect_timeout=5, timeout=30)


@pytest.fixture
def workflow() -> str:
    return f"life-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def at(workflow: str) -> Callable[..., RunContext]:
    def context(task: str, *, run: str = "r1", **task_run: object) -> RunContext:
        return RunContext(
            workflow_run=WorkflowRun(orchestrator="test", workflow=workflow, run_id=run, description="# Flights"),
            task_run=TaskRun(task=task, **task_run),  # type: ignore[arg-type]
        )

    return context


def get(store: Store, run_id: str | None) -> Run:
    assert run_id is not None
    return store.get_run(run_id)


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


def test_data_links_lead_across_workflows_and_are_shown_at_both_ends(store: Store, workflow: str) -> None:
    def context(name: str, task: str) -> RunContext:
        return RunContext(
            workflow_run=WorkflowRun(orchestrator=name, workflow=f"{workflow}-{name}", run_id="r1"),
            task_run=TaskRun(task=task),
        )

    uri = f"s3://bucket/{workflow}"
    with track("data-prep", context=context("airflow", "clean")) as first:
        first.produces(uri, "v1", schema='{"rows": 3}')
    with track("data-prep", context=context("airflow", "again")) as second:
        second.produces(uri, "v2")
    with track("training", context=context("prefect", "fit")) as run:
        latest = run.consumes(uri)
        exact = run.consumes(uri, "v1")
        assert run.consumes(f"{uri}/unknown") is None
    assert latest
    assert exact
    assert (latest.run_id, exact.run_id) == (second.run_id, first.run_id)
    consumer = get(store, run.run_id)
    assert json.loads(consumer.tags[upstream_tag(first.run_id or "")]) == {
        "kind": "data",
        "dataset": uri,
        "digest": "v1",
    }
    assert f"/runs/{second.run_id}" in consumer.tags[NOTE_TAG]
    assert {dataset.context for dataset in consumer.datasets} == {"consumed"}
    assert [dataset.digest for dataset in get(store, first.run_id).datasets] == ["v1"]

    close_workflow_run(context("prefect", "fit"), "FINISHED")
    note = get(store, first.run_id).tags[NOTE_TAG]
    assert f"/runs/{run.run_id}" in note.partition(DOWNSTREAM_MARKER)[2]


def test_a_token_from_outside_links_the_stage_and_the_parent(
    store: Store, at: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    with track("training", context=at("fit")) as first:
        token = first.token
        assert os.environ["TRACKLAYER_PARENT"] == token
    assert "TRACKLAYER_PARENT" not in os.environ
    assert token
    assert parse_token(token).run.run_id == first.run_id
    monkeypatch.setenv("TRACKLAYER_PARENT", token)
    with track("evaluation", context=at("score", run="r2")) as run:
        pass
    assert json.loads(get(store, run.run_id).tags[upstream_tag(first.run_id or "")]) == {"kind": "token"}
    assert run.parent
    assert upstream_tag(first.run_id or "") in get(store, run.parent.run_id).tags


def test_a_forged_token_is_reported_and_ignored(
    store: Store, at: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKLAYER_PARENT", "tl1.forged")
    with track(context=at("fit")) as run:
        pass
    assert get(store, run.run_id).status == "FINISHED"
    assert "TRACKLAYER_PARENT is ignored" in caplog.text


def test_a_stage_within_a_stage_is_nested_below_it(store: Store, at: Callable[..., RunContext]) -> None:
    with track("training", context=at("fit")) as outer:
        folds = []
        for _ in range(2):
            with track("fold") as fold:
                assert tracklayer.current_run() is fold
                folds.append(fold.run_id)
        assert tracklayer.current_run() is outer
    assert tracklayer.current_run() is None
    assert [get(store, fold).tags["mlflow.parentRunId"] for fold in folds] == [outer.run_id] * 2
    assert len({get(store, fold).tags["tracklayer.key"] for fold in folds}) == 2


def test_threads_see_the_run_that_they_are_in(store: Store, at: Callable[..., RunContext]) -> None:
    both = threading.Barrier(2, timeout=30)
    seen: dict[str, object] = {}

    def work(name: str) -> None:
        with track(context=at(name)) as run:
            both.wait()
            seen[name] = (tracklayer.current_run() is run, os.environ.get("TRACKLAYER_PARENT"))
            both.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": (True, None), "b": (True, None)}

    found = []
    with track(context=at("c")) as run:
        thread = threading.Thread(target=lambda: found.append(tracklayer.current_run()))
        thread.start()
        thread.join()
    assert found == [run]


def test_a_retry_is_a_new_run_and_supersedes_the_earlier_one(store: Store, at: Callable[..., RunContext]) -> None:
    with pytest.raises(ValueError, match="first"), track(context=at("fit")) as first:
        raise ValueError("first")
    killed = tracklayer.tracking.open_stage(context=at("fit", try_number=2))  # its process dies without a word
    with track(context=at("fit", try_number=3)) as third:
        pass
    runs = [get(store, run.run_id) for run in (first, killed, third)]
    assert [run.status for run in runs] == ["FAILED", "FAILED", "FINISHED"]
    assert [run.tags.get("tracklayer.superseded_by") for run in runs] == [killed.run_id, third.run_id, None]


def test_attempts_reuse_goes_on_with_the_run_of_the_earlier_try(
    store: Store, uri: str, at: Callable[..., RunContext]
) -> None:
    settings = Settings(tracking_uri=uri, attempts="reuse")
    with pytest.raises(ValueError, match="first"), track(context=at("fit"), settings=settings) as first:
        raise ValueError("first")
    with track(context=at("fit", try_number=2), settings=settings) as second:
        assert get(store, second.run_id).status == "RUNNING"
    assert second.run_id == first.run_id
    assert get(store, second.run_id).status == "FINISHED"


def test_a_run_whose_creation_got_no_answer_is_not_created_twice(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], at: Callable[..., RunContext]
) -> None:
    proxy = proxy_before(mlflow_server.uri)
    settings = Settings(tracking_uri=proxy.uri)
    parent = open_workflow_run(at("fit"), settings=settings)
    assert parent
    proxy.lost("runs/create")
    with track(context=at("fit"), settings=settings, params={"lr": 0.1}) as run:
        given_out = run.run_id
        assert given_out
        assert is_provisional(given_out)
        run.log_metrics({"auc": 0.9})
    deadline = time.monotonic() + 30
    while not run.flush() and time.monotonic() < deadline:  # the sender tries again after a pause
        time.sleep(0.1)
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    (stage,) = [one for one in store.search_runs([parent.experiment_id]) if "mlflow.parentRunId" in one.tags]
    assert run.ref
    assert stage.run_id == run.ref.run_id
    assert id_tag(given_out) in stage.tags
    assert (stage.status, stage.metrics, stage.params) == ("FINISHED", {"auc": 0.9}, {"lr": "0.1"})


def test_a_resumed_try_goes_on_with_its_run(store: Store, at: Callable[..., RunContext]) -> None:
    def deferred(_: BaseException) -> tracklayer.Outcome:
        return tracklayer.Outcome("RUNNING", "deferred")

    with pytest.raises(RuntimeError), track(context=at("wait"), outcome=deferred) as first:
        raise RuntimeError
    assert get(store, first.run_id).status == "RUNNING"
    with track(context=at("wait", resumed=True)) as second:
        pass
    assert second.run_id == first.run_id
    assert get(store, first.run_id).status == "FINISHED"


def test_the_end_of_the_workflow_run_ends_what_nobody_ended(store: Store, at: Callable[..., RunContext]) -> None:
    parent = open_workflow_run(at("fit"))
    lost = tracklayer.tracking.open_stage(context=at("lost"))
    with track(context=at("fit")) as run:
        pass
    assert parent
    assert run.parent == lost.parent
    for _ in range(2):
        close_workflow_run(at("fit"), "FAILED", error="password=hunter2 did not work")
        assert get(store, lost.run_id).status == "KILLED"
        assert get(store, run.run_id).status == "FINISHED"
        assert get(store, parent.run_id).status == "FAILED"
    assert "did not work" in get(store, parent.run_id).tags["tracklayer.error.message"]


def test_a_workflow_run_that_goes_on_after_its_end_is_open_again(store: Store, at: Callable[..., RunContext]) -> None:
    with track(context=at("fit")) as run:
        pass
    close_workflow_run(at("fit"), "FINISHED")
    assert run.parent
    assert get(store, run.parent.run_id).status == "FINISHED"
    with track(context=at("fit", try_number=2)):
        assert get(store, run.parent.run_id).status == "RUNNING"


def test_ending_a_workflow_run_of_which_nothing_was_tracked_does_nothing(
    store: Store, workflow: str, at: Callable[..., RunContext]
) -> None:
    close_workflow_run(at("fit"), "FINISHED")
    assert store.get_experiment_by_name(workflow) is None


def test_the_parent_itself_can_be_the_current_run(store: Store, at: Callable[..., RunContext]) -> None:
    with track(context=at("flow").of_workflow_run(), params={"rows": 10}) as flow:
        flow.log_metrics({"total": 3.0})
        with track(context=at("fit")) as run:
            pass
    assert run.parent
    assert run.parent.run_id == flow.run_id
    parent = get(store, flow.run_id)
    assert (parent.status, parent.metrics, parent.params) == ("FINISHED", {"total": 3.0}, {"rows": "10"})


def test_stages_can_have_experiments_of_their_own(
    store: Store, uri: str, workflow: str, at: Callable[..., RunContext]
) -> None:
    settings = Settings(tracking_uri=uri, experiment="{workflow}/{stage}")
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
print(run.run_id, "mlflow" in sys.modules, "requests" in sys.modules)
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
    run_id, mlflow, requests = ended.stdout.split()
    assert (mlflow, requests) == ("False", "False")
    stage = get(store, run_id)
    assert stage.status == "FINISHED"
    assert store.get_experiment(stage.experiment_id).name == script.stem
    assert get(store, stage.tags["mlflow.parentRunId"]).status == status


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
    settings = Settings(tracking_uri=uri, plugins=(module,))
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
        env={**clean, **environment},
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


def test_params_of_a_workflow_run_are_there_although_the_answer_to_its_creation_was_lost(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], at: Callable[..., RunContext]
) -> None:
    class Orchestrator:
        @hookimpl
        def tracklayer_run_params(self, context: RunContext) -> dict[str, object] | None:
            return {"rows": 7} if context.task_run is None else None

    proxy = proxy_before(mlflow_server.uri)
    settings = Settings(tracking_uri=proxy.uri)
    plugin = Orchestrator()
    registry.load(settings).register(plugin)
    proxy.lost("runs/create")
    with track(context=at("fit"), settings=settings) as run:
        registry.load(settings).unregister(plugin)
    deadline = time.monotonic() + 30
    while not run.flush() and time.monotonic() < deadline:
        time.sleep(0.1)
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    assert run.ref
    parent = store.get_run(store.get_run(run.ref.run_id).tags["mlflow.parentRunId"])
    assert parent.params == {"rows": "7"}
    assert [
        one.run_id for one in store.search_runs([parent.experiment_id]) if "mlflow.parentRunId" not in one.tags
    ] == [parent.run_id]
