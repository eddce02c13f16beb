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
