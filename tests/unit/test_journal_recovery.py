"""Whoever delivers what others left behind holds the end of a process up for so long, and no longer."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inheritance import inherit
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Header, Rename
from tracklayer.journal.recovery import Scavenger, Survey
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


def test_the_end_of_a_process_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = threading.Event(), threading.Event()

    def left_behind(*_: object) -> Iterator[Path]:
        begun.set()
        over.wait(60)  # in the middle of a request, and deaf
        yield from ()

    monkeypatch.setattr("tracklayer.journal.recovery.left_behind", left_behind)
    backend: Any = type("Backend", (), {"store": type("Store", (), {"uri": "http://here"})})
    scavenger = Scavenger(cast("Any", backend), Settings(), busy=lambda: False)
    looked = time.monotonic()
    assert scavenger.look() is None
    assert begun.wait(10)
    left = scavenger.look() or 0  # too early: it is to be asked again
    assert 30 - (time.monotonic() - looked) - 0.1 <= left <= 30
    before = time.monotonic()
    scavenger.wait(1.0)
    assert 0.9 < time.monotonic() - before < 15
    assert scavenger.look() is None  # it is over
    over.set()


def test_a_journal_that_cannot_be_read_keeps_no_other_from_delivery_and_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[str] = []
    store = SimpleNamespace(uri="memory:", update_run=lambda run_id, *, name: taken.append(f"{run_id[0]} {name}"))
    folder, since = JournalFolder(tmp_path), 1_700_000_000_000
    for number, run in enumerate("ab"):
        header = Header(1, "memory:", socket.gethostname(), 1, since + number * 1_000)
        journal = LiveJournal(folder, header, limit=1_048_576)
        journal.append(Rename(run * 32, "name"))
        journal.close(remove=False)
    broken, _ = folder.paths()
    of = Survey.of

    def survey(journal: LeftJournal) -> Survey:
        if journal.path == broken:
            raise OSError(5, "Input/output error")
        return of(journal)

    monkeypatch.setattr(Survey, "of", survey)
    backend = cast("Any", SimpleNamespace(store=store))
    assert not inherit(backend, Settings(journal=str(tmp_path)), since=since, limit=30)
    assert taken == ["b name"]
    assert folder.paths() == [broken]
    assert f"{broken} cannot be delivered: [Errno 5] Input/output error" in caplog.text
    other = LeftJournal.take(broken)
    assert other is not None, "nobody holds it"
    other.close(remove=False)
