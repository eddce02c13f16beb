"""Nothing is asked of Airflow where waiting for the answer could never end: it is made good when the task's code is over.

With Airflow's own end of the socket, by which a task speaks to its supervisor, and a supervisor that takes its time.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG
from airflow.sdk.execution_time import comms, task_runner
from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context
from observed_story import ObservedStory

import tracklayer
from harness.airflow import AirflowHome, AirflowService
from harness.outage import flush
from tracklayer.context import RunRef, Token
from tracklayer.ending import RealEnd
from tracklayer.identity import format_token
from tracklayer.linking import read_links
from tracklayer.observation import current_observation, observe
from tracklayer.settings import load
from tracklayer.store.opening import open_store
from tracklayer_airflow import macros
from tracklayer_airflow.observing import TaskListener
from tracklayer_airflow.rules import Rules
from tracklayer_airflow.supervisor import SupervisorBusy, ask, catch_up, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from harness.mlflow import MlflowServer

pytestmark = pytest.mark.skipif(
    not hasattr(comms.CommsDecoder, "_async_lock"),
    reason="no coroutine can ask Airflow before 3.2",  # asend() raises
)

DAGS = Path(__file__).parent / "dags_async"

COROUTINES = ("block", "threads", "train")

PATIENCE = 60.0
"""Seconds after which code that waits for Airflow is taken to wait for ever."""


class Supervisor:
    """Answers a task, one request after the other; those for variables when `go` is set."""

    def __init__(self, token: str) -> None:
        self.go = threading.Event()
        self.told: dict[str, Any] = {}
        self.asked: list[str] = []
        self._token = token
        self._socket, theirs = socket.socketpair()
        self.comms: Any = comms.CommsDecoder(socket=theirs)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._socket, self._socket.makefile("rb") as requests:
            while length := requests.read(4):
                number, body, *_ = msgspec.msgpack.decode(requests.read(int.from_bytes(length, "big")))
                frame = comms._ResponseFrame(id=number, body=self._answer(body))  # Airflow's own
                self._socket.sendall(frame.as_bytes())

    def _answer(self, body: dict[str, Any]) -> dict[str, Any] | None:
        kind = body["type"]
        self.asked.append(kind)
        if kind == "GetVariable":
            assert self.go.wait(PATIENCE)
            return {"type": "VariableResult", "key": body["key"], "value": "late"}
        if kind == "GetXComSequenceSlice":
            return {"type": "XComSequenceSliceResult", "root": [self._token]}
        if kind == "SetXCom":
            self.told[body["key"]] = body["value"]
        return None

    def close(self) -> None:
        self.go.set()
        if (
            self.comms._thread_lock.locked()
        ):  # a test has failed: nobody is to wait for ever, and the process not to end
            self.comms._thread_lock.release()
        self.comms.socket.shutdown(socket.SHUT_RDWR)
        self.comms.socket.close()


class Instance(task_runner.RuntimeTaskInstance):
    """A task instance that speaks to the supervisor as Airflow's do, and was not started by one."""

    def get_template_context(self) -> Any:
        run = SimpleNamespace(dag_id=self.dag_id, run_id=self.run_id, conf={})
        context = {"ti": self, "dag": self.task.dag, "dag_run": run, "params": {}}
        return {**context, "outlet_events": OutletEventAccessors()}


async def _train() -> None:
    """What the task is; the tests do in its place what code in such a coroutine does."""


def _instance(function: Callable[..., Any]) -> Any:
    with DAG(f"asking_{uuid.uuid4().hex[:8]}", schedule=None) as dag:
        train = PythonOperator(task_id="train", python_callable=function)
        PythonOperator(task_id="prepare", python_callable=print) >> train
    found = Instance.model_construct(
        id=uuid.uuid4(), dag_id=dag.dag_id, task_id="train", run_id="manual__1", try_number=1, map_index=-1, task=train
    )
    found.start_date = datetime.now(UTC)
    return found


@pytest.fixture
def upstream(mlflow_server: MlflowServer) -> Token:
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    experiment = store.create_experiment(f"asked {uuid.uuid4().hex[:8]}", {})
    run = store.create_run(experiment, name="prepare", start_time=1, tags={})
    return Token(run=RunRef(run_id=run.run_id, experiment_id=run.experiment_id, stage="data-prep"))


@pytest.fixture
def supervisor(upstream: Token, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    supervisor = Supervisor(format_token(upstream))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor.comms, raising=False)
    yield supervisor
    supervisor.close()


