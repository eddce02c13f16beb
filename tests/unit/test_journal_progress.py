"""How far a journal is delivered, whose it is, and what the server refused, as other processes read it later."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest

from tracklayer.context import RunContext, WorkflowRun
from tracklayer.journal.identities import Identities
from tracklayer.journal.lock import Lock
from tracklayer.journal.notes import Begun, Closed, Ended, Reopened
from tracklayer.journal.operations import Artifact, Log, Named, NamedModel
from tracklayer.journal.progress import Progress
from tracklayer.journal.record import Record, pack
from tracklayer.journal.refusals import refusals
from tracklayer.provisional import provisional_model_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tracklayer.journal.operations import Operation
    from tracklayer.store import Store

RUN = Named("a", "b" * 32, "1", "s3://artifacts")
MODEL = NamedModel("m-a", "m-b", "s3://model")


def _folder(path: Path, name: str, progress: bytes) -> Path:
    """A folder with this file in it."""
    folder = path / name
    folder.mkdir()
    (folder / "progress").write_bytes(progress)
    return folder


class TestProgress:
    def test_what_was_noted_is_there_for_the_next_process(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        progress.advance(100)
        progress.trying("a")
        progress.name(RUN)
        progress.name(MODEL)
        progress.advance(250)
        progress.close()
        later = Progress(tmp_path)
        assert later.delivered == 250
        assert later.tried("a")
        assert not later.tried("b")
        assert dict(later.names) == {"a": RUN}
        assert dict(later.models) == {"m-a": MODEL}
        assert later.refused == 0

    def test_what_is_asked_for_when_a_journal_is_taken_over_is_remembered_also_in_a_file_written_anew(
        self, tmp_path: Path
    ) -> None:
        own = RunContext(workflow_run=WorkflowRun(orchestrator="script", workflow="w", run_id="r"))
        notes: list[Begun | Closed] = [Begun("a", parent=False, script=own), Begun("p", parent=True), Closed("k")]
        ends = [Ended("a"), Ended("b"), Ended("b", again=True), Ended("c"), Ended("c", again=True), Ended("c")]
        progress = Progress(tmp_path)
        again: list[Ended | Reopened] = [Reopened("x"), Reopened("y"), Ended("y")]
        for note in [*notes, *ends, *again]:
            progress.remember(note)
        size = (tmp_path / "progress").stat().st_size
        progress.remember(Ended("c"))
        assert (tmp_path / "progress").stat().st_size == size
        for folder in (tmp_path, tmp_path / "elsewhere"):
            if folder != tmp_path:
                folder.mkdir()
                progress.move_to(folder)
            found = Progress(folder, writable=False).remembered
            assert list(found.begun.values()) == notes[:2]
            assert (found.ended, found.reopened, found.closed) == ({"a", "c", "y"}, {"x"}, {"k"})
        progress.close()

    def test_it_only_goes_forward(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        progress.advance(100)
        progress.advance(50)
        assert progress.delivered == 100
        assert Progress(tmp_path, writable=False).delivered == 100
        progress.close()

    @pytest.mark.parametrize("torn", [b"\x10", b"\x00" * 300, b"\xff" * 40])
    def test_what_stands_behind_a_torn_note_is_not_lost(self, tmp_path: Path, torn: bytes) -> None:
        progress = Progress(tmp_path)
        progress.advance(100)
        progress.name(RUN)
        progress.close()
        with (tmp_path / "progress").open("ab") as file:
            file.write(torn)
        later = Progress(tmp_path)
        assert later.delivered == 100
        later.trying("b")
        later.advance(200)
        later.close()
        last = Progress(tmp_path, writable=False)
        assert (last.delivered, last.tried("b"), dict(last.names)) == (200, True, {"a": RUN})

    def test_it_stays_small_however_often_it_is_written(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        for number in range(200):
            progress.name(Named(f"{number:032}", f"{number:032}", "1"))
        for position in range(20_000):
            progress.advance(position)
        assert (tmp_path / "progress").stat().st_size < 300_000
        progress.close()
        later = Progress(tmp_path, writable=False)
        assert later.delivered == 19_999
        assert len(later.names) == 200

    def test_what_waits_is_noted_for_the_next_process_now_and_then_and_at_the_end(self, tmp_path: Path) -> None:
        def noted() -> tuple[int, Mapping[str, int]]:
            found = Progress(tmp_path, writable=False)
            return found.settled, found.held

        progress = Progress(tmp_path)
        progress.advance(100)
        assert (progress.settled, progress.held, noted()) == (100, {}, (100, {}))
        progress.settle(300, {"a": 100}, resting=False)
        assert noted() == (300, {"a": 100})
        for position in range(400, 500):
            progress.settle(position, {"a": 100, "b": 350}, resting=False)
        assert noted() == (300, {"a": 100}), "not for each request"
        assert (progress.settled, progress.held) == (499, {"a": 100, "b": 350})
        progress.settle(500, {"a": 100, "b": 350}, resting=True)
        assert noted() == (500, {"a": 100, "b": 350})
        size = (tmp_path / "progress").stat().st_size
        progress.settle(500, {"a": 100, "b": 350}, resting=True)
        assert (tmp_path / "progress").stat().st_size == size
        progress.settle(600, {"a": 100}, resting=False)
        assert Progress(_folder(tmp_path, "carried", progress.unwritten()["progress"]), writable=False).settled == 600
        progress.close()
        assert noted() == (600, {"a": 100})

    def test_what_waits_is_still_known_from_a_file_that_was_written_anew(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        progress.settle(500, {"a": 0}, resting=True)
        for number in range(20_000):
            progress.advance(number // 100)
            progress.trying(str(number))
        progress.close()
        later = Progress(tmp_path, writable=False)
        assert (later.delivered, later.settled, later.held) == (199, 500, {"a": 0})

    def test_nothing_waits_where_all_is_delivered_since(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        progress.settle(500, {"a": 100}, resting=True)
        progress.advance(500)
        progress.close()
        later = Progress(tmp_path)
        assert (later.settled, later.held, later.changed) == (500, {}, False)
        later.close()

    @pytest.mark.parametrize("last", ["damaged", "unknown"])
    def test_where_the_last_note_about_what_waits_says_nothing_an_earlier_one_stands(
        self, tmp_path: Path, last: str
    ) -> None:
        progress = Progress(tmp_path)
        progress.settle(300, {"a": 100}, resting=True)
        size = (tmp_path / "progress").stat().st_size
        progress.settle(500, {"a": 100}, resting=True)
        progress.close()
        content = (tmp_path / "progress").read_bytes()
        note = content[size:]
        if last == "damaged":
            note = note.replace(b"settled", b"SETTLED")
        else:  # as an earlier version reads what this one writes
            note = pack(["later", 1, {"x": 2}], 1) + note.replace(b"settled", b"SETTLED")
        (tmp_path / "progress").write_bytes(content[:size] + note)
        later = Progress(tmp_path)
        assert (later.settled, later.held) == (300, {"a": 100})
        later.advance(200)
        later.close()
        assert Progress(tmp_path, writable=False).delivered == 200

    def test_a_record_is_left_if_it_is_of_what_waits_or_behind_all_that_is_settled(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        progress.advance(100)
        progress.settle(500, {"a": 200, "files:b": 100}, resting=True)

        def left(operation: Operation) -> list[int]:
            positions = (0, 100, 200, 499, 500)
            return [at for at in positions if progress.is_left(Record(at, at + 1, 1, operation))]

        assert left(Log("a")) == [200, 499, 500]
        assert left(Log("b")) == [500]
        assert left(Artifact("b", "p", "f")) == [100, 200, 499, 500]
        progress.close()

    def test_whoever_only_looks_changes_nothing(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path, writable=False)
        progress.advance(100)
        progress.refuse("metric", "a", "k", "v", "no")
        progress.close()
        assert not list(tmp_path.iterdir())


class TestRefusals:
    def test_each_is_a_line_of_json_and_told_once(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        for _ in range(2):
            progress.refuse("metric", "b" * 32, "loss", "1.0", "no\nnumber")
            progress.refuse("artifact", "b" * 32, None, None, "x" * 10_000)
        progress.close()
        again = Progress(tmp_path)  # another process delivers the same once more
        again.refuse("metric", "b" * 32, "loss", "1.0", "no\nnumber")
        assert again.refused == 2
        again.close()
        lines = (tmp_path / "refused.jsonl").read_text().splitlines()
        assert len(lines) == 2
        first = json.loads(lines[0])
        del first["at"]
        assert first == {"kind": "metric", "run": "b" * 32, "key": "loss", "value": "1.0", "reason": "no\nnumber"}
        metric, artifact = refusals(tmp_path)
        assert (metric.kind, metric.key, artifact.key, len(artifact.reason)) == ("metric", "loss", None, 2000)

    def test_a_torn_line_is_left_out(self, tmp_path: Path) -> None:
        progress = Progress(tmp_path)
        progress.refuse("tag", "a", "k", "v", "no")
        progress.close()
        with (tmp_path / "refused.jsonl").open("ab") as file:
            file.write(b'{"at": 1, "ki')
        assert [refusal.kind for refusal in refusals(tmp_path)] == ["tag"]
        again = Progress(tmp_path)
        again.refuse("param", "a", "k", "v", "no")
        again.close()
        assert [refusal.kind for refusal in refusals(tmp_path)] == ["tag", "param"]
        assert not list(refusals(tmp_path / "nowhere"))


class TestLock:
    def test_it_is_held_until_it_is_let_go(self, tmp_path: Path) -> None:
        lock = Lock.take(tmp_path)
        assert lock is not None
        assert Lock.is_held(tmp_path)
        assert Lock.take(tmp_path) is None
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        lock.release()
        assert not Lock.is_held(tmp_path)
        again = Lock.take(tmp_path)
        assert again is not None
        again.release()

    def test_whoever_only_looks_keeps_nobody_from_taking_it(self, tmp_path: Path) -> None:
        program = """
