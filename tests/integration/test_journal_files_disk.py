"""The journal's files when there is no room: a full disk loses nothing, a full journal says what it lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from harness.journal import MIB, NOON, appended, everything, header, point, steps
from harness.leaving import opening_of
from harness.process import wait_for
from harness.proxy import refused_port
from tracklayer.backend import open_backend
from tracklayer.journal.carrying import carried, fetched
from tracklayer.journal.failures import JournalFull
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inspection import inspect
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, End, GivenOut, Header, Log, Named, Point
from tracklayer.journal.recorder import Recorder
from tracklayer.provisional import provisional_id
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.journal.operations import Operation


def test_a_run_is_told_what_a_full_journal_did_not_take(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], tmp_path: Path
) -> None:
    proxy = proxy_before(mlflow_server.uri)
    settings = Settings(tracking_uri=proxy.uri, journal=str(tmp_path / "journal"), journal_limit=200_000, patience=20.0)
    backend = open_backend(settings)
    assert backend is not None
    recorder = Recorder(backend, settings)
    run_id = recorder.begin(opening_of("journal-full"), wait=30).ref.run_id
    with proxy.refused():
        recorder.flush(1)
        for step in range(5_000):
            recorder.append(Log(run_id, (Point("loss", 1.0, NOON, step),)))
        recorder.append(Log(run_id, params={"lr": "0.1"}))
        recorder.append(End(run_id, "FINISHED", NOON))
    wait_for(lambda: recorder.flush(60), 60, "the server's return to be noticed")
    run = backend.store.get_run(run_id)
    query = f"{mlflow_server.uri}/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=loss&max_results=25000"
    kept = len(json.loads(urllib3.request("GET", query).data)["metrics"])
    assert 1_000 < kept < 5_000
    assert run.tags["tracklayer.unkept"] == f"{5_000 - kept} values: the journal was full"
    assert run.params == {"lr": "0.1"}
    assert run.status == "FINISHED"
    assert recorder.close()


def beside_a_full_disk(uri: str, small_disk: Path) -> tuple[Recorder, str]:
    """A recorder that had no room on the disk for all that it took, and the id of its run; now there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    settings = Settings(tracking_uri=uri, journal=str(small_disk), patience=0.2)
    backend = open_backend(settings)
    assert backend is not None
    recorder = Recorder(backend, settings)
    run_id = recorder.begin(opening_of("disk-full"), wait=0).ref.run_id
    for step in range(1_500):
        recorder.append(Log(run_id, (Point("loss", 1.0, NOON, step),)))
    ballast.unlink()
    return recorder, run_id


def points_on(small_disk: Path) -> int:
    """How many records are in journals there: a point each, and what opens the run."""
    return sum(info.records for info in JournalFolder(small_disk).journals())


def test_what_is_in_memory_goes_to_the_disk_though_nothing_more_is_logged(small_disk: Path) -> None:
    with refused_port() as uri:
        recorder, _ = beside_a_full_disk(uri, small_disk)
        wait_for(lambda: points_on(small_disk) >= 1_500, 60, "what was in memory, on the disk")
        assert not recorder.close()


def test_what_is_in_memory_goes_to_the_disk_though_the_server_is_there_and_nothing_more_is_logged(
    mlflow_server: MlflowServer, small_disk: Path
) -> None:
    """What waits is for a run that somebody else has still to deliver; nobody appends, and no attempt fails."""
    settings = Settings(tracking_uri=mlflow_server.uri, journal=str(small_disk))
    backend = open_backend(settings)
    assert backend is not None
    recorder = Recorder(backend, settings)
    of_another = provisional_id()
    with full(small_disk, but=50_000):
        for step in range(1_500):
            recorder.append(Log(of_another, (Point("loss", 1.0, NOON, step),)))
        name = recorder.keep(bytes(60_000))
        recorder.append(Artifact(of_another, "model.bin", name))
        assert recorder.flush(60)  # settled: what is held is waited for by nobody
        assert of_another in recorder.held
        assert points_on(small_disk) < 1_500
    wait_for(lambda: points_on(small_disk) == 1_501, 15, "what was in memory, on the disk")
    assert not recorder.away
    [copy] = small_disk.glob("*/files/*")
    assert copy.read_bytes() == bytes(60_000)
    assert not recorder.close()