@pytest.fixture
def listener(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskListener]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    yield TaskListener(Rules(), load())
    observe(None)


def in_loop(code: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns, in a loop of its own that may wait for ever."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append((asyncio.run(code), None))
        except BaseException as error:  # Airflow's own is no Exception
            found.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert found, "the loop waits for Airflow, and what Airflow's answer is waiting for is the loop"
    value, error = found[0]
    if error is not None:
        raise error
    return value


async def meanwhile(supervisor: Supervisor, code: Callable[[], Any]) -> Any:
    """Do something in the loop's thread while a coroutine waits for what it has asked the supervisor for."""
    asking = asyncio.create_task(supervisor.comms.asend(comms.GetVariable(key="slow")))
    while "GetVariable" not in supervisor.asked:  # noqa: ASYNC110  # another thread tells
        await asyncio.sleep(0.01)
    try:
        found = code()
        if asyncio.iscoroutine(found):
            found = await found
    finally:
        supervisor.go.set()
        answer = await asking
    assert answer.value == "late"
    return found


def open_run() -> Any:
    """What the first call of MLflow does in an observed task."""
    observation = current_observation()
    assert observation is not None
    return observation.open()


def upstream_of(uri: str, run_id: str) -> list[tuple[str, str]]:
    run = open_store(uri, connect_timeout=5, timeout=30).get_run(run_id)
    return [(link.run.run_id, link.kind) for link in read_links(run.tags)]


def test_a_run_is_opened_while_a_coroutine_asks(
    supervisor: Supervisor, listener: TaskListener, upstream: Token, mlflow_server: MlflowServer
) -> None:
    ti = _instance(_train)
    listener.on_task_instance_running(None, ti)
    run = in_loop(meanwhile(supervisor, open_run))
    assert run is not None
    assert supervisor.told == {}
    ti.task._post_execute_hook({}, None)  # as Airflow calls it, before it tells that the task has succeeded
    assert supervisor.told == {
        "tracklayer": run.token,
        "tracklayer_url": run.url,
        "tracklayer_parent_url": f"{mlflow_server.uri}/#/experiments/{run.parent.experiment_id}/runs/{run.parent.run_id}",
    }
    told = len(supervisor.asked)
    listener.on_task_instance_success(None, ti)
    assert len(supervisor.asked) == told
    assert upstream_of(mlflow_server.uri, run.run_id) == [(upstream.run.run_id, "hand-over")]


def test_what_was_not_told_is_told_when_the_task_has_failed(
    supervisor: Supervisor, listener: TaskListener, upstream: Token, mlflow_server: MlflowServer
) -> None:
    ti = _instance(_train)
    listener.on_task_instance_running(None, ti)
    run = in_loop(meanwhile(supervisor, open_run))
    listener.on_task_instance_failed(None, ti, ValueError("of the code"))
    assert supervisor.told["tracklayer"] == run.token
    assert upstream_of(mlflow_server.uri, run.run_id) == [(upstream.run.run_id, "hand-over")]


def test_nothing_is_put_off_where_no_coroutine_asks(
    supervisor: Supervisor, listener: TaskListener, upstream: Token, mlflow_server: MlflowServer
) -> None:
    ti = _instance(_train)
    listener.on_task_instance_running(None, ti)

    async def code() -> Any:
        return open_run()

    run = in_loop(code())
    assert supervisor.told["tracklayer"] == run.token
    assert ti.task._post_execute_hook is None
    listener.on_task_instance_success(None, ti)
    assert upstream_of(mlflow_server.uri, run.run_id) == [(upstream.run.run_id, "hand-over")]


def test_two_threads_open_the_run_while_a_coroutine_asks(supervisor: Supervisor, listener: TaskListener) -> None:
    """The one has the run's lock and would wait for the coroutine, the other is the coroutine's and waits for the lock."""
    ti = _instance(_train)
    listener.on_task_instance_running(None, ti)

    async def both() -> list[Any]:
        other = asyncio.create_task(asyncio.to_thread(open_run))
        observation = current_observation()
        assert observation is not None
        while observation._at_work is None and not other.done():  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.001)
        threading.Timer(1, supervisor.go.set).start()
        mine = open_run()
        return [mine, await other]

    runs = in_loop(meanwhile(supervisor, both))
    assert [run is None for run in runs].count(True) == 1
    listener.on_task_instance_success(None, ti)
    assert supervisor.told["tracklayer"] == next(run.token for run in runs if run is not None)


