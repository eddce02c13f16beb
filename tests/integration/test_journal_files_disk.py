"""The journal's files when there is no room: a full disk loses nothing, a full journal says what it lost."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import socket
import time
from typing import TYPE_CHECKING

import pytest
import urllib3

from harness.journal import MIB, NOON, appended, everything, header, point, points_on, steps
from harness.leaving import opening_of
from harness.patience import patient
from harness.process import wait_for
from harness.proxy import refused_port
from tracklayer.backend import open_backend
from tracklayer.journal.carrying import carried, fetched
from tracklayer.journal.failures import JournalFull
from tracklayer.journal.folder import JournalFolder, is_settled
from tracklayer.journal.inspection import inspect, walk
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, End, GivenOut, Header, Log, Named, Point
from tracklayer.journal.record import Record
from tracklayer.journal.recorder import Recorder
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.journal.operations import Operation


def test_a_run_is_told_what_a_full_journal_did_not_take(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy], tmp_path: Path
) -> None:
    proxy = proxy_before(mlflow_server.uri)
    settings = patient(proxy.uri, journal=str(tmp_path / "journal"), journal_limit=200_000)
    backend = open_backend(settings)
    assert backend is not None
    recorder = Recorder(backend, settings)
    run_id = recorder.begin(opening_of("journal-full"), wait=30).ref.run_id
    with proxy.refused():
        recorder.flush(1)
        for step in range(5_000):
            recorder.append(Log(run_id, (Point("loss", 1.0, NOON, step),)))
        assert recorder._journal.path
        records = [item.operation for item in walk(recorder._journal.path) if isinstance(item, Record)]
        told = [item.tags["tracklayer.unkept"] for item in records if isinstance(item, Log) and item.tags]
        recorder.append(Log(run_id, params={"lr": "0.1"}))
        recorder.append(End(run_id, "FINISHED", NOON))
    wait_for(lambda: recorder.flush(60), 60, "the server's return to be noticed")
    run = backend.store.get_run(run_id)
    query = f"{mlflow_server.uri}/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=loss&max_results=25000"
    kept = len(json.loads(urllib3.request("GET", query).data)["metrics"])
    assert 1_000 < kept < 5_000
    assert run.tags["tracklayer.unkept"] == f"{5_000 - kept} values: the journal was full"
    assert told[0] == "1 values so far: the journal was full", "if it were killed now, it would know"
    assert 5_000 - kept >= int(told[-1].partition(" ")[0]) > (5_000 - kept) // 2
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


def test_what_is_in_memory_goes_to_the_disk_though_nothing_more_is_logged(small_disk: Path) -> None:
    with refused_port() as uri:
        recorder, _ = beside_a_full_disk(uri, small_disk)
        wait_for(lambda: points_on(small_disk) >= 1_500, 60, "what was in memory, on the disk")
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

    def test_refused_values_are_kept_where_the_disk_took_nothing_of_what_came_last(self, small_disk: Path) -> None:
        folder = JournalFolder(small_disk)
        journal = LiveJournal(folder, header(), limit=MIB)
        journal.append(GivenOut("a"))
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(2000):
            journal.append(GivenOut(f"id{number}"))
        assert journal.at_risk
        journal.progress.advance(journal.end)  # all of it is delivered, but for one value
        ballast.unlink()
        journal.progress.refuse("tag", "a", "key", "value", "no")
        journal.close(remove=True)
        (path,) = folder.paths()
        assert is_settled(path)
        (info,) = folder.journals()
        assert info.refused == 1
        assert folder.left() == []

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
