"""What is delivered goes out of the middle of a journal while something before it waits, and nothing else does."""

from __future__ import annotations

import contextlib
import itertools
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.journal import MIB, NOON, everything, header, point, steps
from tracklayer.exceptions import StoreUnavailable
from tracklayer.journal import thinning
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inspection import inspect
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, DeleteTag, End, GivenOut, Gone, Log, Point, Rename
from tracklayer.journal.record import Damage, Record, pack, scan, unpack
from tracklayer.journal.segments import FileSegment, load, read
from tracklayer.provisional import provisional_id
from tracklayer.settings import Settings
from tracklayer.store import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tracklayer.journal.operations import Operation
    from tracklayer.store import Metric

LIMIT = 2 * MIB
WAITING = frozenset({"w", "files:w"})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[LiveJournal]:
    made = LiveJournal(JournalFolder(tmp_path / "journals"), header(), limit=LIMIT)
    yield made
    made.close(remove=True)


def place(journal: LiveJournal) -> Path:
    assert journal.path is not None
    return journal.path


def taken(journal: LiveJournal) -> int:
    """Bytes that the segments really take."""
    return sum(path.stat().st_blocks * 512 for path in place(journal).glob("*.seg"))


def fill(journal: LiveJournal, part: float) -> int:
    """Log points until the journal is filled to that part of its bound, one in 500 of the run that waits."""
    step = 0
    while taken(journal) < part * LIMIT:
        for _ in range(500):
            journal.append(point(step, "a"))
            step += 1
        journal.append(point(step, "w"))
    return step


def of(run: str, operations: list[Operation]) -> list[Operation]:
    return [item for item in operations if getattr(item, "run", None) == run]


def test_what_waits_is_kept_and_the_room_of_the_others_is_given_back(journal: LiveJournal) -> None:
    fill(journal, 0.6)
    before, whole, end = taken(journal), everything(journal), journal.end
    records = {record.position: record for record in read(load(place(journal)), 0, end, LIMIT)}
    journal.thin(end, WAITING)
    assert taken(journal) < before / 4
    assert of("w", everything(journal)) == of("w", whole)
    assert len(of("a", everything(journal))) < len(of("a", whole)) / 10  # but for what would give no block back
    assert journal.end >= end
    position = 0
    while found := journal.read(position):
        for record in found:
            assert isinstance(record.operation, Gone) or records.get(record.position, record) == record
        position = found[-1].next
    journal.append(End("a", "FINISHED", NOON))
    assert everything(journal)[-1] == End("a", "FINISHED", NOON)


def test_with_it_a_journal_takes_any_number_of_points(journal: LiveJournal) -> None:
    step = 0
    while journal.end < 5 * LIMIT:
        for _ in range(2_000):
            journal.append(point(step, "a"))
            step += 1
        journal.append(point(step, "w"))
        journal.thin(journal.end, WAITING)
    assert journal.unkept == {}
    assert taken(journal) < LIMIT
    assert len(of("w", everything(journal))) == step // 2_000


def test_below_half_of_the_bound_nothing_is_done(journal: LiveJournal) -> None:
    fill(journal, 0.4)
    before = everything(journal)
    journal.thin(journal.end, WAITING)
    assert everything(journal) == before


def test_only_points_and_artifacts_go_and_only_before_the_position(journal: LiveJournal) -> None:
    kept: list[Operation] = [
        GivenOut("a"),
        Log("a", params={"p": "1"}),
        Log("a", (Point("m", 1.0, NOON),), tags={"t": "1"}),
        DeleteTag("a", "t"),
        End("a", "FINISHED", NOON),
    ]
    for operation in kept:
        journal.append(operation)
    last = fill(journal, 0.6)
    middle = journal.read(0)[-1].next  # one window
    journal.thin(middle, WAITING)
    found = of("a", everything(journal))
    assert [item for item in everything(journal) if item in kept] == kept
    points = [item for item in found if item not in kept]
    assert steps(points) == list(range(last - len(points), last))
    assert 0 < len(points) < last


