"""Whoever delivers what others left behind holds the end of a process up for so long, and no longer."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, cast

from tracklayer.journal.recovery import Scavenger
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


def test_the_end_of_a_process_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = threading.Event(), threading.Event()

    def left_behind(*_: object) -> Iterator[Path]:
        begun.set()
        over.wait(30)  # in the middle of a request, and deaf
        yield from ()

    monkeypatch.setattr("tracklayer.journal.recovery.left_behind", left_behind)
    backend: Any = type("Backend", (), {"store": type("Store", (), {"uri": "http://here"})})
    scavenger = Scavenger(cast("Any", backend), Settings(), busy=lambda: False)
    assert scavenger.look() is None
    assert begun.wait(10)
    assert 29 < (scavenger.look() or 0) <= 30  # too early: it is to be asked again
    before = time.monotonic()
    scavenger.wait(1.0)
    assert 0.9 < time.monotonic() - before < 1.7
    assert scavenger.look() is None  # it is over
    over.set()