def test_what_is_in_memory_goes_to_the_disk_though_a_request_is_under_way_in_the_end(small_disk: Path) -> None:
    """The server takes the request and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        recorder, _ = beside_a_full_disk(f"http://127.0.0.1:{silent.getsockname()[1]}", small_disk)
        assert not recorder.close()
        assert points_on(small_disk) >= 1_500
    assert recorder._sender.stop(60)  # else it tells the next test that the server is gone


def test_what_is_in_memory_is_written_before_it_is_carried_away(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is under way: the journal stays here as well, for whoever comes if that request fails."""
    monkeypatch.setattr("tracklayer.journal.recorder.STOPPING", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        recorder, _ = beside_a_full_disk(f"http://127.0.0.1:{silent.getsockname()[1]}", small_disk)
        assert not recorder.close(carry=str(tmp_path / "bucket"))
        assert points_on(small_disk) >= 1_500
    assert recorder._sender.stop(60)
    [name] = carried(str(tmp_path / "bucket"))
    with fetched(str(tmp_path / "bucket"), name) as (folder, _):
        left = LeftJournal.take(folder)
        assert left is not None
        assert steps(everything(left)) == list(range(1_500))
        left.close(remove=False)


@contextlib.contextmanager
def full(small_disk: Path, *, but: int = 0) -> Iterator[None]:
    """While this is entered the disk has room for so many bytes, about, and no more."""
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(ballast.stat().st_size - but, 0))
    try:
        yield
    finally:
        ballast.unlink()


def as_killed(journal: LiveJournal, elsewhere: Path) -> LeftJournal:
    """What a process would leave that is killed now."""
    assert journal.path is not None
    left = LeftJournal.take(shutil.copytree(journal.path, elsewhere / journal.path.name))
    assert left is not None
    return left


