"""The journal's files under real faults: killed writers, full disks, folders that are read-only, missing, or removed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import urllib3

from harness.leaving import opening_of
from harness.process import wait_for
from tracklayer.backend import open_backend
from tracklayer.journal.failures import JournalFull
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inspection import inspect
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal, open_journal
from tracklayer.journal.operations import Artifact, End, GivenOut, Header, Log, Named, Point
from tracklayer.journal.recorder import Recorder
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.journal.operations import Operation

NOON = 1_795_262_400_000
MIB = 1024 * 1024

# Appends from several threads, and says after each append that it was acknowledged; ends only when it is killed.
WRITER = """
import os, sys, threading, time
from pathlib import Path
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Header, Log, Point
folder, threads, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
header = Header(1, "http://127.0.0.1:5000", "host", os.getpid(), 1_795_262_400_000)
journal = LiveJournal(JournalFolder(folder), header, limit=limit)
def work(thread):
    step = 0
    while True:
        params = {"p": "x" * 3000} if step % 7 == 0 else {}
        journal.append(Log(str(thread), (Point("loss", 1.0, 1, step),), params))
        os.write(1, b"%d %d\\n" % (thread, step))
        step += 1
for thread in range(1, threads):
    threading.Thread(target=work, args=(thread,), daemon=True).start()
