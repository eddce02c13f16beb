"""Delivery by thousands of seeds, against a store that fails, kills and is recovered: no difference from what was told.

Each story takes a fraction of a second, because the store and the kills are in this process; the modules beside this one
do the same to real servers and real processes, some hundred times.
"""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from harness.faulty_store import Clock
from harness.stress import DENSE, SPARSE, Story

if TYPE_CHECKING:
    from pathlib import Path

    from harness.scribe import Profile

FIRST, LAST = map(int, os.environ.get("TRACKLAYER_TEST_SEEDS", "1:10").split(":"))
SEEDS = range(FIRST, LAST + 1)

DELIVERY = "tracklayer.journal"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    """A clock that is put on by hand; what waits for a real one waits no longer."""
    clock = Clock()
    monkeypatch.setattr(f"{DELIVERY}.isolation._now", clock)
    monkeypatch.setattr(f"{DELIVERY}.holding.HELD", (0.0, 0.0))
    monkeypatch.setattr(f"{DELIVERY}.thinning._PAUSE", 0.0)
    monkeypatch.setattr(f"{DELIVERY}.flight.HEAD_START", (0.0, 0.0))
    caplog.set_level(logging.CRITICAL, "tracklayer")  # thousands of failures that are meant
    return clock


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of a process, where no thread can be started any more."""
    from tracklayer.journal import flight

    def refuse(*anything: object) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    threads = SimpleNamespace(start_new_thread=refuse, allocate_lock=flight._thread.allocate_lock)
    monkeypatch.setattr(flight, "_thread", threads)


@pytest.mark.parametrize("profile", [SPARSE, DENSE], ids=lambda profile: profile.name)
@pytest.mark.parametrize("seed", SEEDS)
def test_all_that_was_acknowledged_is_there_once(
    seed: int, profile: Profile, tmp_path: Path, clock: Clock, request: pytest.FixtureRequest
) -> None:
    if seed % 2:  # the order of events is the seed's alone, then
        request.getfixturevalue("no_threads")
    assert told(seed, profile, tmp_path, clock) == [], f"seed {seed}, {profile.name}"


def told(seed: int, profile: Profile, folder: Path, clock: Clock) -> list[str]:
    """How a store differs from what was acknowledged, after the story of a seed."""
    story = Story(seed, profile, folder / "journals", clock)
    story.tell()
    return story.differences()
