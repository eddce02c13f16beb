"""The journal of this process: what is appended can be read, bounded, shared between threads, and handed on."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from harness.journal import MIB, NOON, appended, everything, header, point
from tracklayer.journal.failures import JournalClosed, JournalFull
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal, open_journal
from tracklayer.journal.operations import Artifact, End, GivenOut, Header, Log, Named, Point
from tracklayer.journal.segments import FileSegment
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracklayer.journal.operations import Operation

HEADER = header()


def fill(journal: LiveJournal, operation: Operation) -> tuple[int, str]:
    """Append the same thing until it is refused: how often it was taken, and why no more."""
    for count in itertools.count():
        try:
            journal.append(operation)
        except JournalFull as error:
            return count, str(error)
    raise AssertionError


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return JournalFolder(tmp_path / "journals")


@pytest.fixture(params=["disk", "memory"])
def journal(request: pytest.FixtureRequest, folder: JournalFolder) -> Iterator[LiveJournal]:
    made = LiveJournal(folder if request.param == "disk" else None, HEADER, limit=MIB, memory=MIB)
    yield made
    made.close(remove=True)


class TestAppending:
    def test_what_was_appended_is_read_in_order(self, journal: LiveJournal) -> None:
        ends = [appended(journal, point(step)) for step in range(100)]
        records = [record for record in journal.read(0) if not isinstance(record.operation, Header)]
        assert [record.operation for record in records] == [point(step) for step in range(100)]
        assert [record.next for record in records] == ends
        assert journal.end == ends[-1]

    def test_reading_goes_on_where_it_ended_in_whatever_steps(self, journal: LiveJournal) -> None:
        for step in range(300):
            journal.append(point(step) if step % 50 else Log("a", params={"long": "x" * 20_000}))
        expected = everything(journal)
        assert len(expected) == 300
        for limit in (1, 100, 5_000):
            assert everything(journal, limit=limit) == expected
        middle = journal.read(0, 2_000)[-1]
        assert everything(journal, middle.next)[-1] == expected[-1]

    def test_a_record_that_is_bigger_than_what_is_read_at_once_is_read_whole(self, journal: LiveJournal) -> None:
        big = Log("a", params={"p": "x" * 300_000})
        journal.append(big)
        journal.append(GivenOut("a"))
        assert everything(journal, limit=10) == [big, GivenOut("a")]

    def test_eight_threads_lose_nothing_and_keep_their_own_order(self, journal: LiveJournal) -> None:
        def work(thread: int) -> None:
            for step in range(400):
                journal.append(point(step, f"run{thread}"))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        seen: list[Operation] = []
        position = 0
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or position < journal.end:
            for record in journal.read(position):
                position = record.next
                if not isinstance(record.operation, Header):
                    seen.append(record.operation)
        for number in range(8):
            assert [item for item in seen if getattr(item, "run", "") == f"run{number}"] == [
                point(step, f"run{number}") for step in range(400)
            ]
        assert len(seen) == 3200

    def test_a_signal_handler_that_logs_in_the_middle_of_an_append_neither_hangs_nor_loses(
        self, folder: JournalFolder
    ) -> None:
        journal = LiveJournal(folder, HEADER, limit=MIB)  # small segments: rotation is interrupted, too
        heard: list[int] = []
        numbers = itertools.count()

        def handler(*_: object) -> None:
            if (number := next(numbers)) < 2000:  # it may itself be interrupted by the next signal
                journal.append(point(number, "handler"))
                heard.append(number)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        try:
            for step in range(4000):
                journal.append(point(step))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        found = everything(journal)
        assert [item for item in found if getattr(item, "run", "") == "a"] == [point(step) for step in range(4000)]
        told = [item.points[0].step for item in found if isinstance(item, Log) and item.run == "handler"]
        assert sorted(told) == sorted(heard)
        assert heard
        journal.close(remove=True)

    @pytest.mark.parametrize("full", [False, True], ids=["write", "rotate"])
    def test_a_time_out_is_not_taken_for_a_disk_that_fails(
        self, folder: JournalFolder, full: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ring(*_: object) -> None:
            raise TimeoutError("too long")

        def struck(*_: object) -> None:
            signal.raise_signal(signal.SIGALRM)

        def log_much(journal: LiveJournal) -> None:
            for step in range(20_000):
                journal.append(point(step))

        journal = LiveJournal(folder, HEADER, limit=MIB)
        before = signal.signal(signal.SIGALRM, ring)
        try:
            monkeypatch.setattr(FileSegment, "create" if full else "write", struck)
            with pytest.raises(TimeoutError, match="too long"):
                log_much(journal)
        finally:
            monkeypatch.undo()
            signal.signal(signal.SIGALRM, before)
        journal.append(point(30_000))
        assert journal.trouble is None
        assert everything(journal)[-1] == point(30_000)
        journal.close(remove=True)

    def test_an_exception_from_a_signal_handler_leaves_a_journal_that_works(self, journal: LiveJournal) -> None:
        class Timeout(Exception):
            pass

        def handler(*_: object) -> None:
            raise Timeout

        before = signal.signal(signal.SIGALRM, handler)
        acknowledged = []
        step = 0
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            while step < 3000:
                try:
                    step += 1
                    journal.append(point(step))
                    acknowledged.append(step)
                except Timeout:
                    continue
        except Timeout:
            pass
        finally:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Timeout:
                signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        journal.append(GivenOut("last"))
        found = everything(journal)
        assert found[-1] == GivenOut("last")
        steps = [item.points[0].step for item in found if isinstance(item, Log)]
        assert set(acknowledged) <= set(steps)
        assert len(steps) == len(set(steps))

    @pytest.mark.parametrize("durable", [True, False])
    def test_segments_are_begun_anew_and_each_can_be_understood_alone(
        self, folder: JournalFolder, durable: bool
    ) -> None:
        journal = LiveJournal(folder, HEADER, limit=16 * 20_000, durable=durable)
        for step in range(1500):
            journal.append(point(step))
        assert journal.path is not None
        names = sorted(path.name for path in journal.path.glob("*.seg"))
        assert len(names) > 3
        for name in names:
            [first, *_] = journal.read(int(name.removesuffix(".seg")))
            assert first.operation == HEADER
        assert everything(journal) == [point(step) for step in range(1500)]
        journal.close(remove=True)


class TestBound:
    def test_metric_points_are_refused_first_and_counted(self, journal: LiveJournal) -> None:
        kept, reason = fill(journal, point(0))
        assert "1 metric points of the run a" in reason
        assert 0.8 * MIB < journal.end < 0.9 * MIB
        with pytest.raises(JournalFull):
            journal.append(Log("b", (Point("loss", 0.5, NOON), Point("loss", 0.4, NOON, 1))))
        assert journal.unkept == {"a": 1, "b": 2}
        journal.append(Log("a", params={"lr": "0.1"}, tags={"k": "v"}))
        assert len(everything(journal)) == kept + 1

    def test_of_an_operation_with_points_the_rest_is_kept(self, journal: LiveJournal) -> None:
        fill(journal, point(0))
        with pytest.raises(JournalFull):
            journal.append(Log("a", (Point("loss", 0.5, NOON),), {"lr": "0.1"}, {"k": "v"}))
        assert everything(journal)[-1] == Log("a", (), {"lr": "0.1"}, {"k": "v"})

    def test_at_the_end_only_what_keeps_a_run_from_staying_open_is_taken(self, journal: LiveJournal) -> None:
        _, reason = fill(journal, Log("a", params={"p": "x" * 5000}))
        assert "Log of the run a cannot be kept" in reason
        assert 0.98 * MIB < journal.end <= MIB
        for essential in (Named("a", "b", "1"), GivenOut("a"), End("a", "FINISHED", NOON)) * 100:
            journal.append(essential)
        assert everything(journal)[-1] == End("a", "FINISHED", NOON)

    def test_delivered_parts_make_room(self, journal: LiveJournal) -> None:
        fill(journal, point(0))
        journal.progress.advance(journal.end)
        for _ in range(1000):
            journal.append(point(1))
        if journal.path is not None:
            assert sum(path.stat().st_size for path in journal.path.glob("*.seg")) < 0.2 * MIB

    def test_what_is_left_can_be_read_after_the_parts_before_it_went(self, journal: LiveJournal) -> None:
        ends = [appended(journal, point(step)) for step in range(8000)]
        journal.progress.advance(ends[4999])
        assert everything(journal, ends[4999]) == [point(step) for step in range(5000, 8000)]
        assert journal.read(0)[0].position > 0

    def test_an_artifact_that_does_not_fit_is_refused_and_leaves_nothing(
        self, journal: LiveJournal, tmp_path: Path
    ) -> None:
        big = tmp_path / "big"
        big.write_bytes(b"x" * MIB)
        for source in (big, big.read_bytes()):
            with pytest.raises(JournalFull, match=f"{MIB} bytes"):
                journal.keep(source)
        journal.keep(b"x" * (MIB // 2))
        with pytest.raises(JournalFull):
            journal.keep(b"x" * (MIB // 2))
        fill(journal, point(0))
        assert journal.end < 0.5 * MIB


class TestCopies:
    def test_a_copy_is_what_the_file_was_when_it_was_kept(self, journal: LiveJournal, tmp_path: Path) -> None:
        source = tmp_path / "model.bin"
        content = random.Random(1).randbytes(300_000)
        source.write_bytes(content)
        name = journal.keep(source)
        source.write_bytes(b"changed")
        assert journal.file(name).read_bytes() == content
        assert journal.file(journal.keep(b"")).read_bytes() == b""

    def test_it_goes_when_its_record_is_delivered_and_not_before(self, journal: LiveJournal) -> None:
        first, second = journal.keep(b"1"), journal.keep(b"2")
        one = appended(journal, Artifact("a", "1.txt", first))
        two = appended(journal, Artifact("a", "2.txt", second))
        journal.progress.advance(one)
        with pytest.raises(OSError):
            journal.file(first).read_bytes()
        assert journal.file(second).read_bytes() == b"2"
        journal.progress.advance(two)
        with pytest.raises(OSError):
            journal.file(second).read_bytes()

    def test_a_source_that_cannot_be_read_is_the_callers_business(self, journal: LiveJournal, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            journal.keep(tmp_path / "nowhere")
        with pytest.raises(IsADirectoryError):
            journal.keep(tmp_path)
        journal.keep(b"x" * (MIB // 2))  # and costs no room

    def test_names_from_a_record_lead_nowhere_else(self, folder: JournalFolder) -> None:
        journal = LiveJournal(folder, HEADER, limit=MIB)
        with pytest.raises(FileNotFoundError):
            journal.file("../../../etc/passwd")
        journal.close(remove=True)


class TestEnd:
    def test_a_delivered_journal_leaves_nothing(self, folder: JournalFolder) -> None:
        journal = LiveJournal(folder, HEADER, limit=MIB)
        journal.append(Artifact("a", "x", journal.keep(b"x")))
        journal.progress.advance(journal.end)
        journal.close(remove=True)
        assert not list(folder.path.iterdir())

    def test_what_another_thread_adds_at_the_last_moment_is_left_and_not_removed(self, folder: JournalFolder) -> None:
        journal = LiveJournal(folder, HEADER, limit=MIB)
        end = appended(journal, GivenOut("a"))
        journal.progress.advance(end)
        journal.append(GivenOut("late"))
        journal.close(remove=True, end=end)
        [path] = folder.left()
        left = LeftJournal.take(path)
        assert left is not None
        assert everything(left, left.progress.delivered) == [GivenOut("late")]
        left.close(remove=True)

    def test_with_refused_values_only_these_are_kept(self, folder: JournalFolder) -> None:
        journal = LiveJournal(folder, HEADER, limit=MIB)
        for step in range(5000):
            journal.append(point(step))
        journal.keep(b"x")
        journal.progress.refuse("metric", "a", "loss", "x", "no number")
        journal.progress.advance(journal.end)
        journal.close(remove=True)
        [info] = folder.journals()
        assert (info.state, info.refused, info.left, info.files) == ("delivered", 1, 0, 0)
        assert info.header == HEADER
        assert info.size < 1000
        assert not folder.left()

    def test_a_closed_journal_takes_nothing(self, journal: LiveJournal) -> None:
        journal.close(remove=False)
        with pytest.raises(JournalClosed):
            journal.append(GivenOut("a"))
        with pytest.raises(JournalClosed):
            journal.keep(b"x")

    def test_what_is_left_is_read_by_whoever_takes_it(self, folder: JournalFolder) -> None:
        journal = LiveJournal(folder, HEADER, limit=MIB)
        ends = [appended(journal, point(step)) for step in range(3000)]
        copy = journal.keep(b"model")
        journal.append(Artifact("a", "model.bin", copy))
        journal.progress.advance(ends[999])
        journal.close(remove=False)
        [path] = folder.left(HEADER.tracking_uri)
        assert not folder.left("https://other.example.com")
        left = LeftJournal.take(path)
        assert left is not None
        assert LeftJournal.take(path) is None
        assert left.header == HEADER
        assert left.died_at == left.read(ends[-1])[-1].at
        assert left.progress.delivered == ends[999]
        found = everything(left, ends[999])
        assert found == [*(point(step) for step in range(1000, 3000)), Artifact("a", "model.bin", copy)]
        assert left.file(copy).read_bytes() == b"model"
        with pytest.raises(JournalClosed):
            left.append(GivenOut("a"))
        left.progress.advance(left.end)
        assert not left.file(copy).exists()
        left.close(remove=False)
        again = LeftJournal.take(path)
        assert again is not None
        again.close(remove=True)
        assert not folder.paths()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12, about forks beside threads
class TestFork:
    def test_a_child_neither_holds_nor_writes_the_journal_of_its_parent(self, folder: JournalFolder) -> None:
        journal = LiveJournal(folder, HEADER, limit=MIB)
        journal.append(GivenOut("parent"))
        assert journal.path is not None
        held = threading.Event()
        let_go = threading.Event()

        def hold() -> None:  # as a thread that is in the middle of an append while another one forks
            with journal._lock:
                held.set()
                let_go.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(60)
        to_child, go = os.pipe()
        told, from_child = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            code = 9
            try:
                os.close(go)
                for write in (lambda: journal.append(GivenOut("child")), lambda: journal.keep(b"x")):
                    try:
                        write()
                    except JournalClosed:
                        continue
                    os._exit(1)
                journal.progress.advance(10**6)
                journal.close(remove=True)
                own = LiveJournal(folder, HEADER, limit=MIB)
                own.append(GivenOut("child's own"))
                os.write(from_child, b"1")
                os.read(to_child, 1)
                code = 0
            finally:
                os._exit(code)
        os.close(to_child)
        let_go.set()
        thread.join()
        assert os.read(told, 1) == b"1"
        assert everything(journal) == [GivenOut("parent")]
        journal.append(End("a", "FINISHED", NOON))
        path = journal.path
        journal.close(remove=False)
        taken = LeftJournal.take(path)  # although the child lives
        assert taken is not None
        assert taken.progress.delivered == 0
        assert everything(taken) == [GivenOut("parent"), End("a", "FINISHED", NOON)]
        taken.close(remove=True)
        os.write(go, b"1")
        assert os.waitpid(child, 0)[1] == 0
        [left] = folder.left()
        assert left != path
        for descriptor in (go, told, from_child):
            os.close(descriptor)


def test_what_would_end_with_the_process_is_known(folder: JournalFolder) -> None:
    for made, expected in (
        (LiveJournal(folder, HEADER, limit=MIB), False),
        (LiveJournal(None, HEADER, limit=MIB), True),
    ):
        made.append(Artifact("a", "x", made.keep(b"x")))
        assert made.at_risk is expected
        made.progress.advance(made.end)
        assert not made.at_risk
        made.close(remove=True)


class TestSettings:
    def test_the_journal_is_where_the_settings_say(self, tmp_path: Path) -> None:
        journal = open_journal(Settings(journal=str(tmp_path / "here")), HEADER)
        assert journal.path is not None
        assert journal.path.parent == tmp_path / "here"
        journal.close(remove=True)

    def test_off_means_no_file_at_all(self, tmp_path: Path) -> None:
        journal = open_journal(Settings(journal="off"), HEADER)
        journal.append(GivenOut("a"))
        assert everything(journal) == [GivenOut("a")]
        assert journal.path is None
        journal.close(remove=False)
        assert not list(tmp_path.iterdir())