work(0)
"""


def header() -> Header:
    return Header(1, "http://127.0.0.1:5000", "host", os.getpid(), NOON)


def point(step: int, run: str = "a") -> Log:
    return Log(run, (Point("loss", 1.0, NOON, step),))


def everything(journal: LiveJournal | LeftJournal, position: int = 0) -> list[Operation]:
    found: list[Operation] = []
    while records := journal.read(position):
        position = records[-1].next
        found += [record.operation for record in records if not isinstance(record.operation, Header)]
    assert position == journal.end
    return found


def steps(operations: list[Operation]) -> list[int]:
    return [item.points[0].step for item in operations if isinstance(item, Log)]


class TestKilled:
    @pytest.mark.parametrize("threads", [1, 8])
    def test_whatever_was_acknowledged_is_there_after_sigkill(self, tmp_path: Path, threads: int) -> None:
        dice = random.Random(threads)
        for attempt in range(12):
            folder = tmp_path / f"journals{attempt}"
            command = [sys.executable, "-c", WRITER, str(folder), str(threads), str((16, 64)[attempt % 2] * MIB)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                told = writer.stdout.read(1)  # it has begun
                time.sleep(dice.uniform(0, 0.05))
                writer.kill()
                told += writer.stdout.read()
            whole = told[: told.rfind(b"\n") + 1].decode().splitlines()
            acknowledged = [tuple(map(int, line.split())) for line in whole]
            [path] = JournalFolder(folder).left()
            journal = LeftJournal.take(path)
            assert journal is not None
            found = [(int(item.run), item.points[0].step) for item in everything(journal) if isinstance(item, Log)]
            assert set(acknowledged) <= set(found)
            assert len(set(found)) == len(found)
            for thread in range(threads):  # each in its order, without a gap, and at most one that was not acknowledged
                own = [step for number, step in found if number == thread]
                assert own == list(range(len(own)))
                assert len(own) - sum(number == thread for number, _ in acknowledged) in {0, 1}
            info = inspect(path)
            assert info is not None
            assert info.sound
            journal.close(remove=True)
            assert not list(folder.iterdir())

    def test_a_journal_that_is_cut_off_anywhere_can_be_taken_and_read_up_to_there(self, tmp_path: Path) -> None:
        journal = LiveJournal(JournalFolder(tmp_path / "whole"), header(), limit=MIB)
        ends = [journal.append(point(step)) for step in range(12)]
        path = journal.path
        assert path is not None
        journal.close(remove=False)
        [segment] = path.glob("*.seg")
        content = segment.read_bytes()
        beginning = ends[0] - (ends[1] - ends[0])
        for cut in range(len(content)):
            copied = tmp_path / "cut"
            shutil.copytree(path, copied)
            (copied / segment.name).write_bytes(content[:cut])
            left = LeftJournal.take(copied)
            if cut < beginning:
                assert left is None  # not even whose it is can be read: nothing had been acknowledged
            else:
                assert left is not None
                whole = [end for end in ends if end <= cut]
                assert left.end == (whole[-1] if whole else beginning)
                assert steps(everything(left)) == list(range(len(whole)))
                left.close(remove=True)
            shutil.rmtree(copied, ignore_errors=True)

    def test_damage_in_the_middle_costs_what_is_damaged_and_nothing_else(self, tmp_path: Path) -> None:
        journal = LiveJournal(JournalFolder(tmp_path / "journals"), header(), limit=MIB)
        ends = [journal.append(point(step)) for step in range(4000)]
        path = journal.path
        assert path is not None
        journal.close(remove=False)
        segments = sorted(path.glob("*.seg"))
        assert len(segments) > 3
        # A sector of zeros in one segment, and the end of another one is missing.
        with segments[1].open("r+b") as file:
            file.seek(5000)
            file.write(bytes(512))
        os.truncate(segments[2], segments[2].stat().st_size - 700)
        hit = set()
        for first, last in (
            (int(segments[1].stem) + 5000, int(segments[1].stem) + 5512),
            (int(segments[3].stem) - 700, int(segments[3].stem)),
        ):
            hit |= {step for step, end in enumerate(ends) if end > first and end - 75 < last}
        left = LeftJournal.take(path)
        assert left is not None
        assert steps(everything(left)) == [step for step in range(4000) if step not in hit]
        left.close(remove=False)
        info = inspect(path)
        assert info is not None
        assert info.state == "damaged"
        assert [damage.torn for damage in info.damages] == [False, False]
        assert int(segments[1].stem) + 5000 - 75 < info.damages[0].position <= int(segments[1].stem) + 5000
        assert info.damages[1].next == int(segments[3].stem)


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


class TestTwoProcesses:
    def test_one_that_lives_is_nobody_elses(self, tmp_path: Path) -> None:
        folder = JournalFolder(tmp_path)
        command = [sys.executable, "-c", WRITER, str(tmp_path), "1", str(64 * MIB)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            [path] = folder.paths()
            assert LeftJournal.take(path) is None
            assert not folder.left()
            [info] = folder.journals()
            assert info.state == "live"
            os.kill(writer.pid, signal.SIGSTOP)  # also one that does not move
            assert LeftJournal.take(path) is None
            writer.kill()
        assert folder.left() == [path]

    def test_of_many_that_want_it_one_gets_it(self, tmp_path: Path) -> None:
        journal = LiveJournal(JournalFolder(tmp_path), header(), limit=MIB)
        journal.append(GivenOut("a"))
        assert journal.path is not None
        journal.close(remove=False)
        taker = (
            "import sys; from pathlib import Path; from tracklayer.journal.left import LeftJournal\n"
            "input(); taken = LeftJournal.take(Path(sys.argv[1])); print(taken is not None, flush=True); input()"
        )
        takers = [
            subprocess.Popen(
                [sys.executable, "-c", taker, str(journal.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        try:
            for process in takers:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            answers = [process.stdout.readline().strip() for process in takers if process.stdout is not None]
        finally:
            for process in takers:
                process.communicate("\n", timeout=60)
        assert sorted(answers) == ["False", "False", "False", "True"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


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
                expected[journal.append(operation)] = operation
            elif what < 0.84:
                content = dice.randbytes(dice.choice((0, 100, 20_000)))
                name = journal.keep(content)
                copies[name] = content
                operation = Artifact("a", f"{step}.bin", name)
                expected[journal.append(operation)] = operation
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
                if not expected:
                    journal.append(GivenOut("a"))
                    expected[journal.end] = GivenOut("a")
        ballast.unlink(missing_ok=True)
        journal.close(remove=False)
        [path] = folder.left()
        left = LeftJournal.take(path)
        assert left is not None
        assert left.progress.delivered == read_to
        assert everything(left, read_to) == list(expected.values())
        in_files = [name for name in copies if left.file(name).exists()]
        assert all(left.file(name).read_bytes() == copies[name] for name in in_files)
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


class TestFolders:
    def test_a_read_only_disk_means_memory(self, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        journal = LiveJournal(JournalFolder(small_disk / "journals"), header(), limit=MIB)
        journal.append(GivenOut("a"))
        assert everything(journal) == [GivenOut("a")]
        assert journal.path is None
        assert "Read-only file system" in caplog.text
        journal.close(remove=False)

    def test_a_folder_that_becomes_read_only_in_between_loses_nothing(
        self, small_disk: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = LiveJournal(JournalFolder(small_disk), header(), limit=16 * 4096)
        for step in range(30):
            journal.append(point(step))
        # What is open for writing keeps the disk from becoming read-only as a whole; the folder can.
        frozen = ["chattr", "+i", str(journal.path)]
        if shutil.which("chattr") is None or subprocess.run(frozen, check=False, capture_output=True).returncode:
            journal.close(remove=True)
            pytest.skip("folders cannot be made immutable here")
        for step in range(30, 500):
            journal.append(point(step))
        assert steps(everything(journal)) == list(range(500))
        assert "Operation not permitted" in caplog.text
        subprocess.run(["chattr", "-i", str(journal.path)], check=True)
        journal.close(remove=True)
        assert not JournalFolder(small_disk).paths()

    def test_a_folder_that_somebody_removes_is_made_again(self, tmp_path: Path) -> None:
        folder = JournalFolder(tmp_path / "journals")
        journal = LiveJournal(folder, header(), limit=MIB)
        for step in range(2000):
            journal.append(point(step))
        first = journal.path
        assert first is not None
        assert len(list(first.glob("*.seg"))) > 1
        shutil.rmtree(folder.path)
        step = 2000
        journal.append(Artifact("a", "x", journal.keep(b"x")))
        deadline = time.monotonic() + 30
        while journal.path in {None, first}:
            assert time.monotonic() < deadline
            journal.append(point(step))
            step += 1
            time.sleep(0.05)
        # This process still reads all of it, and another one what came after the removal was noticed.
        assert steps(everything(journal)) == list(range(step))
        assert journal.file(journal.keep(b"y")).read_bytes() == b"y"
        path = journal.path
        assert path is not None
        journal.close(remove=False)
        left = LeftJournal.take(path)
        assert left is not None
        assert steps(everything(left, left.read(0)[0].position))[-1] == step - 1
        left.close(remove=True)

    def test_a_user_who_may_not_write_there_gets_a_folder_below_that_for_temporary_files(self, tmp_path: Path) -> None:
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            pytest.skip("only root can become another user")
        program = """
