"""A part of a run that the server does not take: everything else of the run arrives, its end included."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaving import opening_of
from harness.patience import patient
from harness.proxy import Answer
from tracklayer.backend import open_backend
from tracklayer.journal.operations import Artifact, Create, CreateModel, End, Inputs, Log, Outputs, Point, Rename
from tracklayer.journal.recorder import Recorder
from tracklayer.journal.refusals import refusals
from tracklayer.provisional import PENDING, provisional_id, provisional_model_id
from tracklayer.store import Dataset, Run

if TYPE_CHECKING:
    from harness.proxy import RecordingProxy

ENDED = 1_700_000_002_000


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes, for the server's sake, takes moments."""
    monkeypatch.setattr("tracklayer.journal.holding.HELD", (0.05, 0.1))
    monkeypatch.setattr("tracklayer.journal.sender.REST", (0.05, 0.1))
    monkeypatch.setattr("tracklayer.journal.isolation.APART", 0)
    monkeypatch.setattr("tracklayer.store.transport.DELAYS", (0.01,))


def refusing(handler: Any, part: bytes) -> Answer:
    """What the server answers, unless this is in what it is asked: then it takes it not."""
    if part in handler.body:
        return Answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such value"}')
    answer: Answer = handler.forwarded()
    return answer


def failing(handler: Any, part: bytes) -> Answer:
    """What a server does that fails with a value each time."""
    if part in handler.body:
        return Answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "boom"}')
    answer: Answer = handler.forwarded()
    return answer


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


@pytest.mark.parametrize("first", ["poison", "0.2"], ids=["not taken", "not what the run has"])
def test_of_two_values_of_a_param_the_first_that_the_run_takes_stands(
    recorder: Recorder, proxy: RecordingProxy, run: str, first: str
) -> None:
    proxy.fault(lambda handler: refusing(handler, b"poison"), "runs/", 10_000)
    if first == "0.2":
        recorder.append(Log(run, params={"lr": "0.1"}))
        assert recorder.flush(20)
    for value in (first, "0.1", "0.3"):
        recorder.append(Log(run, params={"lr": value}))
    assert delivered(recorder, run).params == {"lr": "0.1"}
    path = recorder._journal.path
    assert path
    assert [item.value for item in refusals(path)] == [first, "0.3"]


def test_a_model_that_is_refused_holds_up_no_other_part_of_its_run(
    recorder: Recorder, proxy: RecordingProxy, run: str, quick: None
) -> None:
    def refuse(handler: Any) -> Answer:
        if b"source_run_id" in handler.body:
            return Answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such model"}')
        answer: Answer = handler.forwarded()
        return answer

    proxy.fault(refuse, "logged-models", 10_000)
    model = provisional_model_id()
    recorder.create_model(CreateModel(model, PENDING, "m", run), wait=0)  # given out: nobody waits for it
    recorder.append(Log(run, params={"lr": "0.1"}, points=(Point("auc", 0.9, ENDED, 0, model),)))
    recorder.append(Outputs(run, ((model, 0),)))
    recorder.append(Inputs(run, (dataset("d"),), (model,)))
    recorder.append(Log(run, params={"after": "1"}))
    recorder.append(End(run, "FINISHED", ENDED))
    found = delivered(recorder, run)
    assert (found.status, found.params, found.metrics) == ("FINISHED", {"lr": "0.1", "after": "1"}, {"auc": 0.9})
    assert [item.name for item in found.datasets] == ["d"]
    assert refused(recorder) == [("input model", model), ("model", "m"), ("output model", model)]
    assert found.tags["tracklayer.refused"].startswith("3: ")


