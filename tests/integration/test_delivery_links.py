"""Links and parents that were made with ids that led nowhere yet lead to the same runs in the end."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest

from harness.leaving import BEGAN, opening_of
from harness.patience import TIMEOUT, patient
from harness.process import wait_for
from harness.proxy import Answer
from tracklayer.backend import open_backend
from tracklayer.context import RunRef, Upstream
from tracklayer.description import NOTE_TAG
from tracklayer.identity import upstream_tag
from tracklayer.journal.courier import WANTED_TAG
from tracklayer.journal.operations import Artifact, Consumed, End, Log, Point
from tracklayer.journal.recorder import UNKEPT_TAG, Recorder
from tracklayer.linking import link_tags, produced_tags
from tracklayer.provisional import EXPECTED_TAG, PENDING, id_tag, is_provisional, provisional_id
from tracklayer.store.opening import open_store
from tracklayer.store.transport import DELAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.opening import Opening
    from tracklayer.store import Run, Store


@dataclass
class Machine:
    """A machine with a journal folder and a way to the server of its own."""

    recorder: Recorder
    proxy: RecordingProxy


@pytest.fixture
def machine(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], tmp_path: Path
) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(**more: Any) -> Machine:
        proxy = proxy_before(mlflow_server.uri)
        journal = str(tmp_path / f"machine-{len(made)}")
        settings = patient(proxy.uri, journal=journal, **more)
        backend = open_backend(settings)
        assert backend
        made.append(Machine(Recorder(backend, settings), proxy))
        return made[-1]

    yield make
    for one in made:
        one.recorder.close()


@pytest.fixture
def store(mlflow_server: MlflowServer) -> Store:
    """Asks the server itself."""
    return open_store(mlflow_server.uri, connect_timeout=5, timeout=TIMEOUT)


@pytest.fixture
def name() -> str:
    return f"links-{uuid.uuid4().hex[:12]}"


def run_of(recorder: Recorder, local: str) -> Run:
    deadline = time.monotonic() + 60
    while (run_id := recorder.resolve(local)) is None or not recorder.flush(30):
        assert time.monotonic() < deadline, recorder.error
        time.sleep(0.05)
    return recorder.backend.store.get_run(run_id)


@contextmanager
def given_out(machine: Machine, opening: Opening) -> Iterator[RunRef]:
    """A stage that is begun and ended while the server cannot be reached from this machine, until the block ends."""
    with machine.proxy.refused():
        ref = machine.recorder.begin(opening, wait=10).ref
        assert is_provisional(ref.run_id)
        assert ref.experiment_id == PENDING
        machine.recorder.append(End(ref.run_id, "FINISHED", BEGAN + 1_000))
        yield ref


def test_a_link_to_a_run_that_comes_first_leads_to_it(machine: Callable[[], Machine], name: str) -> None:
    one, other = machine(), machine()
    with given_out(one, opening_of(name, "prepare")) as producer:
        pass
    made = run_of(one.recorder, producer.run_id)
    opening = opening_of(name, "train", upstream=(Upstream(run=producer, kind="token"),))
    consumer = run_of(other.recorder, other.recorder.begin(opening, wait=20).ref.run_id)
    assert upstream_tag(made.run_id) in consumer.tags
    assert upstream_tag(producer.run_id) not in consumer.tags


def test_a_link_to_a_run_that_comes_later_leads_to_it_then(machine: Callable[[], Machine], name: str) -> None:
    one, other = machine(), machine()
    with given_out(one, opening_of(name, "prepare")) as producer:
        opening = opening_of(name, "train", upstream=(Upstream(run=producer, kind="token"),))
        linked = other.recorder.begin(opening, wait=20).ref.run_id
        late = other.recorder.begin(opening_of(name, "evaluate"), wait=20).ref.run_id
        other.recorder.append(Log(late, tags=link_tags([Upstream(run=producer, kind="data")])))
        for local in (linked, late):
            assert upstream_tag(producer.run_id) in run_of(other.recorder, local).tags
    made = run_of(one.recorder, producer.run_id)
    for local in (linked, late):
        consumer = other.recorder.backend.store.get_run(local)
        assert upstream_tag(made.run_id) in consumer.tags
        assert upstream_tag(producer.run_id) not in consumer.tags
        assert producer.run_id not in consumer.tags.get(NOTE_TAG, "")


@dataclass
class Expected:
    """A run that another one, which is there, expects by an id that was derived.

    Attributes:
        opening: with which it is begun.
        tag: of the other one, until they are linked.
        consumer: id of the other one.
    """

    opening: Opening
    tag: str
    consumer: str


@pytest.fixture
def expected(store: Store, name: str) -> Expected:
    identifier, opening = provisional_id(), opening_of(name, "prepare")
    tag = EXPECTED_TAG + identifier
    consumer = store.create_run("0", name="consumer", start_time=BEGAN, tags={tag: "hand-over"}).run_id
    return Expected(replace(opening, tags={**opening.tags, id_tag(identifier): "1"}), tag, consumer)


class Gone:
    """What a proxy does with the searches for a tag: the server is away for the first of them, repeats included."""

    def __init__(self, tag: str) -> None:
        self._tag = tag.encode()
        self._left = 1 + len(DELAYS)

    def __call__(self, handler: Any) -> Answer:
        if self._tag in handler.body and self._left:
            self._left -= 1
            return Answer(503, b"")
        answer: Answer = handler.forwarded()
        return answer


class Denied:
    """What a proxy does with requests that change a run: whoever asks may read it, and no more."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id.encode()

    def __call__(self, handler: Any) -> Answer:
        if self._run_id in handler.body:
            return Answer(403, b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}')
        answer: Answer = handler.forwarded()
        return answer

    def between(self, proxy: RecordingProxy) -> None:
        for path in ("runs/log-batch", "runs/set-tag", "runs/delete-tag", "runs/update"):
            proxy.fault(self, path, 1_000)


