"""Something before the server lets nobody through: a login page that says 200, a redirect to one, refused credentials.

None of these is an answer of MLflow's, so what was asked is asked again later, as while the server is away.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING

import pytest

import tracklayer
from harness.line import ARTIFACTS, Line
from harness.patience import patient
from harness.process import wait_for
from harness.proxy import HTML
from tracklayer.identity import upstream_tag
from tracklayer.lookup import find
from tracklayer.provisional import is_provisional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer import StageRun

WALLS: dict[str, tuple[int, dict[str, str]]] = {
    "page": (200, {"Content-Type": "text/html"}),
    "redirect": (302, {"Location": "https://login.example/"}),
    "unauthorized": (401, {}),
    "forbidden": (403, {}),
}


@pytest.fixture
def line(mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy]) -> Iterator[Line]:
    line = Line(mlflow_server, proxy_before(mlflow_server.uri))
    yield line
    line.mend()


@pytest.fixture(params=WALLS)
def wall(request: pytest.FixtureRequest, line: Line) -> Callable[..., None]:
    """Puts it before the next request of a path."""
    status, headers = WALLS[request.param]

    def put(path: str, times: int = 1) -> None:
        line.proxy.answer(status, HTML, path=path, headers=headers, times=times)

    return put


def delivered(line: Line, stage: StageRun) -> str:
    """The server's id of the run, once nothing of it waits for anything."""
    recorder = stage.recorder
    assert recorder is not None
    wait_for(lambda: recorder.flush(5) and not recorder.held and not recorder.away, 60, "delivery")
    return line.deliver(stage)


def test_a_dataset_whose_producer_could_not_be_looked_up_is_linked_later(line: Line, wall: Callable[..., None]) -> None:
    uri = f"s3://bucket/{uuid.uuid4().hex}"
    with line.stage("data-prep") as producer:
        producer.produces(uri, "v1")
    made = delivered(line, producer)
    with line.stage("training") as consumer:
        assert consumer.run_id
        assert consumer.recorder
        assert consumer.recorder.flush(30)
        wall("runs/search")
        wall("experiments/search")
        assert consumer.consumes(uri, "v1") is None, "nobody knows yet"
    run = line.client.get_run(delivered(line, consumer))
    assert upstream_tag(made) in run.data.tags
    assert run.inputs is not None
    assert [item.dataset.digest for item in run.inputs.dataset_inputs] == ["v1"]


def test_an_artifact_that_met_it_is_stored_later(line: Line, wall: Callable[..., None], tmp_path: Path) -> None:
    with line.stage() as stage:
        assert stage.run_id
        wall(ARTIFACTS)
        stage.log_text("fine", "own.txt")
    run_id = delivered(line, stage)
    assert line.text(run_id, "own.txt", tmp_path / "read") == "fine"


def test_the_whole_value_of_a_param_is_stored_later(line: Line, wall: Callable[..., None], tmp_path: Path) -> None:
    wall(ARTIFACTS)
    wall("experiments/search", times=2)
    with line.stage(params={"query": "x" * 20_000}) as stage:
        pass
    run_id = delivered(line, stage)
    assert line.client.get_run(run_id).info.status == "FINISHED"
    assert [path for path in line.paths(run_id) if "query" in path], line.paths(run_id)


def test_a_run_that_is_looked_for_is_expected(line: Line, wall: Callable[..., None]) -> None:
    settings = patient(line.proxy.uri)
    wall("")
    found = find("mlflow.tracklayer.task.nobody", settings=settings)
    assert found is not None
    assert is_provisional(found.run_id)
    assert find("mlflow.tracklayer.task.nobody", settings=settings) is None


def test_a_stage_in_front_of_it_ends_as_untracked(line: Line, wall: Callable[..., None]) -> None:
    wall("", times=10_000)
    with contextlib.suppress(ZeroDivisionError), line.stage() as stage:
        stage.log_metric("loss", 1.0)
        raise ZeroDivisionError
    line.proxy.forget()
    run_id = delivered(line, stage)
    run = line.client.get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("FAILED", {"loss": 1.0})
    assert tracklayer.current_run() is None
