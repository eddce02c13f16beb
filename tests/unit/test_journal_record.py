"""How operations stand in a journal, and what is still read of one that is torn or damaged."""

from __future__ import annotations

import math
import random
import zlib
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import get_args

import numpy as np
import pytest

from tracklayer.context import RunContext, RunRef, TaskRun, Token, Upstream, WorkflowRun
from tracklayer.journal.operations import (
    Artifact,
    Begin,
    ChangeModel,
    Close,
    Consumed,
    Create,
    CreateModel,
    DeleteTag,
    End,
    GivenOut,
    Gone,
    Header,
    Inputs,
    LeftOpen,
    Linked,
    Log,
    Lost,
    Named,
    NamedModel,
    NewExperiment,
    Operation,
    Outputs,
    Point,
    Register,
    Rename,
)
from tracklayer.journal.record import HEAD, Damage, Record, find, pack, scan, unpack
from tracklayer.opening import Opening
from tracklayer.store import Dataset

NOON = 1_795_262_400_000
CONTEXT = RunContext(
    workflow_run=WorkflowRun(
        orchestrator="airflow", workflow="flights", run_id="r1", logical_date=datetime(2026, 11, 21, 12, tzinfo=UTC)
    ),
    task_run=TaskRun(task="train", index="3"),
    tokens=(Token(run=RunRef(run_id="a" * 32, experiment_id="1")),),
)
PARENT = Opening(context=CONTEXT.of_workflow_run(), key="p", experiment="e", home="e", name="r1", start_time=NOON)
OPENING = Opening(
    context=CONTEXT,
    key="airflow:default/flights/r1/train#1",
    experiment="flights",
    home="flights",
    name="train",
    start_time=NOON,
    experiment_tags={"team": "risk"},
    upstream=(Upstream(run=RunRef(run_id="b" * 32, experiment_id="2"), kind="data", dataset="s3://x"),),
    artifacts={"long.txt": b"\x00\xff"},
    parent=PARENT,
)
EVERY: tuple[Operation, ...] = (
    Header(1, "https://mlflow.example.com", "host", 7, NOON, {"attempts": "new"}),
    Begin("a", OPENING),
    Create("b", "1", None, NOON, {"k": "v"}, "a"),
    Named("a", "c" * 32, "1", "s3://a"),
    GivenOut("a"),
    Log("a", (Point("loss", 0.5, NOON, 3), Point("m", math.inf, NOON, 0, "m-1", "d", "x")), {"p": "1"}, {"t": "ü"}),
    DeleteTag("a", "t"),
    Inputs("a", (Dataset(name="d", digest="x", source_type="s3", source="{}"),), ("m-1",)),
    Outputs("a", (("m-1", 2),)),
    Consumed("a", "s3://x", None, NOON),
    Artifact("a", "plots/roc.png", "f" * 32),
    Linked("a", "note"),
    Linked("a", "", "what a user wrote"),
    Rename("a", "new"),
    End("a", "FINISHED", NOON),
    End("a", "RUNNING", None),
    LeftOpen("a"),
    Close(CONTEXT, "FAILED", NOON, RunRef(run_id="p", experiment_id="1"), "ValueError: no"),
    Lost(CONTEXT, NOON),
    NewExperiment("flights"),
    CreateModel("m-2", "1", "model", "a", {}, {"lr": "0.1"}, "sklearn"),
    NamedModel("m-2", "m-3", "s3://m"),
    ChangeModel("m-2", status="READY"),
    Register("m-2", "flights"),
    Gone(0),
)


def journal(operations: tuple[Operation, ...] = EVERY, position: int = 0) -> tuple[bytes, list[Record]]:
    """The frames of these operations, and the records that should be read from them."""
    data, records = b"", []
    for number, operation in enumerate(operations):
        frame = pack(operation, NOON + number)
        start = position + len(data)
        records.append(Record(start, start + len(frame), NOON + number, operation))
        data += frame
    return data, records


class TestPacking:
    @pytest.mark.parametrize("operation", EVERY, ids=lambda operation: type(operation).__name__)
    def test_every_operation_comes_back_as_it_was(self, operation: Operation) -> None:
        frame = pack(operation, NOON)
        assert list(unpack(frame, 100)) == [Record(100, 100 + len(frame), NOON, operation)]

    def test_there_is_none_that_is_not_tried_here(self) -> None:
        assert {type(operation) for operation in EVERY} == set(get_args(Operation))

    def test_the_frame_is_the_documented_one(self) -> None:
        frame = pack(GivenOut("a"), NOON)
        payload = b"\x92\xa5given\xa1a"
        time = NOON.to_bytes(8, "little")
        assert frame == len(payload).to_bytes(4, "little") + zlib.crc32(time + payload).to_bytes(4, "little") + (
            time + payload
        )

    def test_not_a_number_comes_back_as_such(self) -> None:
        [record] = unpack(pack(Log("a", (Point("loss", math.nan, NOON),)), NOON), 0)
        assert isinstance(record.operation, Log)
        assert math.isnan(record.operation.points[0].value)

    def test_read_only_mappings_come_back_as_dicts(self) -> None:
        run = WorkflowRun(orchestrator="script", workflow="w", run_id="r", tags=MappingProxyType({"team": "risk"}))
        [record] = unpack(pack(Close(RunContext(workflow_run=run), "FINISHED", NOON), NOON), 0)
        assert isinstance(record.operation, Close)
        assert record.operation.context.workflow_run.tags == {"team": "risk"}

    def test_of_a_value_of_an_unknown_type_only_the_type_is_told(self) -> None:
        class Connection:
            def __str__(self) -> str:
                return "postgres://me:secret@db"

        run = WorkflowRun(orchestrator="script", workflow="w", run_id="r", params={"db": Connection()})
        frame = pack(Close(RunContext(workflow_run=run), "FINISHED", NOON), NOON)
        [record] = unpack(frame, 0)
        assert isinstance(record.operation, Close)
        assert record.operation.context.workflow_run.params == {"db": "<Connection>"}
        assert b"secret" not in frame

    def test_text_with_half_a_surrogate_pair_is_kept_as_far_as_it_is_text(self) -> None:
        named = Log("a", params={"file": "caf\udce9"}, points=(Point("x\ud800", 1.0, NOON),))
        opening = Opening(context=CONTEXT, key="k", experiment=None, home="h", name="\udc80", start_time=NOON)
        first, second = unpack(pack(named, NOON) + pack(Begin("a", opening), NOON), 0)
        assert first.operation == Log("a", params={"file": "caf?"}, points=(Point("x?", 1.0, NOON),))
        assert isinstance(second.operation, Begin)
        assert second.operation.opening.name == "?"
        assert second.operation.opening.context == CONTEXT

    def test_a_number_that_is_too_big_is_refused_with_a_reason(self) -> None:
        with pytest.raises(ValueError, match="too big"):
            pack(Log("a", (Point("loss", 0.5, NOON, 2**70),)), NOON)


