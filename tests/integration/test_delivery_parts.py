"""A part of a run that the server does not take: everything else of the run arrives, its end included."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaving import opening_of
from harness.proxy import Answer
from tracklayer.backend import open_backend
from tracklayer.journal.operations import End, Inputs, Log
from tracklayer.journal.recorder import Recorder
from tracklayer.journal.refusals import refusals
from tracklayer.settings import Settings
from tracklayer.store import Dataset, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy

ENDED = 1_700_000_002_000


@pytest.fixture
def proxy(mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy]) -> RecordingProxy:
    return proxy_before(mlflow_server.uri)


@pytest.fixture
def settings(proxy: RecordingProxy, tmp_path: Path) -> Settings:
    return Settings(tracking_uri=proxy.uri, journal=str(tmp_path / "journal"), patience=20.0)


@pytest.fixture
def recorder(settings: Settings) -> Iterator[Recorder]:
    backend = open_backend(settings)
    assert backend
    made = Recorder(backend, settings)
    yield made
    made.close()


@pytest.fixture
def run(recorder: Recorder) -> str:
    return recorder.begin(opening_of(f"parts-{uuid.uuid4().hex[:12]}"), wait=20).ref.run_id


def delivered(recorder: Recorder, run: str, seconds: float = 60.0) -> Run:
    """The run, once everything is delivered, held things too."""
    deadline = time.monotonic() + seconds
    while not recorder.flush(5) or recorder.away or recorder.held:
        assert time.monotonic() < deadline, f"not delivered: away={recorder.away} {recorder.error} {recorder.held}"
        time.sleep(0.05)
    return recorder.backend.store.get_run(recorder.resolve(run) or "")


def refused(recorder: Recorder) -> list[tuple[str, str | None]]:
    """Kind and key of what is kept as refused."""
    path = recorder._journal.path
    assert path
    return sorted((item.kind, item.key) for item in refusals(path))


def limited(handler: Any, limit: int) -> Answer:
    """What a proxy does that takes no large request."""
    if len(handler.body) > limit:
        return Answer(413, b"<html>Request Entity Too Large</html>", {"Content-Type": "text/html"})
    answer: Answer = handler.forwarded()
    return answer


def dataset(name: str, schema: int = 0) -> Dataset:
    return Dataset(name=name, digest="1", source_type="uri", source="{}", schema='"' * schema)


def test_an_input_that_is_refused_holds_up_neither_the_others_nor_the_end(
    recorder: Recorder, proxy: RecordingProxy, run: str
) -> None:
    proxy.fault(lambda handler: limited(handler, 100_000), "runs/log-inputs", 10_000)
    recorder.append(Log(run, params={"lr": "0.1"}))
    for name, schema in (("a", 10), ("huge", 100_000), ("b", 10)):
        recorder.append(Inputs(run, (dataset(name, schema),)))
    recorder.append(Log(run, params={"after": "1"}))
    recorder.append(End(run, "FINISHED", ENDED))
    found = delivered(recorder, run)
    assert (found.status, found.params) == ("FINISHED", {"lr": "0.1", "after": "1"})
    assert sorted(item.name for item in found.datasets) == ["a", "b"]
    assert found.tags["tracklayer.refused"].startswith("1: input huge: ")
    assert refused(recorder) == [("input", "huge")]


def test_inputs_that_each_fit_into_a_request_are_not_sent_in_one_that_is_too_large(
    recorder: Recorder, proxy: RecordingProxy, run: str
) -> None:
    proxy.fault(lambda handler: limited(handler, 1_000_000), "runs/log-inputs", 10_000)
    for number in range(5):
        recorder.append(Inputs(run, (dataset(f"d{number}", 200_000),)))
    recorder.append(End(run, "FINISHED", ENDED))
    found = delivered(recorder, run)
    assert (found.status, len(found.datasets)) == ("FINISHED", 5)
    assert {request.status for request in proxy.of("runs/log-inputs")} == {200}