def test_copies_of_artifacts_go_with_their_records_and_those_that_wait_stay(journal: LiveJournal) -> None:
    names = {}
    for owner in ("a", "w", "m-1"):
        names[owner] = journal.keep(b"x" * (LIMIT // 5))
        journal.append(Artifact(owner, "model.bin", names[owner]))
    journal.append(point(0, "w"))
    journal.thin(journal.end, WAITING)
    assert [item for item in everything(journal) if isinstance(item, Artifact)] == [
        Artifact("w", "model.bin", names["w"])
    ]
    assert {path.name for path in (place(journal) / "files").iterdir()} == {names["w"]}
    for _ in range(3):  # there is room for more
        journal.append(Artifact("a", "other.bin", journal.keep(b"x" * (LIMIT // 5))))


def test_whoever_delivers_it_later_finds_it_sound(journal: LiveJournal, caplog: pytest.LogCaptureFixture) -> None:
    fill(journal, 0.6)
    journal.thin(journal.end, WAITING)
    fill(journal, 0.5)
    expected, path, end = everything(journal), place(journal), journal.end
    info = inspect(path)
    assert info is not None
    assert (info.damages, info.missing, info.end) == ((), (), end)
    assert info.records == sum(not isinstance(item, Gone) for item in expected)
    journal.close(remove=False)
    left = LeftJournal.take(path)
    assert left is not None
    assert everything(left) == expected
    assert left.end == end
    left.close(remove=True)
    assert caplog.records == []


class Elsewhere:
    """A server to which another machine delivers a run, sooner or later."""

    uri = "http://127.0.0.1:5000"

    def __init__(self) -> None:
        self.there = False
        self.steps: set[int] = set()
        self.names: list[str] = []

    def log_batch(self, run_id: str, *, metrics: Sequence[Metric] = (), params: Any = None, tags: Any = None) -> None:
        self.steps.update(metric.step for metric in metrics)

    def update_run(self, run_id: str, *, name: str) -> None:
        assert run_id == "there"
        self.names.append(name)

    def search_runs(self, *asked: Any, **more: Any) -> list[Run]:
        told: dict[str, Any] = {"status": "RUNNING", "start_time": 1, "end_time": None, "artifact_uri": "x"}
        return [Run(run_id="there", experiment_id="0", name="", **told)] if self.there else []


def test_a_journal_that_is_thinned_while_what_waited_is_delivered_is_not_taken_for_damaged(
    journal: LiveJournal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tracklayer.journal.holding.HELD", (0.0, 0.0))
    read_at_once = journal.read
    monkeypatch.setattr(journal, "read", lambda position: read_at_once(position, 20_000))  # windows end within segments
    store, waiting = Elsewhere(), provisional_id()
    delivery = Delivery(journal, cast("Any", SimpleNamespace(store=store)), Settings(), recovering=False)
    own, other = itertools.count(), itertools.count()

    def log(size: float) -> None:
        until = journal.end + size * LIMIT
        while journal.end < until:
            for _ in range(500):
                journal.append(point(next(own), "a"))
            journal.append(Rename(waiting, str(next(other))))

    log(0.45)
    while not delivery.held or delivery.unread:
        delivery.step()
    store.there = True
    before = delivery.delivered
    while delivery._retrying is None or delivery._retrying[1] <= before:  # a window of what waited is delivered
        delivery.step()
    log(0.15)  # meanwhile somebody goes on logging, until the journal is thinned
    while delivery.step() or delivery.delivered < journal.end:
        pass
    assert store.steps == set(range(next(own)))
    assert store.names == [str(number) for number in range(next(other))]
    assert caplog.records == []


def test_what_waits_once_more_costs_no_second_reading_of_all_that_is_behind_it(
    journal: LiveJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracklayer.journal.holding.HELD", (0.0, 0.0))
    reads: list[int] = []
    read_at_once = journal.read

    def read_few(position: int) -> list[Record]:
        reads.append(position)
        return read_at_once(position, 1_000)

    class Failing(Elsewhere):
        """It fails with each new name, and serves all others."""

        def update_run(self, run_id: str, *, name: str) -> None:
            raise StoreUnavailable("not that")

        def ping(self) -> None:
            pass

    monkeypatch.setattr(journal, "read", read_few)
    delivery = Delivery(journal, cast("Any", SimpleNamespace(store=Failing())), Settings(), recovering=False)
    journal.append(Rename("0" * 32, "new"))
    for step in range(1_000):
        journal.append(point(step))
    while delivery.unread or not delivery.held:
        with contextlib.suppress(StoreUnavailable):
            delivery.step()
    delivery.send()
    reads.clear()
    for _ in range(3):
        delivery.step()
    assert len(reads) == 3
    assert len(set(reads)) == 1, "it begins anew each time"
    assert list(delivery.held) == ["0" * 32]


@pytest.mark.parametrize("left", [False, True], ids=["its own process", "whoever delivers it later"])
def test_who_reads_on_from_the_middle_of_a_hole_is_told_of_no_damage(
    journal: LiveJournal, left: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A retry had come so far, a window at a time, when that was taken out; or the disk took no later position of `progress`."""
    fill(journal, 0.6)
    end, position = journal.end, journal.read(0, 30_000)[-1].next
    before = everything(journal, position)
    journal.thin(end, WAITING)
    reader: LiveJournal | LeftJournal = journal
    if left:
        journal.close(remove=False)
        taken_over = LeftJournal.take(place(journal))
        assert taken_over is not None
        reader = taken_over
    found = everything(reader, position)
    assert len(found) < len(before) / 10, "it was in a hole"
    assert of("w", found) == of("w", before)
    assert caplog.records == []
    if isinstance(reader, LeftJournal):
        reader.close(remove=True)


def test_of_what_is_damaged_behind_a_hole_somebody_is_told(
    journal: LiveJournal, caplog: pytest.LogCaptureFixture
) -> None:
    fill(journal, 0.6)
    end, position = journal.end, journal.read(0, 30_000)[-1].next
    journal.thin(end, WAITING)
    [behind, after, *_] = journal.read(position)
    segment = [segment for segment in load(place(journal)) if segment.start <= behind.position][-1]
    with segment.path.open("r+b") as file:
        file.seek(behind.position - segment.start + 20)
        file.write(b"\xff")
    assert journal.read(position)[0] == after
    assert f"{after.position - behind.position} bytes are passed over" in caplog.text


def test_a_thread_that_logs_meanwhile_loses_nothing(journal: LiveJournal) -> None:
    over, logged, of_others = threading.Event(), 0, 0

    def work() -> None:
        nonlocal logged
        while not over.wait(0.005):
            journal.append(point(logged, "v"))
            logged += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(8):
            of_others += fill(journal, 0.6)
            journal.thin(journal.end, WAITING | {"v"})
    finally:
        over.set()
        thread.join()
    assert len(of("a", everything(journal))) < of_others / 2
    assert steps(of("v", everything(journal))) == list(range(logged))


def test_a_disk_that_takes_no_thinner_file_changes_nothing(journal: LiveJournal) -> None:
    fill(journal, 0.6)
    before = everything(journal)
    for path in place(journal).glob("*.seg"):
        path.with_suffix(".new").mkdir()
    journal.thin(journal.end, WAITING)
    assert everything(journal) == before


def test_a_damaged_segment_is_left_as_it_is(journal: LiveJournal) -> None:
    fill(journal, 0.6)
    first = load(place(journal))[0].path
    with first.open("r+b") as file:
        file.seek(5_000)
        file.write(b"\xff" * 100)
    before = first.read_bytes()
    journal.thin(journal.end, WAITING)
    assert first.read_bytes() == before


class TestGone:
    def test_reading_goes_on_behind_it(self) -> None:
        gone, after = pack(Gone(500), NOON), pack(GivenOut("a"), NOON)
        data = gone.ljust(400, b"\xff") + after
        expected = [Record(100, 500, NOON, Gone(500)), Record(500, 500 + len(after), NOON, GivenOut("a"))]
        assert list(unpack(data, 100)) == expected
        assert list(scan(data, 100, last=True)) == expected

    @pytest.mark.parametrize("wrong", [0, 10**9])
    def test_one_that_leads_elsewhere_neither_hangs_nor_leaves_its_segment(self, wrong: int, tmp_path: Path) -> None:
        data = pack(header(), NOON) + pack(Gone(wrong), NOON) + pack(GivenOut("a"), NOON)
        segment = FileSegment.create(tmp_path, 0, data)
        segments, position, found = (segment,), 0, list[Record]()
        while records := read(segments, position, len(data), 1_000):
            found += records
            position = records[-1].next
        assert position == len(data)
        assert all(record.next <= len(data) for record in found)
        assert not any(isinstance(item, Damage) for item in scan(data, 0, last=True))
        segment.close()


def test_when_it_is_worth_it() -> None:
    rounds, room = thinning.Rounds(), 1_000
    assert not rounds.begin(499, room, WAITING)
    assert rounds.begin(500, room, WAITING)
    rounds.done(450)
    assert not rounds.begin(520, room, WAITING)
    assert rounds.begin(580, room, WAITING)


def test_it_is_worth_it_once_more_when_it_has_grown_or_less_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "_PAUSE", 0.0)
    rounds, room = thinning.Rounds(), 1_000
    assert rounds.begin(800, room, WAITING)
    rounds.done(790)
    assert not rounds.begin(900, room, WAITING)
    assert not rounds.begin(900, room, WAITING | {"v"})
    assert rounds.begin(915, room, WAITING)
    rounds.done(910)
    assert rounds.begin(910, room, frozenset({"w"}))
    monkeypatch.setattr(thinning, "_PAUSE", 60.0)
    assert rounds.begin(910, room, frozenset())
    assert not rounds.begin(910, room, frozenset())
    rounds.done(100)  # what waited is delivered
    assert rounds.begin(500, room, WAITING)
    rounds.done(499)
    assert not rounds.begin(600, room, frozenset())  # a moment ago