class TestTornTail:
    def test_cut_off_anywhere_everything_before_the_cut_is_read(self) -> None:
        data, records = journal()
        for cut in range(len(data) + 1):
            whole = [record for record in records if record.next <= cut]
            assert list(unpack(data[:cut], 0)) == whole
            *read, last = [*scan(data[:cut], 0, last=True), None]
            at_a_border = cut == (whole[-1].next if whole else 0)
            if at_a_border:
                assert read == whole
                continue
            damage = read.pop()
            assert read == whole
            assert isinstance(damage, Damage)
            assert damage.torn
            assert (damage.position, damage.next) == (whole[-1].next if whole else 0, cut)
            assert last is None

    def test_zeros_where_the_machine_lost_power_are_a_torn_tail(self) -> None:
        data, records = journal()
        *read, damage = scan(data + bytes(5000), 0, last=True)
        assert read == records
        assert isinstance(damage, Damage)
        assert damage.torn
        assert "zeros" in damage.why

    def test_the_same_is_damage_where_something_comes_after_it(self) -> None:
        data, _ = journal()
        *_, damage = scan(data[:-3], 0, last=False)
        assert isinstance(damage, Damage)
        assert not damage.torn


class TestDamage:
    def test_one_flipped_bit_costs_one_record_and_is_found_wherever_it_is(self) -> None:
        data, records = journal(position=1000)
        bits = random.Random(3).sample(range(len(data) * 8), 1500)
        for bit in bits:
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            found = list(scan(bytes(damaged), 1000, last=True))
            hit = next(record for record in records if record.position <= 1000 + bit // 8 < record.next)
            damages = [item for item in found if isinstance(item, Damage)]
            assert [item for item in found if isinstance(item, Record)] == [item for item in records if item != hit]
            assert [(item.position, item.next) for item in damages] == [(hit.position, hit.next)]
            assert all(item.why for item in damages)
            # Only the length of the very last record cannot be told from one that was cut off.
            assert not damages[0].torn or (hit == records[-1] and bit // 8 + 1000 - hit.position < 4)

    def test_reading_stops_before_it(self) -> None:
        data, records = journal()
        damaged = bytearray(data)
        damaged[records[4].position + HEAD] ^= 1
        assert list(unpack(bytes(damaged), 0)) == records[:4]

    def test_an_operation_of_a_later_version_is_named_and_passed_over(self) -> None:
        data, records = journal()
        later = pack(["later", 1, 2], NOON)
        found = list(scan(later + data, 0, last=True))
        assert isinstance(found[0], Damage)
        assert "this version cannot read it" in found[0].why
        assert not found[0].torn
        assert len(found) == 1 + len(records)

    def test_what_looks_like_a_frame_inside_a_value_is_none(self) -> None:
        inner = pack(GivenOut("forged"), NOON).decode("latin-1")
        data, records = journal((Log("a", params={"x": inner, "y": "\x92\xa5given\xa1a" * 50}), GivenOut("a")))
        damaged = bytearray(data)
        damaged[5] ^= 1
        assert find(bytes(damaged), 0) == records[1].position

    def test_noise_is_no_journal(self) -> None:
        noise = random.Random(5).randbytes(50_000)
        assert not list(unpack(noise, 0))
        assert [type(item) for item in scan(noise, 0, last=True)] == [Damage]
        assert not list(unpack(b"", 0))


class OwnDate(datetime):
    """A date as orchestrators have them: Prefect's and Airflow's are derived from Python's."""


class Kind(StrEnum):
    MANUAL = "manual"


def test_types_derived_from_plain_ones_are_read_back_as_those() -> None:
    begun = OwnDate(2026, 11, 21, 6, 3, tzinfo=UTC)
    context = RunContext(
        workflow_run=WorkflowRun(orchestrator="test", workflow=Kind.MANUAL, run_id="r1", params={}, started_at=begun)
    )
    operation = Close(context=context, status="FINISHED", ended_at=np.int64(7))  # type: ignore[arg-type]
    (record,) = unpack(pack(operation, 1), 0)
    assert record.operation == operation
    assert isinstance(record.operation, Close)
    assert type(record.operation.context.workflow_run.started_at) is datetime