import fcntl, json, os, shutil, socket, tempfile
from tracklayer.journal.live import open_journal
from tracklayer.journal.operations import Header
from tracklayer.settings import Settings
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # who may not read the libraries, perhaps: all is imported
journal = open_journal(Settings(journal="/mnt/locked/journal"), Header(1, "http://x", "h", os.getpid(), 1))
print(json.dumps([str(journal.path), oct(os.stat("/mnt/tmp/tracklayer-65534").st_mode & 0o777)]))
journal.close(remove=True)
"""
        (tmp_path / "locked").mkdir(mode=0o700)
        (tmp_path / "tmp").mkdir()
        for path in (tmp_path, tmp_path / "tmp"):
            path.chmod(0o777)
        # The folders above are closed to others, so it is shown them elsewhere.
        entered = 'mount --bind "$1" /mnt && cd / && exec "$2" -c "$3"'
        command = ["unshare", "--mount", "sh", "-c", entered, "sh", str(tmp_path), sys.executable, program]
        environ = {**os.environ, "TMPDIR": "/mnt/tmp"}
        ended = subprocess.run(command, env=environ, capture_output=True, text=True)
        if ended.returncode:
            pytest.skip(f"another user cannot run this installation: {ended.stderr.strip()[-200:]}")
        path, mode = json.loads(ended.stdout)
        assert path.startswith("/mnt/tmp/tracklayer-65534/journal/")
        assert mode == "0o700"
        assert "the journal folder /mnt/locked/journal cannot be written" in ended.stderr

    @pytest.mark.parametrize("trap", ["link", "mode", "file"])
    def test_a_folder_in_a_shared_place_that_is_not_ours_alone_is_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        prepared = tmp_path / f"tracklayer-{os.geteuid()}"
        if trap == "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            prepared.symlink_to(tmp_path / "elsewhere")
        elif trap == "mode":
            prepared.mkdir()
            prepared.chmod(0o777)
        else:
            prepared.touch()
        blocked = tmp_path / "blocked"
        blocked.touch()
        journal = open_journal(Settings(journal=str(blocked / "journal")), header())
        assert journal.path is None
        journal.append(GivenOut("a"))
        assert everything(journal) == [GivenOut("a")]
        journal.close(remove=False)
        if trap == "link":
            assert not list((tmp_path / "elsewhere").iterdir())

    def test_links_and_folders_of_others_are_no_journals(self, tmp_path: Path) -> None:
        folder = JournalFolder(tmp_path / "journals")
        journal = LiveJournal(folder, header(), limit=MIB)
        assert journal.path is not None
        journal.close(remove=False)
        real = tmp_path / "real"
        journal.path.rename(real)
        journal.path.symlink_to(real)
        assert not folder.left()
        assert not folder.journals()
        if os.geteuid() == 0:
            journal.path.unlink()
            shutil.copytree(real, journal.path)
            assert folder.left() == [journal.path]
            os.chown(journal.path, 65534, 65534)
            assert not folder.left()
            assert not folder.paths()
            assert folder.others() == 1

    def test_what_a_process_left_that_died_while_it_made_or_removed_a_journal_is_swept_away(
        self, tmp_path: Path
    ) -> None:
        folder = JournalFolder(tmp_path)
        for name in (".new-x", ".gone-y"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "lock").touch()
        (tmp_path / ".other").mkdir()
        assert not folder.left()
        assert (tmp_path / ".new-x").exists()  # it may be in the making right now
        long_ago = time.time() - 7200
        for path in tmp_path.iterdir():
            os.utime(path, (long_ago, long_ago))
        assert not folder.left()
        assert [path.name for path in tmp_path.iterdir()] == [".other"]