class TestFullDisk:
    def test_what_the_disk_does_not_take_is_kept_in_memory_in_the_same_order(
        self, small_disk: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
        for step in range(10_000):
            journal.append(point(step))
        assert steps(everything(journal)) == list(range(10_000))
        [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert warning.startswith("the journal cannot be written ([Errno 28] No space left on device): what is logged")
        # What is on the disk is whole: another process could deliver it.
        assert journal.path is not None
        info = inspect(journal.path)
        assert info is not None
        assert not info.damages
        assert info.records > 2000
        journal.close(remove=True)

    def test_when_there_is_room_again_everything_goes_to_the_disk(self, small_disk: Path) -> None:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(150_000))
        folder = JournalFolder(small_disk)
        journal = LiveJournal(folder, header(), limit=64 * MIB)
        for step in range(1500):
            journal.append(point(step))
        assert journal.path is not None
        ballast.unlink()
        deadline = time.monotonic() + 30
        step = 1500
        while (info := inspect(journal.path)) is None or info.records < step:  # it looks once a second
            assert time.monotonic() < deadline
            journal.append(point(step))
            step += 1
            time.sleep(0.1)
        assert steps(everything(journal)) == list(range(step))
        path = journal.path
        journal.close(remove=False)
        left = LeftJournal.take(path)
        assert left is not None
        assert steps(everything(left)) == list(range(step))
        left.close(remove=True)

    def test_the_end_of_a_process_writes_what_is_in_memory_if_there_is_room_by_then(self, small_disk: Path) -> None:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
        for step in range(1500):
            journal.append(point(step))
        named = Named("a", "b" * 32, "1")
        journal.progress.name(named)
        path = journal.path
        assert path is not None
        ballast.unlink()
        journal.close(remove=False)
        left = LeftJournal.take(path)
        assert left is not None
        assert steps(everything(left)) == list(range(1500))
        assert dict(left.progress.names) == {named.id: named}
        left.close(remove=True)

    def test_no_room_for_even_a_folder_means_memory_and_a_folder_as_soon_as_there_is(self, small_disk: Path) -> None:
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(300_000))
        for number in range(10_000):  # and no inode either
            try:
                (small_disk / str(number)).touch()
            except OSError:
                break
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=MIB)
        journal.append(GivenOut("a"))
        assert journal.path is None
        journal.progress.advance(5)
        ballast.unlink()
        for path in small_disk.glob("[0-9]*"):
            path.unlink()
        journal.close(remove=False)
        [left] = JournalFolder(small_disk).left()
        taken = LeftJournal.take(left)
        assert taken is not None
        assert everything(taken) == [GivenOut("a")]
        assert taken.progress.delivered == 5
        taken.close(remove=True)

    def test_a_copy_that_does_not_fit_leaves_nothing_and_is_held_in_memory(self, small_disk: Path) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB, memory=8 * MIB)
        content = random.Random(1).randbytes(2 * MIB)
        source = small_disk.parent / "model.bin"
        source.write_bytes(content)
        name = journal.keep(source)
        journal.append(Artifact("a", "model.bin", name))
        assert journal.file(name).read_bytes() == content
        assert journal.path is not None
        assert not list((journal.path / "files").iterdir())
        with pytest.raises(JournalFull):
            journal.keep(bytes(7 * MIB))
        journal.progress.advance(journal.end)
        journal.keep(bytes(7 * MIB))  # the memory was given back
        journal.close(remove=True)

    def test_copies_in_memory_go_to_the_disk_and_can_be_read_meanwhile(self, small_disk: Path, tmp_path: Path) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
        content = random.Random(1).randbytes(100_000)
        with full(small_disk):
            name = journal.keep(content)
            for step in range(200):
                journal.append(point(step))
            journal.append(Artifact("a", "model.bin", name))
            assert (journal._files.held, journal._files.size) == (100_000, 0)
            journal.save()
            assert journal.look()
        assert journal.path is not None
        copy = journal.path / "files" / name
        with journal.file(name).open("rb") as reading:
            begun = reading.read(50_000)
            journal.save()
            assert begun + reading.read() == content
        assert not journal.at_risk
        assert (journal._files.held, journal._files.size) == (100_000, 100_000)
        assert copy.read_bytes() == journal.file(name).read_bytes() == content
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        left = as_killed(journal, tmp_path)
        assert everything(left)[-1] == Artifact("a", "model.bin", name)
        assert left.file(name).read_bytes() == content
        left.close(remove=True)
        in_memory = journal.file(name)
        journal.progress.advance(journal.end)
        assert not copy.exists()
        assert not in_memory.exists()
        assert (journal._files.held, journal._files.size) == (0, 0)
        journal.close(remove=True)

    @pytest.mark.parametrize("durable", [True, False])
    def test_a_copy_is_on_the_disk_before_the_record_that_names_it(
        self, small_disk: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB, durable=durable)
        with full(small_disk):
            journal.append(Log("a", params={"p": "x" * 5_000}))
            name = journal.keep(bytes(10_000))
            journal.append(Artifact("a", "model.bin", name))
        assert journal.path is not None
        there: list[bool] = []

        def opened(path: Path, *more: Any, **named: Any) -> int:
            if str(path).endswith(".seg"):
                there.append((journal.path / "files" / name).read_bytes() == bytes(10_000))  # type: ignore[operator]
            return really(path, *more, **named)

        really = os.open
        monkeypatch.setattr("os.open", opened)
        journal.save()
        assert there == [True]
        assert not journal.at_risk
        journal.close(remove=True)

    def test_what_a_signal_handler_logs_while_memory_is_written_is_not_lost(
        self, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
        with full(small_disk):
            for step in range(200):
                journal.append(point(step))

        def opened(path: Path, *more: Any, **named: Any) -> int:
            if str(path).endswith(".seg"):
                signal.raise_signal(signal.SIGALRM)
            return really(path, *more, **named)

        really = os.open
        monkeypatch.setattr("os.open", opened)
        before = signal.signal(signal.SIGALRM, lambda *_: journal.append(point(200)))
        try:
            journal.save()
        finally:
            monkeypatch.undo()
            signal.signal(signal.SIGALRM, before)
        assert not journal.at_risk
        journal.append(point(201))
        assert steps(everything(journal)) == list(range(202))
        left = as_killed(journal, tmp_path)
        assert steps(everything(left)) == list(range(202))
        left.close(remove=True)
        journal.close(remove=True)

    def test_a_copy_for_which_there_is_no_room_keeps_nothing_else_from_the_disk(
        self, small_disk: Path, tmp_path: Path
    ) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=64 * MIB)
        with full(small_disk):
            big, small = journal.keep(bytes(150_000)), journal.keep(b"small")
            journal.append(Artifact("a", "big", big))
            journal.append(Artifact("a", "small", small))
            for step in range(200):
                journal.append(point(step))
        with full(small_disk, but=100_000):
            wait_for(lambda: journal.look() and points_on(small_disk) == 202, 10, "all but the copy, on the disk")
            left = as_killed(journal, tmp_path)
            assert steps(everything(left)) == list(range(200))
            assert left.file(small).read_bytes() == b"small"
            assert not left.file(big).exists()
            left.close(remove=True)
            assert journal.file(big).read_bytes() == bytes(150_000)
        wait_for(lambda: not journal.look(), 10, "the copy, on the disk")
        left = as_killed(journal, tmp_path)
        assert left.file(big).read_bytes() == bytes(150_000)
        left.close(remove=True)
        journal.close(remove=True)

    def test_copies_in_memory_go_to_a_folder_that_could_not_be_made_before(self, small_disk: Path) -> None:
        folder = JournalFolder(small_disk / "journals")
        (small_disk / "journals").touch()  # something is in its way
        journal = LiveJournal(folder, header(), limit=MIB)
        name = journal.keep(b"model")
        journal.append(Artifact("a", "model.bin", name))
        assert not folder.paths()
        assert journal.look()
        (small_disk / "journals").unlink()
        with full(small_disk):  # a folder is made, and taken back
            journal.save()
            assert journal.look()
            assert (journal._files.held, journal._files.size) == (5, 0)
            assert journal.file(name).read_bytes() == b"model"
        journal.close(remove=False)
        [path] = folder.left()
        left = LeftJournal.take(path)
        assert left is not None
        assert everything(left) == [Artifact("a", "model.bin", name)]
        assert left.file(name).read_bytes() == b"model"
        left.close(remove=True)

    def test_a_copy_stays_readable_when_somebody_removes_the_folder_that_has_it(self, small_disk: Path) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=MIB)
        with full(small_disk):
            name = journal.keep(bytes(50_000))
            journal.append(Artifact("a", "model.bin", name))
        journal.save()
        assert not journal.at_risk
        assert journal.path is not None
        first = journal.path
        shutil.rmtree(first)
        wait_for(lambda: not journal.look() and journal.path not in {None, first}, 10, "a new folder")
        assert journal.file(name).read_bytes() == bytes(50_000)
        assert (journal.path / "files" / name).read_bytes() == bytes(50_000)
        assert (journal._files.held, journal._files.size) == (50_000, 50_000)
        journal.close(remove=True)

    def test_looking_costs_nothing_to_speak_of(self, small_disk: Path) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=MIB)
        journal.append(GivenOut("a"))
        begun = time.perf_counter()
        assert not any(journal.look() for _ in range(10_000))
        assert time.perf_counter() - begun < 1.0  # 100 us each, once for each wait of a thread
        journal.close(remove=True)

    def test_refused_values_are_written_down_when_there_is_room(self, small_disk: Path) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=MIB)
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(2000):
            journal.progress.refuse("metric", "a", f"k{number}", "v" * 100, "no")
            journal.progress.trying(f"id{number}")
        assert journal.progress.refused == 2000
        assert journal.path is not None
        path = journal.path
        ballast.unlink()
        journal.close(remove=False)
        left = LeftJournal.take(path)
        assert left is not None
        assert left.progress.refused <= 2000
        assert all(left.progress.tried(f"id{number}") for number in range(2000))
        left.close(remove=False)

    @pytest.mark.parametrize("seed", range(6))
    def test_whatever_happens_to_the_disk_in_whatever_order_nothing_is_lost(
        self, small_disk: Path, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tracklayer.journal.live._PAUSE", 0)  # it looks at the disk at each append
        dice = random.Random(seed)
        folder = JournalFolder(small_disk / "journals")
        journal = LiveJournal(folder, header(), limit=2 * MIB, durable=seed % 2 == 0)
        ballast = small_disk / "ballast"
        expected: dict[int, Operation] = {}  # by the position behind each
        copies: dict[str, bytes] = {}
        read_to = 0
        for step in range(1200):
            what = dice.random()
            if what < 0.80:
                big = {"p": "x" * dice.choice((10, 200, 3000))} if dice.random() < 0.2 else {}
                operation: Operation = Log("a", (Point("loss", 1.0, NOON, step),), big)
                expected[appended(journal, operation)] = operation
            elif what < 0.84:
                content = dice.randbytes(dice.choice((0, 100, 20_000)))
                name = journal.keep(content)
                copies[name] = content
                operation = Artifact("a", f"{step}.bin", name)
                expected[appended(journal, operation)] = operation
            elif what < 0.90:
                with contextlib.suppress(OSError):
                    ballast.write_bytes(bytes(dice.randrange(1, 260_000)))
            elif what < 0.95:
                ballast.unlink(missing_ok=True)
            else:
                records = journal.read(read_to, dice.choice((1, 2000, 300_000)))
                assert records
                for record in records:
                    if not isinstance(record.operation, Header):
                        assert expected.pop(record.next) == record.operation
                        if isinstance(record.operation, Artifact):
                            name = record.operation.file
                            assert journal.file(name).read_bytes() == copies.pop(name)
                read_to = records[-1].next
                journal.progress.advance(read_to)
                there = {path.name: path.stat().st_size for path in folder.path.glob("*/files/*")}
                assert journal._files.size == sum(there.values())
                assert journal._files.held == sum(journal._files._sizes[name] for name in journal._files._memory)
                assert all(name in there for name in copies if name not in journal._files.unwritten)
                if not expected:
                    journal.append(GivenOut("a"))
                    expected[journal.end] = GivenOut("a")
        ballast.unlink(missing_ok=True)
        journal.save()
        no_room_for = journal._files.unwritten
        assert not no_room_for or shutil.disk_usage(small_disk).free < 30_000
        assert journal.at_risk is bool(no_room_for)
        journal.close(remove=False)
        [path] = folder.left()
        left = LeftJournal.take(path)
        assert left is not None
        assert left.progress.delivered == read_to
        assert everything(left, read_to) == list(expected.values())
        assert all(left.file(name).read_bytes() == copies[name] for name in copies if name not in no_room_for)
        left.close(remove=True)

    def test_a_limit_on_the_size_of_files_is_a_full_disk(self, tmp_path: Path) -> None:
        journal = LiveJournal(JournalFolder(tmp_path), header(), limit=64 * MIB)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_001, before[1]))
            for step in range(3000):
                journal.append(point(step))
            found = steps(everything(journal))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert found == list(range(3000))
        assert journal.path is not None
        info = inspect(journal.path)
        assert info is not None
        assert not info.damages
        journal.close(remove=True)