import sys
from pathlib import Path
from tracklayer.journal.lock import Lock
print("looks", flush=True)
while True: Lock.is_held(Path(sys.argv[1]))
"""
        (tmp_path / "lock").touch()
        command = [sys.executable, "-c", program, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == b"looks\n"
                for _ in range(1_000):
                    lock = Lock.take(tmp_path)
                    assert lock is not None
                    assert Lock.take(tmp_path) is None
                    lock.release()
            finally:
                other.kill()

    def test_of_those_who_want_it_at_once_one_has_it(self, tmp_path: Path) -> None:
        program = """
import sys
from pathlib import Path
from tracklayer.journal.lock import Lock
folder, taken = Path(sys.argv[1]), 0
input()
while taken < 200:
    lock = Lock.take(folder)
    if lock is not None:
        (folder / "mine").touch(exist_ok=False)  # raises if another one has it, too
        (folder / "mine").unlink()
        lock.release()
        taken += 1
"""
        command = [sys.executable, "-c", program, str(tmp_path)]
        others = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(3)]
        for other in others:
            assert other.stdin is not None
            other.stdin.write(b"\n")
            other.stdin.close()
        assert [other.wait(timeout=60) for other in others] == [0, 0, 0]

    def test_a_journal_that_is_gone_cannot_be_locked(self, tmp_path: Path) -> None:
        assert not Lock.is_held(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError):
            Lock.take(tmp_path / "nowhere")

    def test_a_link_in_its_place_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "target").touch()
        (tmp_path / "lock").symlink_to(tmp_path / "target")
        with pytest.raises(OSError, match="symbolic links"):
            Lock.take(tmp_path)
        assert (tmp_path / "target").read_bytes() == b""


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, as some network folders are: no such one can be mounted in a test."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)


class TestWithoutLocks:
    def test_a_process_that_lives_holds_its_journal_and_one_says_so_once(
        self, tmp_path: Path, no_locks: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
            lock = Lock.take(folder)
            assert lock is not None
            assert Lock.is_held(folder)
            assert Lock.take(folder) is None
            lock.release()
            assert not Lock.is_held(folder)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"{tmp_path} has no locks" in caplog.text

    def test_a_process_that_died_does_not(self, tmp_path: Path, no_locks: None) -> None:
        program = """
