"""The journal's files when writers are killed and files are damaged, and when several processes want them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from harness.journal import MIB, appended, everything, header, point, steps
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inspection import inspect
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import GivenOut, Log

if TYPE_CHECKING:
    from pathlib import Path


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
        ends = [appended(journal, point(step)) for step in range(12)]
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
        ends = [appended(journal, point(step)) for step in range(4000)]
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