def test_another_thread_of_a_coroutine_does_not_ask(supervisor: Supervisor) -> None:
    ti = _instance(_train)

    async def code() -> None:
        await asyncio.to_thread(ask, ti, partial(ti.xcom_push, "of_thread", 1))

    with pytest.raises(SupervisorBusy):
        in_loop(code())
    assert supervisor.asked == []


def test_another_thread_of_a_function_asks(supervisor: Supervisor) -> None:
    ti = _instance(print)
    thread = threading.Thread(target=tell, args=(ti, partial(ti.xcom_push, "of_thread", 1)))
    thread.start()
    thread.join(PATIENCE)
    assert supervisor.told == {"of_thread": 1}


def test_a_macro_in_a_coroutine_has_no_token(supervisor: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    ti = _instance(_train)
    assert in_loop(meanwhile(supervisor, partial(macros.token, ti, "prepare"))) == ""
    assert "there is no token to hand over" in caplog.text


def test_what_cannot_be_told_in_the_end_is_logged(caplog: pytest.LogCaptureFixture, supervisor: Supervisor) -> None:
    ti = _instance(_train)
    told: list[int] = []

    def broken() -> None:
        raise ConnectionError("gone")

    def put_off() -> None:
        tell(ti, broken)
        tell(ti, partial(told.append, 1))

    in_loop(meanwhile(supervisor, put_off))
    catch_up()
    assert told == [1]
    assert "put off to the end of the task failed" in caplog.text


def test_a_block_of_a_task_that_is_not_observed_is_linked_at_the_end(
    supervisor: Supervisor, upstream: Token, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    ti = _instance(_train)

    def block() -> Any:
        with tracklayer.track("training") as run:
            run.log_metrics({"auc": 0.9})
        return run

    with set_current_context(ti.get_template_context()):
        run = in_loop(meanwhile(supervisor, block))
    assert "tracklayer" not in supervisor.told
    ti.task._post_execute_hook({}, None)
    assert supervisor.told["tracklayer"] == run.token
    assert run.recorder.flush()
    assert upstream_of(mlflow_server.uri, run.run_id) == [(upstream.run.run_id, "hand-over")]


class TaskRunnerMarker:
    """By what Airflow says that the process of a task is about to stop."""


def test_the_end_of_a_try_that_was_resumed_is_announced_before_its_callbacks(
    supervisor: Supervisor, listener: TaskListener, mlflow_server: MlflowServer
) -> None:
    """Its run was begun by another part of it, and Airflow may kill this one while they go on."""
    ti = _instance(print)
    ti.task.on_success_callback = [print]
    listener.on_task_instance_running(None, ti)
    run = open_run()
    listener.before_stopping(TaskRunnerMarker())
    ti.task.on_success_callback = [print]
    ti._ti_context_from_server = SimpleNamespace(next_method="execute_complete")
    listener.on_task_instance_running(None, ti)
    ti.state, ti.end_date = "success", datetime.now(UTC)
    assert list(ti.task.on_success_callback) == [print]
    assert run.recorder.flush()
    found = open_store(mlflow_server.uri, connect_timeout=5, timeout=30).get_run(run.run_id)
    announced = RealEnd.announced(found.tags)
    assert (found.status, announced and announced.status) == ("RUNNING", "FINISHED")
    listener.on_task_instance_success(None, ti)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_coroutines_on_a_real_scheduler(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    home = AirflowHome(tmp_path / "home", DAGS)
    with AirflowService(home, environ={"MLFLOW_TRACKING_URI": mlflow_server.uri}) as airflow:
        run_id = airflow.trigger("coroutines")
        state = airflow.wait("coroutines", run_id, seconds=240)["state"]
        links = {task: airflow.links("coroutines", run_id, task).get("MLflow run") for task in COROUTINES}
    flush(mlflow_server.uri, journal=home.folder / "journal")
    story = ObservedStory(mlflow_server.uri, "coroutines", {"run_id": run_id})
    assert (state, story.parent.status) == ("success", "FINISHED")
    runs = {task: story.run(task) for task in COROUTINES}
    assert [run.status for run in runs.values()] == ["FINISHED"] * len(COROUTINES)
    assert {task: story.upstream(task) for task in COROUTINES} == {task: ["prepare"] for task in COROUTINES}
    assert story.upstream("evaluate") == sorted(COROUTINES)
    assert {task: str(link).rpartition("/")[2] for task, link in links.items()} == {
        task: run.run_id for task, run in runs.items()
    }


def test_ways_to_end_the_process_pass() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(_instance(_train), interrupted)