@pytest.mark.parametrize("left", [False, True], ids=["delivered here", "left behind"])
def test_a_run_is_delivered_although_nobody_may_write_to_the_run_that_was_linked_to_it(
    machine: Callable[[], Machine], name: str, caplog: pytest.LogCaptureFixture, *, left: bool
) -> None:
    """The run that it feeds is another team's, who has given the right to read it alone."""
    one, other = machine(), machine()
    recorder = one.recorder
    with given_out(one, opening_of(name, "prepare")) as producer:
        opening = opening_of(name, "train", upstream=(Upstream(run=producer, kind="token"),))
        consumer = run_of(other.recorder, other.recorder.begin(opening, wait=20).ref.run_id)
        Denied(consumer.run_id).between(one.proxy)
        recorder.append(Log(producer.run_id, (Point("rows", 7.0, BEGAN),), params={"source": "s3"}))
        if left:
            assert not recorder.close()
    if left:
        recorder = Recorder(recorder.backend, recorder.settings)
        recorder.backend.store.try_again()
        recorder.look_around()
    store = other.recorder.backend.store

    def delivered() -> Run | None:
        found = store.search_runs([], f"tags.`{id_tag(producer.run_id)}` != ''", limit=1)
        return found[0] if found and found[0].status != "RUNNING" and found[0].params else None

    wait_for(lambda: delivered() is not None, 60, "the producer, its end and what was logged after that")
    recorder.close()
    made = delivered()
    assert made
    assert (made.status, made.metrics, made.params) == ("FINISHED", {"rows": 7.0}, {"source": "s3"})
    assert recorder.held == {}
    told = [record for record in caplog.records if "was not brought up to date" in record.message]
    assert len([record for record in told if consumer.run_id in record.message]) == 1
    assert upstream_tag(producer.run_id) in store.get_run(consumer.run_id).tags  # `tracklayer reconcile` rights it


def test_a_run_ends_and_is_done_with_although_nobody_may_write_to_the_run_that_expected_it(
    machine: Callable[[], Machine], store: Store, expected: Expected
) -> None:
    one = machine()
    Denied(expected.consumer).between(one.proxy)
    with given_out(one, expected.opening) as producer:
        one.recorder.append(Artifact(producer.run_id, "after.txt", one.recorder.keep(b"the end")))
    made = run_of(one.recorder, producer.run_id)
    assert (made.status, one.recorder.held) == ("FINISHED", {})
    assert store.read_artifact(made, "after.txt") == b"the end"
    assert one.recorder.close()


