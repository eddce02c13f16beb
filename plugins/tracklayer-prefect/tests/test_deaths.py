from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from prefect_story import links

from harness.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prefect_story import Story

    from harness.process import Program


def pid_of(started: Path, program: Program) -> int:
    wait_for(lambda: started.exists() and bool(started.read_text()), 90, "start of the flow's task", program)
    return int(started.read_text())


def statuses(story: Story) -> tuple[str, list[str]]:
    return story.parent().info.status, [run.info.status for run in story.stages()]


def test_a_terminated_flow_ends_its_runs(start: Callable[..., Program], started: Path, story: Story) -> None:
    program = start()
    os.kill(pid_of(started, program), signal.SIGTERM)
    wait_for(lambda: not program.running, 60, "end of the script")
    assert statuses(story) == ("KILLED", ["KILLED"])


def test_a_killed_script_leaves_its_runs_open_and_prefect_says_so_too(
    start: Callable[..., Program], started: Path, story: Story
) -> None:
    """What remains then is for reconciling: Prefect itself believes that the flow runs on, and says so when asked."""
    from prefect.client.orchestration import get_client

    program = start()
    os.kill(pid_of(started, program), signal.SIGKILL)
    wait_for(lambda: not program.running, 60, "end of the script")
    assert statuses(story) == ("RUNNING", ["RUNNING"])
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(story.parent().data.tags["tracklayer.workflow_run"])).state
    assert state is not None
    assert state.is_running()


@pytest.mark.slow
@pytest.mark.parametrize("death", ["killed", "cancelled"])
def test_the_runner_ends_the_runs_of_a_flow_that_it_served(
    death: str, start: Callable[..., Program], started: Path, story: Story
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment
    from prefect.states import Cancelling

    name = story.experiment
    runner = start("serve", name)
    flow_run = until(lambda: run_deployment(f"waiting/{name}", timeout=0), runner)
    pid = pid_of(started, runner)
    if death == "killed":
        os.kill(pid, signal.SIGKILL)
    else:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelling())
    wait_for(lambda: story.parent().info.status != "RUNNING", 90, "end of the parent", runner)
    assert statuses(story) == ("KILLED", ["KILLED"])
    assert links(story.parent()) == set()
    assert "prefect.deployment_id" in story.parent().data.tags


def until(call: Callable[[], Any], program: Program) -> Any:
    """The result of a call that fails until the program is ready."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return call()
        except Exception:
            if time.monotonic() > deadline or not program.running:
                raise
            time.sleep(0.5)