def test_a_value_that_the_server_fails_with_each_time_is_given_up_and_the_rest_arrives(
    recorder: Recorder, proxy: RecordingProxy, run: str, quick: None
) -> None:
    proxy.fault(lambda handler: failing(handler, b"poison"), "runs/", 10_000)
    points = tuple(Point("loss", step * 0.5, ENDED + step, step) for step in range(20))
    recorder.append(Log(run, params={"lr": "0.1", "bad": "poison"}, points=points, tags={"who": "me"}))
    recorder.append(Inputs(run, (dataset("poisoned"), dataset("fine"))))
    recorder.append(Rename(run, "poison"))
    recorder.append(Log(run, params={"after": "1"}))
    recorder.append(End(run, "FINISHED", ENDED))
    found = delivered(recorder, run)
    assert (found.status, found.params) == ("FINISHED", {"lr": "0.1", "after": "1"})
    assert (found.metrics["loss"], found.tags["who"]) == (9.5, "me")
    assert [item.name for item in found.datasets] == ["fine"]
    assert refused(recorder) == [("input", "poisoned"), ("name", "poison"), ("param", "bad")]
    assert found.tags["tracklayer.refused"].startswith("3: ")
    alone = [request.json for request in proxy.of("runs/log-batch") if b"poison" in request.body]
    assert len([body for body in alone if len(body.get("params", ())) == 1 and "metrics" not in body]) >= 10


def test_nothing_is_given_up_while_the_server_fails_with_all_of_a_run(
    recorder: Recorder, proxy: RecordingProxy, run: str, quick: None
) -> None:
    assert recorder.flush(20)
    proxy.forget()
    proxy.fault(lambda handler: failing(handler, run.encode()), "runs/log-batch", 10_000)
    recorder.append(Log(run, params={"lr": "0.1", "bad": "1"}))
    recorder.append(End(run, "FINISHED", ENDED))
    deadline = time.monotonic() + 30
    while len(proxy.of("runs/log-batch")) < 60:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert recorder.refused == 0
    first = proxy.calls.index("POST experiments/search")  # whether the server serves others is asked after three tries
    assert proxy.calls[:first].count("POST runs/log-batch") == 6  # of two requests each
    proxy.forget()
    found = delivered(recorder, run)
    assert (found.status, found.params, recorder.refused) == ("FINISHED", {"lr": "0.1", "bad": "1"}, 0)


def test_an_artifact_that_is_refused_is_told_on_the_run_once_it_can_be(
    recorder: Recorder, proxy: RecordingProxy, run: str
) -> None:
    proxy.answer(413, b"too large", path="/api/2.0/mlflow-artifacts", times=1)
    proxy.answer(503, b"", path="runs/log-batch", times=2)
    recorder.append(Artifact(run, "a.txt", recorder.keep(b"hello")))
    assert delivered(recorder, run).run_id
    recorder.append(End(run, "FINISHED", ENDED))
    found = delivered(recorder, run)
    assert found.tags["tracklayer.refused"].startswith("1: artifact a.txt: ")


def test_an_artifact_whose_copy_is_gone_is_refused_where_there_is_no_folder(proxy: RecordingProxy) -> None:
    settings = patient(proxy.uri, journal="off")
    backend = open_backend(settings)
    assert backend
    recorder = Recorder(backend, settings)
    run = recorder.begin(opening_of(f"parts-{uuid.uuid4().hex[:12]}"), wait=20).ref.run_id
    recorder.append(Artifact(run, "a.txt", "0123456789abcdef"))
    recorder.append(Artifact(run, "b.txt", recorder.keep(b"hello")))
    recorder.append(End(run, "FINISHED", ENDED))
    found = delivered(recorder, run)
    assert found.tags["tracklayer.refused"].startswith("1: artifact a.txt: its copy is gone")
    assert backend.store.read_artifact(found, "b.txt") == b"hello"
    assert recorder.close()


def test_a_run_that_came_to_be_without_its_tags_gets_them_after_all(
    recorder: Recorder, proxy: RecordingProxy, run: str, quick: None
) -> None:
    """One of them was refused, and the server was away when the others were to follow."""
    assert recorder.flush(20)
    proxy.answer(503, b"", path="runs/log-batch", times=2)
    proxy.fault(lambda handler: refusing(handler, b"poison"), "runs/", 10_000)
    tags = {"mlflow.parentRunId": run, "fold": "1", "bad": "poison"}
    below = recorder.create(Create(provisional_id(), PENDING, "fold", ENDED, tags, run), wait=0).run_id
    recorder.append(End(below, "FINISHED", ENDED))
    found = delivered(recorder, below)
    assert (found.status, found.tags.get("mlflow.parentRunId"), found.tags.get("fold")) == ("FINISHED", run, "1")
    assert refused(recorder) == [("tag", "bad")]