def test_a_link_that_nobody_may_look_at_again_is_let_go_of(
    machine: Callable[[], Machine], store: Store, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The right to write is taken away after the link was written, and before it is seen where it leads by then."""
    one = machine()
    run = one.recorder.backend.store.get_run(one.recorder.begin(opening_of(name), wait=20).ref.run_id)
    assert one.recorder.flush(20)
    identifier = provisional_id()

    def create_meanwhile(handler: Any) -> Answer:
        store.create_run(run.experiment_id, name="late", start_time=BEGAN, tags={id_tag(identifier): "1"})
        answer: Answer = handler.forwarded()
        Denied(run.run_id).between(one.proxy)
        return answer

    one.proxy.fault(create_meanwhile, "runs/log-batch")
    one.recorder.append(Log(run.run_id, tags={upstream_tag(identifier): "token"}))
    assert one.recorder.flush(20)
    next_run = one.recorder.begin(opening_of(name, "evaluate"), wait=20).ref.run_id
    one.recorder.append(End(next_run, "FINISHED", BEGAN + 1_000))
    assert one.recorder.flush(20)
    assert not one.recorder.away
    assert one.recorder.close()
    assert "the tracking server is away" not in caplog.text
    assert (store.get_run(next_run).status, f"of run {run.run_id} to {identifier}" in caplog.text) == (
        "FINISHED",
        True,
    )


def test_a_link_waits_while_the_credentials_are_refused_altogether(machine: Callable[[], Machine], name: str) -> None:
    one, other = machine(), machine()
    with given_out(one, opening_of(name, "prepare")) as producer:
        opening = opening_of(name, "train", upstream=(Upstream(run=producer, kind="token"),))
        consumer = run_of(other.recorder, other.recorder.begin(opening, wait=20).ref.run_id)
        revoked: list[str] = []

        def revoke(handler: Any) -> Answer:
            """From the first attempt to right the link on nothing is let in, for five requests."""
            if revoked or consumer.run_id.encode() in handler.body:
                revoked.append(handler.path)
                if len(revoked) <= 5:
                    return Answer(401, b"{}")
            answer: Answer = handler.forwarded()
            return answer

        one.proxy.fault(revoke, "", 10_000)
    made = run_of(one.recorder, producer.run_id)
    assert len(revoked) > 5
    wait_for(
        lambda: upstream_tag(made.run_id) in other.recorder.backend.store.get_run(consumer.run_id).tags, 60, "the link"
    )


def test_a_link_to_a_run_that_comes_while_it_is_written_leads_to_it_although_the_server_goes_away(
    machine: Callable[[], Machine], store: Store, name: str
) -> None:
    one = machine()
    run = one.recorder.backend.store.get_run(one.recorder.begin(opening_of(name), wait=20).ref.run_id)
    assert one.recorder.flush(20)
    identifier = provisional_id()
    ids: list[str] = []

    def create_meanwhile(handler: Any) -> Answer:
        tags = {id_tag(identifier): "1"}
        ids.append(store.create_run(run.experiment_id, name="late", start_time=BEGAN, tags=tags).run_id)
        one.proxy.fault(Gone(identifier), "runs/search", 1_000)
        answer: Answer = handler.forwarded()
        return answer

    one.proxy.fault(create_meanwhile, "runs/log-batch")
    one.recorder.append(Log(run.run_id, tags={upstream_tag(identifier): "token"}))
    one.recorder.append(End(run.run_id, "FINISHED", BEGAN + 1_000))

    def links() -> set[str]:
        return store.get_run(run.run_id).tags.keys() & {upstream_tag(identifier), *map(upstream_tag, ids)}

    wait_for(lambda: bool(ids) and links() == {upstream_tag(ids[0])}, 30, "the link")


def test_whoever_expected_a_run_is_linked_to_it_although_the_server_goes_away_at_its_end(
    machine: Callable[[], Machine], store: Store, expected: Expected
) -> None:
    one = machine()
    one.proxy.fault(Gone(expected.tag), "runs/search", 1_000)
    with given_out(one, expected.opening) as producer:
        pass
    made = run_of(one.recorder, producer.run_id)
    linked = store.get_run(expected.consumer).tags
    assert (made.status, upstream_tag(made.run_id) in linked, expected.tag in linked) == ("FINISHED", True, False)


def test_whoever_expected_a_run_is_linked_to_it_although_another_process_delivers_its_end(
    machine: Callable[[], Machine], store: Store, expected: Expected
) -> None:
    one = machine()
    with one.proxy.refused():
        producer = one.recorder.begin(expected.opening, wait=10).ref
    made = run_of(one.recorder, producer.run_id)
    with one.proxy.refused():
        one.recorder.append(End(producer.run_id, "FINISHED", BEGAN + 1_000))
        assert not one.recorder.close()
    again = Recorder(one.recorder.backend, one.recorder.settings)
    again.look_around()
    wait_for(lambda: store.get_run(made.run_id).status == "FINISHED", 60, "the end")
    wait_for(lambda: expected.tag not in store.get_run(expected.consumer).tags, 60, "the link")
    assert upstream_tag(made.run_id) in store.get_run(expected.consumer).tags
    again.close()


def test_what_was_read_while_nobody_could_be_asked_is_linked_to_who_had_made_it_by_then(
    machine: Callable[[], Machine], name: str
) -> None:
    recorder = machine().recorder
    uri, now = f"s3://bucket/{name}", time.time_ns() // 1_000_000
    runs = {}
    for task, at in (("early", now - 10_000), ("late", now + 10_000)):
        local = recorder.begin(opening_of(name, task), wait=20).ref.run_id
        tags = {key: json.dumps({**json.loads(text), "at": at}) for key, text in produced_tags(uri, "1").items()}
        recorder.append(Log(local, tags=tags))
        runs[task] = run_of(recorder, local).run_id
    consumer = recorder.begin(opening_of(name, "train"), wait=20).ref.run_id
    recorder.append(Consumed(consumer, uri, None, now))
    recorder.append(Consumed(consumer, f"{uri}/nobody", "7", now))
    run = run_of(recorder, consumer)
    assert upstream_tag(runs["early"]) in run.tags
    assert upstream_tag(runs["late"]) not in run.tags
    assert {dataset.digest for dataset in run.datasets} == {"1", "7"}
    (wanted,) = [json.loads(text) for key, text in run.tags.items() if key.startswith(WANTED_TAG)]
    assert wanted == {"uri": f"{uri}/nobody", "digest": "7", "at": now}


def test_what_is_logged_to_a_run_of_another_machine_waits_for_it_and_holds_up_nothing(
    machine: Callable[[], Machine], name: str
) -> None:
    one, other = machine(), machine()
    recorder = other.recorder
    with given_out(one, opening_of(name, "train")) as stage:
        recorder.append(Log(stage.run_id, params={"from": "elsewhere"}))
        own = recorder.begin(opening_of(name, "evaluate"), wait=20).ref.run_id
        recorder.append(End(own, "FINISHED", BEGAN + 1_000))
        assert recorder.flush(30)
        assert recorder.backend.store.get_run(own).status == "FINISHED"
        assert list(recorder.held) == [stage.run_id]
    made = run_of(one.recorder, stage.run_id)
    deadline = time.monotonic() + 60
    while recorder.held:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert recorder.backend.store.get_run(made.run_id).params == {"from": "elsewhere"}


@pytest.mark.parametrize("left", [False, True], ids=["delivered here", "left behind"])
def test_a_run_that_waits_takes_no_room_from_the_others(
    machine: Callable[..., Machine], name: str, *, left: bool
) -> None:
    one, other = machine(), machine(journal_limit=1_048_576)
    recorder, store = other.recorder, other.recorder.backend.store
    client = mlflow.MlflowClient(tracking_uri=other.proxy.target)
    with given_out(one, opening_of(name, "train")) as stage:
        recorder.append(Log(stage.run_id, (Point("waits", 1.0, BEGAN),)))
        own = recorder.begin(opening_of(name, "evaluate"), wait=20).ref.run_id
        for number in range(30):  # twice what the journal may take
            for begin in range(0, 1_000, 100):
                points = tuple(Point(f"m{number}", float(step), BEGAN, step) for step in range(begin, begin + 100))
                recorder.append(Log(own, points))
            recorder.append(Artifact(own, f"{number % 3}.bin", recorder.keep(bytes([number]) * 100_000)))
            assert recorder.flush(30)
        recorder.append(Log(stage.run_id, (Point("waits", 2.0, BEGAN, 1),)))
        recorder.append(End(own, "FINISHED", BEGAN + 1_000))
        assert recorder.flush(30)
        assert list(recorder.held) == [stage.run_id]
        if left:
            assert not recorder.close()
    made = run_of(one.recorder, stage.run_id)
    if left:
        recorder = Recorder(recorder.backend, recorder.settings)
        recorder.look_around()
    deadline = time.monotonic() + 60
    while recorder.held or len(client.get_metric_history(made.run_id, "waits")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run = store.get_run(own)
    assert (run.status, UNKEPT_TAG in run.tags) == ("FINISHED", False)
    assert {key: len(client.get_metric_history(own, key)) for key in run.metrics} == {f"m{n}": 1_000 for n in range(30)}
    assert [store.read_artifact(run, f"{n}.bin")[:1] for n in range(3)] == [bytes([27 + n]) for n in range(3)]
    assert recorder.refused == 0
    recorder.close()
    assert list((Path(recorder.settings.journal or "")).iterdir()) == []
