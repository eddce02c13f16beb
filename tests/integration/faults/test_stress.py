"""Delivery by thousands of seeds, against a store that fails, kills and is recovered: no difference from what was told.

Each story takes a fraction of a second, because the store and the kills are in this process; the modules beside this one
do the same to real servers and real processes, some hundred times.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from harness.faulty_store import Clock
from harness.stress import DENSE, SPARSE, Story
from tracklayer.journal.flight import Flight
from tracklayer.journal.frontier import Frontier
from tracklayer.journal.parcel import Parcel
from tracklayer.journal.progress import Progress
from tracklayer.journal.recovery import Recovery
from tracklayer.journal.thinning import Thinned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.faulty_store import KeptRun
    from harness.scribe import Profile

FIRST, LAST = map(int, os.environ.get("TRACKLAYER_TEST_SEEDS", "1:10").split(":"))
SEEDS = range(FIRST, LAST + 1)

DELIVERY = "tracklayer.journal"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    """A clock that is put on by hand; what waits for a real one waits no longer."""
    clock = Clock()
    monkeypatch.setattr(f"{DELIVERY}.isolation._now", clock)
    monkeypatch.setattr(f"{DELIVERY}.second_look.APART", 0)
    monkeypatch.setattr(f"{DELIVERY}.holding.HELD", (0.0, 0.0))
    monkeypatch.setattr(f"{DELIVERY}.thinning._PAUSE", 0.0)
    monkeypatch.setattr(f"{DELIVERY}.flight.HEAD_START", (0.0, 0.0))
    caplog.set_level(logging.CRITICAL, "tracklayer")  # thousands of failures that are meant
    return clock


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of a process, where no thread can be started any more."""

    def refuse(*anything: object) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    threads = SimpleNamespace(start_new_thread=refuse, allocate_lock=threading.Lock)
    monkeypatch.setattr(f"{DELIVERY}.flight._thread", threads)


@pytest.mark.parametrize("profile", [SPARSE, DENSE], ids=lambda profile: profile.name)
@pytest.mark.parametrize("seed", SEEDS)
def test_all_that_was_acknowledged_is_there_once(
    seed: int, profile: Profile, tmp_path: Path, clock: Clock, request: pytest.FixtureRequest
) -> None:
    if seed % 2:  # the order of events is the seed's alone, then
        request.getfixturevalue("no_threads")
    assert told(seed, profile, tmp_path, clock) == [], f"seed {seed}, {profile.name}"


def test_dense_stories_have_requests_under_way_and_are_thinned(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = Counter[str]()

    def count(owner: type, name: str) -> None:
        function = getattr(owner, name)

        def counted(*arguments: object) -> object:
            happened[name] += 1
            return function(*arguments)

        monkeypatch.setattr(owner, name, counted)

    count(Flight, "take_off")
    count(Thinned, "replace")
    for seed in range(1, 7):
        told(seed, DENSE, tmp_path / str(seed), clock)
    assert min(happened["take_off"], happened["replace"]) > 5, happened


def lose_a_point(run: KeptRun) -> None:
    run.points.pop()


def add_a_point(run: KeptRun) -> None:
    run.points.add(("loss", 0.5, 1, 0))


def end_otherwise(run: KeptRun) -> None:
    run.status = "FINISHED" if run.status != "FINISHED" else "KILLED"


def change_tag(run: KeptRun) -> None:
    run.tags["t0"] = "nobody's"


def change_param(run: KeptRun) -> None:
    run.params["p0"] = "nobody's"


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (lose_a_point, "lost 1 points"),
        (add_a_point, "never logged 1 points"),
        (end_otherwise, "ended as"),
        (change_tag, "1 tags differ: t0 is"),
        (change_param, "1 params differ: p0 is"),
    ],
)
def test_the_comparison_sees_what_is_wrong_in_the_store(
    spoil: Callable[[KeptRun], None], seen: str, tmp_path: Path, clock: Clock, no_threads: None
) -> None:
    story = Story(1, SPARSE, tmp_path / "journals", clock)
    story.tell()
    assert story.differences() == []
    run = max(story.store.runs.values(), key=lambda run: len(run.points))
    spoil(run)
    assert [seen in text for text in story.differences()] == [True]


def test_the_comparison_sees_a_run_that_was_created_twice(tmp_path: Path, clock: Clock, no_threads: None) -> None:
    story = Story(1, SPARSE, tmp_path / "journals", clock)
    story.tell()
    child = min(story.acknowledged.made)
    story.store.make("twin", story.store.named(child)[0].tags)
    assert story.differences() == [f"{child} was created 2 times"]


def gathered_counts_as_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    def delivered(frontier: Frontier, position: int) -> int:
        held = frontier._holds.first()
        return position if held is None else min(held, position)

    monkeypatch.setattr(Frontier, "delivered", delivered)


def what_waits_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "held", {})


def gathered_counts_as_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frontier, "_passed_over", lambda frontier, position: (position, frontier._holds.positions))


def asked_twice_is_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "tried", lambda progress, identifier: False)


def an_end_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{DELIVERY}.delivery.BARRIERS", ())


def what_comes_back_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parcel, "came_back", Parcel.arrived)


def what_died_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recovery, "_end_what_died", lambda recovery: None)


@pytest.mark.parametrize(
    ("mistake", "profile", "seen"),
    [
        (gathered_counts_as_delivered, SPARSE, "lost"),
        (gathered_counts_as_settled, SPARSE, "lost"),
        (what_waits_is_forgotten, SPARSE, "lost"),
        (what_comes_back_is_forgotten, DENSE, "lost"),
        (asked_twice_is_made_twice, SPARSE, "created 2 times"),
        (an_end_waits_for_nothing, SPARSE, "ended before"),
        (what_died_is_not_ended, SPARSE, "ended as ('RUNNING', None), not as ('KILLED'"),
    ],
)
def test_a_mistake_in_delivery_is_seen_by_some_seed(
    mistake: Callable[[pytest.MonkeyPatch], None],
    profile: Profile,
    seen: str,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mistake(monkeypatch)
    assert any(seen in text for seed in range(1, 40) for text in told(seed, profile, tmp_path / str(seed), clock))


def told(seed: int, profile: Profile, folder: Path, clock: Clock) -> list[str]:
    """How a store differs from what was acknowledged, after the story of a seed."""
    story = Story(seed, profile, folder / "journals", clock)
    story.tell()
    return story.differences()
