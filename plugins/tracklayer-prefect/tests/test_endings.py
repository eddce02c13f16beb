from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import prefect_endings
import pytest
from prefect_endings import ENDINGS, End, run

if TYPE_CHECKING:
    from prefect_story import Story

    from harness.proxy import RecordingProxy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def untracked(prefect_server: None) -> dict[str, End]:
    """How each flow ends without tracklayer."""
    return {}


def as_untracked(name: str, untracked: dict[str, End]) -> End:
    if name not in untracked:
        untracked[name] = run(ENDINGS[name].make, tracked=False)
    return untracked[name]


@pytest.mark.parametrize("name", ENDINGS)
def test_a_tracked_flow_ends_as_it_would_have_and_its_runs_say_how(
    name: str, story: Story, untracked: dict[str, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_untracked(name, untracked)
    monkeypatch.setattr(prefect_endings, "LIMIT", 5.0)  # on a busy machine its runs are not opened within a second
    assert run(ENDINGS[name].make, tracked=True) == as_untracked(name, untracked)
    expected = ENDINGS[name].parent
    assert [run.info.status for run in story.parents()] == ([] if expected is None else [expected])
    assert sorted(stage.info.status for stage in story.stages()) == sorted(ENDINGS[name].stages)
    assert all(found.info.end_time for found in story.runs())


@pytest.mark.parametrize("name", ENDINGS)
def test_it_ends_the_same_with_tracking_off(
    name: str, orchestrated: None, untracked: dict[str, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKLAYER_ENABLED", "false")
    assert run(ENDINGS[name].make, tracked=True) == as_untracked(name, untracked)


@pytest.mark.parametrize("name", ENDINGS)
def test_it_ends_the_same_with_the_server_away(
    name: str, orchestrated: None, untracked: dict[str, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv(
            "MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}"
        )  # refuses: nobody listens
        assert run(ENDINGS[name].make, tracked=True) == as_untracked(name, untracked)


def test_a_server_that_never_answers_costs_little(
    orchestrated: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("TRACKLAYER_TIMEOUT", "0.3")
        before = time.monotonic()
        with caplog.at_level(logging.WARNING, "tracklayer"):
            assert run(ENDINGS["returns"].make, tracked=True) == End("3", None, "COMPLETED Completed")
        assert time.monotonic() - before < 20  # and not minutes, as MLflow's own client
    assert "the pipeline goes on" in caplog.text


def test_the_error_is_told_on_the_run_that_it_ended(story: Story) -> None:
    run(ENDINGS["raises"].make, tracked=True)
    for found in story.runs():
        assert found.data.tags["tracklayer.error.type"] == "ValueError"
        assert found.data.tags["tracklayer.error.message"] == "no data"


def test_a_flow_that_was_retried_does_not_keep_the_first_tries_error(story: Story) -> None:
    run(ENDINGS["succeeds at the second try"].make, tracked=True)
    assert "tracklayer.error.type" not in story.parent().data.tags
    assert story.stages()[0].data.tags["tracklayer.error.message"] == "not yet"


def test_prefect_has_the_last_word(story: Story) -> None:
    run(ENDINGS["returns a failed state"].make, tracked=True)
    assert story.parent().data.tags["tracklayer.error.message"] == "said so"


def test_a_suspended_flow_run_goes_on_in_the_run_that_it_had(story: Story) -> None:
    """Prefect suspends runs of deployments only: their process ends, and another one goes on later."""
    import mlflow
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow
    from prefect.flow_runs import resume_flow_run, suspend_flow_run

    from tracklayer_prefect import tracked_flow

    suspended: list[bool] = []

    @tracked_flow
    @flow(name=story.experiment)
    def approving() -> int:
        if not suspended:
            mlflow.log_metric("before", 1)
            suspended.append(True)
            suspend_flow_run(timeout=60)
        mlflow.log_metric("after", 1)
        return 1

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(approving), name="by-hand")
        flow_run = client.create_flow_run_from_deployment(deployment)
        with pytest.raises(Pause):
            run_flow(approving, flow_run=flow_run)
        assert story.parent().info.status == "RUNNING"
        resume_flow_run(flow_run.id)
        assert run_flow(approving, flow_run=client.read_flow_run(flow_run.id)) == 1
    assert story.parent().info.status == "FINISHED"
    assert story.parent().data.metrics == {"before": 1.0, "after": 1.0}


def test_a_task_that_nobody_waits_for_ends_as_it_ends(story: Story) -> None:
    from prefect import flow, task

    from tracklayer_prefect import tracked_flow, tracked_task

    @tracked_task(stage="training")
    @task
    def slow() -> None:
        time.sleep(1)

    @tracked_flow
    @flow
    def hasty() -> None:
        slow.submit()
        time.sleep(0.3)

    hasty()
    assert story.parent().info.status == "FINISHED"
    assert story.stage("training").info.status == "FINISHED"
    assert "tracklayer.outcome" not in story.stage("training").data.tags


def test_a_task_that_is_cancelled_while_its_run_is_opened_leaves_none_open(
    story: Story, recording_proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow, task

    from tracklayer_prefect import tracked_flow, tracked_task

    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    asked, released = threading.Event(), threading.Event()
    started = []

    @tracked_task(stage="training")
    @task
    async def late() -> None:
        started.append(True)

    @tracked_flow
    @flow
    async def impatient() -> str:
        def slowly(handler: Any) -> Any:
            asked.set()
            assert released.wait(60)
            return handler.forwarded()

        recording_proxy.fault(slowly, "runs/create")
        opening = asyncio.ensure_future(late())
        assert await asyncio.to_thread(asked.wait, 60)
        opening.cancel()
        threading.Timer(0.5, released.set).start()  # the loop may stand still until the run is opened
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        assert opening.cancelled()
        return "went on"

    assert asyncio.run(impatient()) == "went on"
    assert not started
    assert story.stage("training").info.status == "KILLED"
    assert story.parent().info.status == "FINISHED"
