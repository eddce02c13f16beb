"""How many requests a stage costs, counted by a proxy between tracklayer and a real server."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from harness.patience import TIMEOUT, patient
from tracklayer import RunContext, RunRef, TaskRun, WorkflowRun
from tracklayer.identity import parse_token
from tracklayer.journal.recorders import close_recorders
from tracklayer.tracking import close_workflow_run, open_workflow_run, track

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy

PARAMS = {f"param_{n}": n for n in range(20)}
METRICS = {f"metric_{n}": float(n) for n in range(10)}


@pytest.fixture
def proxy(
    mlflow_server: MlflowServer,
    proxy_before: Callable[[str], RecordingProxy],
    monkeypatch: pytest.MonkeyPatch,
    in_time: None,
) -> RecordingProxy:
    recording = proxy_before(mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording.uri)
    monkeypatch.setenv("TRACKLAYER_FLUSH_INTERVAL", "60")  # else what is logged on a slow machine is sent for its age
    return recording


def context(
    workflow: str, task: str, *, parent: RunRef | None = None, params: dict[str, object] | None = None
) -> RunContext:
    return RunContext(
        workflow_run=WorkflowRun(orchestrator="test", workflow=workflow, run_id="r1", params=params or {}),
        task_run=TaskRun(task=task),
        parent=parent,
    )


@pytest.fixture
def workflow() -> str:
    return f"requests-{uuid.uuid4().hex[:10]}"


def paths(proxy: RecordingProxy) -> list[str]:
    return [request.path for request in proxy.requests]


def stage(where: RunContext, **options: object) -> None:
    with track("training", context=where, params=PARAMS, **options) as run:  # type: ignore[arg-type]
        run.log_metrics(METRICS)
        assert run.run_id


def test_a_stage_whose_parent_and_experiment_are_known_takes_three_requests(
    proxy: RecordingProxy, workflow: str
) -> None:
    parent = open_workflow_run(context(workflow, "fit"))
    assert parent
    proxy.forget()
    stage(context(workflow, "handed-over", parent=parent))
    assert paths(proxy) == ["runs/create", "runs/log-batch", "runs/update"]
    proxy.forget()
    stage(context(workflow, "remembered"))
    assert paths(proxy) == ["runs/create", "runs/log-batch", "runs/update"]


def test_a_link_that_is_known_from_the_start_costs_nothing_more(proxy: RecordingProxy, workflow: str) -> None:
    with track(context=context(workflow, "prepare")) as first:
        token = first.token
    assert token
    proxy.forget()
    where = RunContext(
        workflow_run=WorkflowRun(orchestrator="test", workflow=workflow, run_id="r1"),
        task_run=TaskRun(task="fit"),
        tokens=(parse_token(token),),
    )
    stage(where)
    assert paths(proxy) == ["runs/create", "runs/log-batch", "runs/update"]


def test_the_first_stage_of_a_workflow_run_pays_four_more_for_its_parent(proxy: RecordingProxy, workflow: str) -> None:
    stage(context(workflow, "first"))  # makes the experiment
    where = RunContext(
        workflow_run=WorkflowRun(orchestrator="test", workflow=workflow, run_id="r2"), task_run=TaskRun(task="fit")
    )
    proxy.forget()
    stage(where)
    assert paths(proxy) == [
        "runs/search",
        "runs/create",
        "runs/log-inputs",
        "runs/get",
        "runs/create",
        "runs/log-batch",
        "runs/update",
    ]


def test_a_new_process_asks_once_for_the_experiment(proxy: RecordingProxy, workflow: str) -> None:
    stage(context(workflow, "first"))
    proxy.forget()
    where = RunContext(
        workflow_run=WorkflowRun(orchestrator="test", workflow=workflow, run_id="r1"), task_run=TaskRun(task="second")
    )
    # Other time-outs make another back end in this process, which knows as little as a new process does.
    close_recorders()
    stage(where, settings=patient(proxy.uri, timeout=TIMEOUT + 1))
    assert paths(proxy) == ["experiments/get-by-name", "runs/search", "runs/create", "runs/log-batch", "runs/update"]


def test_one_connection_serves_a_whole_stage(proxy: RecordingProxy, workflow: str) -> None:
    stage(context(workflow, "first"))
    assert len({request.connection for request in proxy.requests}) == 1


def test_the_end_of_a_workflow_run_takes_few_requests(proxy: RecordingProxy, workflow: str) -> None:
    stage(context(workflow, "fit"))
    proxy.forget()
    close_workflow_run(context(workflow, "fit"), "FINISHED")
    # The first says up to which id there are experiments: its stage runs may be in any.
    assert paths(proxy) == ["experiments/search", "runs/search", "runs/update", "runs/get"]


def test_a_thousand_metrics_are_one_batch(proxy: RecordingProxy, workflow: str) -> None:
    parent = open_workflow_run(context(workflow, "fit"))
    proxy.forget()
    with track(context=context(workflow, "many", parent=parent)) as run:
        for step in range(900):
            run.log_metric("loss", 1.0 / (step + 1), step)
    assert paths(proxy) == ["runs/create", "runs/log-batch", "runs/update"]
