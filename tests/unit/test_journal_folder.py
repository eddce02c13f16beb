"""Where journals are, and whose."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import GivenOut, Header
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

HEADER = Header(1, "https://mlflow.example.com", "pod 7/ü", 4711, 1_795_262_400_000)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a folder for temporary files of this test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def where(settings: Settings) -> Path | None:
    folder = JournalFolder.of(settings)
    return None if folder is None else folder.path


class TestWhere:
    def test_what_the_settings_say_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        assert where(Settings(journal=str(tmp_path / "a" / "b"))) == tmp_path / "a" / "b"
        assert where(Settings(journal="~/journals")) == tmp_path / "home" / "journals"
        monkeypatch.chdir(tmp_path)
        assert where(Settings(journal="here")) == tmp_path / "here"

    def test_then_the_users_folder_for_such_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usual = tmp_path / "home" / ".local" / "state" / "tracklayer" / "journal"
        assert where(Settings()) == usual
        assert stat.S_IMODE(usual.stat().st_mode) == 0o700
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        assert where(Settings()) == tmp_path / "state" / "tracklayer" / "journal"
        monkeypatch.setenv("XDG_STATE_HOME", "relative")  # which the standard tells to ignore
        assert where(Settings()) == usual

    def test_then_one_of_the_users_own_for_temporary_files(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "home").touch()
        found = where(Settings())
        assert found is not None
        assert found.parent.parent == tmp_path / "tmp"
        assert found.parent.name.startswith("tracklayer-")
        assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
        assert not caplog.records
        assert where(Settings(journal=str(tmp_path / "home" / "x"))) == found
        assert "is used" in caplog.text

    def test_else_nowhere_and_one_says_so(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "home").touch()
        (tmp_path / "tmp").rmdir()
        (tmp_path / "tmp").touch()
        assert where(Settings()) is None
        assert "there is no folder for the journal" in caplog.text

    def test_off_is_nowhere_without_a_word(self, caplog: pytest.LogCaptureFixture) -> None:
        assert where(Settings(journal="off")) is None
        assert not caplog.records


class TestLeft:
    def test_everywhere_where_a_process_may_have_left_something_is_looked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert JournalFolder.every(Settings()) == []
        (tmp_path / "home").touch()
        below_temporary = JournalFolder.of(Settings())
        (tmp_path / "home").unlink()
        usual = JournalFolder.of(Settings())
        assert below_temporary is not None
        assert usual is not None
        assert [folder.path for folder in JournalFolder.every(Settings())] == [usual.path, below_temporary.path]
        assert [folder.path for folder in JournalFolder.every(Settings(journal="off"))] == [below_temporary.path]

    def test_the_name_says_when_where_and_who(self, tmp_path: Path) -> None:
        journal = LiveJournal(JournalFolder(tmp_path), HEADER, limit=2**20)
        assert journal.path is not None
        assert journal.path.name.startswith("20261121T120000Z-pod-7-4711-")
        journal.close(remove=True)

    def test_a_journal_of_a_later_format_is_left_alone(self, tmp_path: Path) -> None:
        folder = JournalFolder(tmp_path)
        for format_ in (1, 2):
            header = Header(format_, HEADER.tracking_uri, "host", format_, HEADER.started_at)
            journal = LiveJournal(folder, header, limit=2**20)
            journal.append(GivenOut("a"))
            journal.close(remove=False)
        assert ["-host-1-" in path.name for path in folder.left()] == [True]
        assert len(folder.journals()) == 2

    def test_a_journal_in_which_nothing_was_logged_is_left_to_be_removed(self, tmp_path: Path) -> None:
        folder = JournalFolder(tmp_path)
        journal = LiveJournal(folder, HEADER, limit=2**20)
        journal.close(remove=False)
        assert len(folder.left()) == 1
