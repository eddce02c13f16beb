"""The journal's folders when they are read-only, removed, missing, left half-made, or somebody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from harness.journal import MIB, everything, header, point, steps
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal, open_journal
from tracklayer.journal.operations import Artifact, GivenOut
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


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
        # This process still reads all of it, and so does another one.
        assert steps(everything(journal)) == list(range(step))
        assert journal.file(journal.keep(b"y")).read_bytes() == b"y"
        path = journal.path
        assert path is not None
        journal.close(remove=False)
        left = LeftJournal.take(path)
        assert left is not None
        assert steps(everything(left)) == list(range(step))
        left.close(remove=True)

    @pytest.mark.parametrize("noticed", [False, True])
    def test_a_process_that_ends_after_somebody_removed_the_folder_leaves_all_of_it(
        self, tmp_path: Path, noticed: bool
    ) -> None:
        program = """
import atexit, os, shutil, sys, time
from pathlib import Path
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Header, Log, Point
folder = JournalFolder(Path(sys.argv[1]))
journal = LiveJournal(folder, Header(1, "http://127.0.0.1:1", "here", os.getpid(), 0), limit=1 << 20)
atexit.register(journal.close, remove=False)
for step in range(100):
    journal.append(Log("run", (Point("loss", 1.0, 1, step),)))
shutil.rmtree(folder.path)
if sys.argv[2] == "True":
    time.sleep(1.1)
journal.append(Log("run", (Point("loss", 1.0, 1, 100),)))
assert (journal.path is None) == (sys.argv[2] == "True")
"""
        folder = JournalFolder(tmp_path / "journals")
        command = [sys.executable, "-c", program, str(folder.path), str(noticed)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        (path,) = folder.left()
        left = LeftJournal.take(path)
        assert left is not None
        assert steps(everything(left)) == list(range(101))
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
