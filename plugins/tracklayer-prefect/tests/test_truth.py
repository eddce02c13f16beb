"""What a real Prefect server, the process and the heartbeats say of flow runs, and what reconciling makes of it."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import pytest
from prefect import flow, task

from harness.process import free_port, wait_for
from tracklayer.cli import main
from tracklayer.context import TaskRun, WorkflowRun
from tracklayer.machine import PROCESS_TAG, process_of, this_process
from tracklayer_prefect import tracked_flow, tracked_task, truth
from tracklayer_prefect.plugin import tracklayer_task_state, tracklayer_workflow_state
from tracklayer_prefect.truth import BEAT, PrefectUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect_story import Story


@pytest.fixture(autouse=True)
def unbroken() -> Iterator[None]:
    """A server that one test took away is there for the next one."""
    yield
    truth._breaker.cache_clear()


@tracked_task(stage="training")
@task(retries=1, retry_delay_seconds=0)
def train(fail: bool = False) -> None:
    if fail:
        raise ValueError("no data")


@tracked_flow
@flow(name="truthful")
def truthful(fail: bool = False) -> None:
    train(fail)


def asked(run: Any) -> tuple[WorkflowRun, TaskRun | None]:
    """What the hooks are asked about a run in MLflow: as reconciling rebuilds it."""
    from tracklayer.reconcile.truth import place_of
    from tracklayer.store.entities import run as value

    place = place_of(value(run))
    assert place is not None
    return place.workflow_run, place.task_run


def workflow_run(run_id: Any, name: str = "truthful", **tags: str) -> WorkflowRun:
    return WorkflowRun(orchestrator="prefect", workflow=name, run_id=str(run_id), tags=tags)


def test_flows_and_tasks_that_have_ended(story: Story) -> None:
    truthful()
    with pytest.raises(ValueError, match="no data"):
        truthful(fail=True)
    finished, failed = story.parents()
    for run, status in ((finished, "FINISHED"), (failed, "FAILED")):
        state = tracklayer_workflow_state(asked(run)[0])
        assert state is not None
        assert state.status == status
        assert state.ended_at is not None
    for run in story.stages():
        of_flow, of_task = asked(run)
        assert of_task is not None

        def told(of_flow: WorkflowRun = of_flow, of_task: TaskRun = of_task) -> str | None:
            state = tracklayer_task_state(of_flow, of_task)
            return state.status if state is not None else None

        # Prefect records task runs some time after they ran.
        wait_for(lambda told=told: told() not in {None, "RUNNING"}, 60, "record of a task run")  # type: ignore[misc]
        assert told() == run.info.status


def test_who_is_not_known(story: Story) -> None:
    truthful()
    gone = tracklayer_workflow_state(workflow_run(uuid4()))
    assert gone is not None
    assert gone.status == "GONE", "the flow is known here, the run is not"
    assert tracklayer_workflow_state(workflow_run(uuid4(), "of another server")) is None
    assert tracklayer_workflow_state(workflow_run("no uuid")) is None
    of_flow = workflow_run(story.parent().data.tags["tracklayer.workflow_run"])
    assert tracklayer_task_state(of_flow, TaskRun(task="truthful")) is None, "a stage in the flow's body"
    lost = TaskRun(task="train", tags={"prefect.task_run_id": str(uuid4())})
    assert tracklayer_task_state(of_flow, lost) is None
    airflow = WorkflowRun(orchestrator="airflow", workflow="x", run_id="r1")
    assert (tracklayer_workflow_state(airflow), tracklayer_task_state(airflow, lost)) == (None, None)


@pytest.fixture
def running(orchestrated: None) -> UUID:
    """A flow run that Prefect believes to be running."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    with get_client(sync_client=True) as client:
        return client.create_flow_run(flow(name="truthful")(lambda: None), state=Running()).id