import errno, fcntl, os, signal, sys
from pathlib import Path
def flock(*_): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
from tracklayer.journal.identities import Identities
from tracklayer.journal.lock import Lock
assert Lock.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
        command = [sys.executable, "-c", program, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            assert Lock.take(tmp_path) is None
            other.communicate()
        assert not Lock.is_held(tmp_path)
        lock = Lock.take(tmp_path)
        assert lock is not None
        lock.release()

    def test_of_a_process_on_another_machine_nobody_knows_so_its_journal_is_left_alone(
        self, tmp_path: Path, no_locks: None
    ) -> None:
        (tmp_path / "lock").touch()
        (tmp_path / "lock.1").write_text(json.dumps({"host": "elsewhere", "pid": 2, "since": "1"}))
        assert Lock.is_held(tmp_path)
        assert Lock.take(tmp_path) is None

    def test_a_process_id_that_was_given_to_another_process_is_not_the_same_process(
        self, tmp_path: Path, no_locks: None
    ) -> None:
        lock = Lock.take(tmp_path)
        assert lock is not None
        claim = tmp_path / "lock.1"
        told = json.loads(claim.read_text())
        if not told["since"]:
            pytest.skip("this system does not tell when a process began")
        claim.write_text(json.dumps({**told, "since": "1"}))
        assert not Lock.is_held(tmp_path)


def test_of_very_many_refused_values_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracklayer.journal.refusals.LIMIT", 10_000)
    for process in range(2):
        progress = Progress(tmp_path)
        for number in range(2_500):
            progress.refuse("metric", "r", f"m{process}", str(number), "no")
        progress.close()
    assert (tmp_path / "refused.jsonl").stat().st_size < 12_000
    assert Progress(tmp_path, writable=False).refused == 5_000


def test_what_is_not_to_be_is_known_to_whoever_delivers_next(tmp_path: Path) -> None:
    store = cast("Store", None)  # which is not asked
    refused, made = provisional_model_id(), provisional_model_id()
    progress = Progress(tmp_path)
    before = Identities(store, progress)
    before.bury(refused, "no such model")
    before.bury(made, "not yet")
    before.name(NamedModel(made, "m-1", ""))
    progress.close()
    after = Identities(store, Progress(tmp_path))
    assert (after.is_refused(refused), after.dead[refused]) == (True, "no such model")
    assert not after.is_refused(made)