def beats(run_id: UUID, *ago: timedelta) -> None:
    """Have the heart of a flow run beaten so long ago."""
    from prefect.client.orchestration import get_client

    now = datetime.now(UTC)
    events = [
        {
            "id": str(uuid4()),
            "occurred": (now - age).isoformat(),
            "event": BEAT,
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
            "payload": {},
        }
        for age in ago
    ]
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=events).raise_for_status()

        def stored() -> bool:
            told = {"filter": {"event": {"name": [BEAT]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}}
            return len(client.request("POST", "/events/filter", json=told).json()["events"]) == len(ago)

        wait_for(stored, 60, "events on the Prefect server")


def process(**changes: Any) -> dict[str, str]:
    """The tag that names this process, or one like it."""
    mine = process_of(this_process())
    assert mine is not None
    return {PROCESS_TAG: msgspec.json.encode(msgspec.structs.replace(mine, **changes)).decode()}


def test_of_what_prefect_calls_running_the_process_is_asked(running: UUID) -> None:
    def state(**tags: str) -> Any:
        return tracklayer_workflow_state(workflow_run(running, **tags))

    assert state().status == "RUNNING"
    assert state(**process()).status == "RUNNING"
    assert state(**process(boot="another machine's")).status == "RUNNING"
    dead = state(**process(start=1))
    assert (dead.status, dead.note) == ("KILLED", "died")
    # Whatever was in that process, Prefect has seen the run start again since.
    assert state(**process(start=1, at=process_of(this_process()).at - 60_000)).status == "RUNNING"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("ago", "status"),
    [
        ([timedelta(minutes=2), timedelta(minutes=5)], "RUNNING"),
        ([timedelta(minutes=15), timedelta(minutes=18)], "KILLED"),
        ([timedelta(minutes=15)], "KILLED"),
        ([timedelta(minutes=30), timedelta(minutes=60)], "RUNNING"),  # it beats every half an hour
    ],
)
def test_of_what_prefect_calls_running_the_heart_is_listened_to(
    running: UUID, ago: list[timedelta], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prefect's server takes no state of the past, so the heart has beaten before the run began to run.
    assert seen(running) == "RUNNING", "no heart was ever heard"
    beats(running, *ago)
    assert seen(running) == "RUNNING", "that was the heart of an earlier session"
    monkeypatch.setattr(truth, "SLACK", timedelta(hours=4))
    assert seen(running) == status
    if status == "KILLED":
        state = tracklayer_workflow_state(workflow_run(running))
        assert state is not None
        assert state.ended_at is not None
        assert abs(datetime.now(UTC) - state.ended_at - ago[0]) < timedelta(minutes=1)
        assert seen(running, **process()) == "RUNNING", "the process is there to be seen"


def seen(run_id: UUID, **tags: str) -> str | None:
    state = tracklayer_workflow_state(workflow_run(run_id, **tags))
    return state.status if state is not None else None


def test_a_flow_that_is_suspended_waits_without_a_process(orchestrated: None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Suspended

    with get_client(sync_client=True) as client:
        suspended: Any = Suspended(timeout_seconds=3_600)
        run_id = client.create_flow_run(flow(name="truthful")(lambda: None), state=suspended).id
    state = tracklayer_workflow_state(workflow_run(run_id, **process(start=1)))
    assert state is not None
    assert (state.status, state.said) == ("RUNNING", "Suspended")


def test_a_server_that_is_away_is_asked_once() -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        with pytest.raises(PrefectUnavailable, match="cannot be asked"):
            tracklayer_workflow_state(workflow_run(uuid4()))
        with pytest.raises(PrefectUnavailable, match="a moment ago"):
            tracklayer_workflow_state(workflow_run(uuid4()))


def test_reconciling_ends_the_runs_of_a_killed_script(
    start: Any, started: Any, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    program = start()
    wait_for(lambda: started.exists() and bool(started.read_text()), 90, "start of the flow's task", program)
    pid = int(started.read_text())
    arguments = ["reconcile", "--experiment", story.experiment, "--format", "json"]
    assert run(arguments) == 0, "it lives"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not program.running, 60, "end of the script")
    capsys.readouterr()

    assert run(arguments) == 3
    assert "is gone" in json.loads(capsys.readouterr().out)["findings"][0]["because"]
    assert run([*arguments, "--apply"]) == 0
    assert story.parent().info.status == "KILLED"
    assert [stage.info.status for stage in story.stages()] == ["KILLED"]
    assert story.parent().data.tags["tracklayer.outcome"] == "died"


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)
