"""What is given up of that with which a server fails, and when; against a store that fails with what a test names."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from tracklayer.exceptions import AccessDenied, NotFound, StoreError, StoreUnavailable
from tracklayer.journal import isolation
from tracklayer.journal.dead_letters import DeadLetters
from tracklayer.journal.isolation import FAILURES, LONG, WITNESS_TAG, Isolation, Suspects
from tracklayer.journal.progress import Progress
from tracklayer.store import Metric, Run, Store
from tracklayer.store.delivery import Refusal, deliver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MINUTE = 60_000


class Failing:
    """As much of a store as delivery uses; it fails with every request in which one of these is."""

    def __init__(self, *bad: str, error: type[StoreError] = StoreUnavailable) -> None:
        self.bad = set(bad)
        self.error = error
        self.stored: set[str] = set()
        self.tags: dict[str, str] = {}
        self.requests = 0

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.requests += 1
        keys = {metric.key for metric in metrics} | set(params or ()) | set(tags or ())
        if keys & self.bad:
            error = self.error("boom")
            if isinstance(error, StoreUnavailable):
                error.internal = True
            raise error
        self.stored |= keys
        self.tags.update(tags or {})

    def get_run(self, run_id: str) -> Run:
        told: dict[str, Any] = {"start_time": 1, "end_time": None, "artifact_uri": ""}
        return Run(run_id=run_id, experiment_id="0", name="", status="RUNNING", **told)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time, in milliseconds; a test moves it."""
    now = [1_700_000_000_000]
    monkeypatch.setattr(isolation, "_now", lambda: now[0])
    return now


def one_pass(store: Failing, suspects: Suspects, params: Mapping[str, str]) -> list[Refusal] | None:
    """What one pass gives up; None if something is to be tried again."""
    tried = Isolation(cast("Store", store), suspects)
    refusals = deliver(cast("Store", tried), "r", params=params)
    return refusals if tried.pending is None else None


MANY = {f"p{number}": "1" for number in range(100)}


@pytest.mark.parametrize("bad", ["p0", "p17", "p99"])
def test_what_fails_alone_for_minutes_is_given_up_whoever_delivers(clock: list[int], tmp_path: Path, bad: str) -> None:
    store = Failing(bad)
    for _ in range(FAILURES - 1):
        progress = Progress(tmp_path)  # each time another process
        assert one_pass(store, Suspects(progress), MANY) is None
        assert store.stored == set(MANY) - {bad} | {WITNESS_TAG}
        progress.close()
        clock[0] += MINUTE
    refusals = one_pass(store, Suspects(Progress(tmp_path)), MANY)
    assert refusals
    assert [(item.kind, item.key) for item in refusals] == [("param", bad)]


@pytest.mark.usefixtures("clock")
def test_failures_that_follow_each_other_closely_count_once() -> None:
    store, suspects = Failing("p17"), Suspects(Progress(None))
    for _ in range(5 * FAILURES):
        assert one_pass(store, suspects, MANY) is None


def test_nothing_counts_while_the_server_fails_with_everything(clock: list[int]) -> None:
    store, suspects = Failing(WITNESS_TAG, *MANY), Suspects(Progress(None))
    for _ in range(5 * FAILURES):
        with pytest.raises(StoreUnavailable, match="boom"):
            one_pass(store, suspects, MANY)
        clock[0] += MINUTE
    store.bad.clear()
    assert one_pass(store, suspects, MANY) == []


def test_of_a_kind_of_which_nothing_is_taken_nothing_is_given_up_for_a_day(clock: list[int]) -> None:
    store, suspects = Failing("p0"), Suspects(Progress(None))
    began = clock[0]
    while one_pass(store, suspects, {"p0": "1"}) is None:
        clock[0] += 30 * MINUTE
    assert clock[0] - began >= LONG


def test_what_is_taken_in_the_end_is_no_suspect_any_more(clock: list[int]) -> None:
    store, suspects = Failing("p17"), Suspects(Progress(None))
    for _ in range(FAILURES - 1):
        assert one_pass(store, suspects, MANY) is None
        clock[0] += MINUTE
    store.bad.clear()
    assert one_pass(store, suspects, MANY) == []
    store.bad.add("p17")
    clock[0] += MINUTE
    assert one_pass(store, suspects, MANY) is None


def test_a_pass_in_which_much_fails_ends_and_the_next_one_goes_on(clock: list[int]) -> None:
    store, suspects = Failing(*list(MANY)[::2]), Suspects(Progress(None))
    passes = 0
    while not set(list(MANY)[1::2]) <= store.stored:
        before = store.requests
        with contextlib.suppress(StoreUnavailable):
            one_pass(store, suspects, MANY)
        assert store.requests - before < 100
        passes += 1
        assert passes < 50
        clock[0] += 1_000
    assert passes > 1


def test_what_a_run_is_told_counts_what_others_have_told_it_before(tmp_path: Path) -> None:
    store = Failing()
    for number in range(3):
        progress = Progress(tmp_path)  # each time another process
        letters = DeadLetters(cast("Store", store), progress)
        letters.keep("r", [Refusal(kind="param", key=f"p{number}", value="1", reason="no")])
        progress.close()
    assert store.tags["tracklayer.refused"] == "3: param p0: no; param p1: no; param p2: no"


@pytest.mark.parametrize("again", [True, False], ids=["delivered once more", "delivered before"])
def test_a_run_is_told_although_whoever_kept_the_refused_value_was_killed_then(tmp_path: Path, again: bool) -> None:
    store, refused = Failing("tracklayer.refused"), [Refusal(kind="param", key="p", value="1", reason="no")]
    progress = Progress(tmp_path)
    DeadLetters(cast("Store", store), progress).keep("r", refused)
    progress.close()
    store.bad.clear()
    letters = DeadLetters(cast("Store", store), Progress(tmp_path))
    if again:
        letters.keep("r", refused)
    letters.tell_all()
    assert store.tags == {"tracklayer.refused": "1: param p: no"}


@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied])
def test_a_run_that_cannot_be_told_is_told_later(error: type[StoreError]) -> None:
    store = Failing("tracklayer.refused", error=error)
    letters = DeadLetters(cast("Store", store), Progress(None))
    letters.keep("r", [Refusal(kind="artifact", key="a.txt", value="", reason="no")])
    assert store.tags == {}
    store.bad.clear()
    letters.tell_all()
    assert store.tags == {"tracklayer.refused": "1: artifact a.txt: no"}


@pytest.mark.parametrize("anew", [False, True], ids=["added to", "written anew"])
@pytest.mark.parametrize("error", [None, NotFound], ids=["told", "not there any more"])
def test_a_run_that_knows_is_not_told_again_by_each_who_tries_what_is_left(
    tmp_path: Path, error: type[StoreError] | None, anew: bool
) -> None:
    store = Failing(*(["tracklayer.refused"] if error else []), error=error or StoreUnavailable)

    def attempt(*keys: str) -> int:
        """What another process asks the server that delivers the journal, and finds that these are refused."""
        before, progress = store.requests, Progress(tmp_path)
        letters = DeadLetters(cast("Store", store), progress)
        letters.keep("r", [Refusal(kind="param", key=key, value="1", reason="no") for key in keys])
        letters.tell_all()
        if anew:
            progress.move_to(tmp_path)
        progress.close()
        return store.requests - before

    assert attempt("p") > 0
    assert [attempt(), attempt(), attempt("p")] == [0, 0, 0]
    assert attempt("p", "q") > 0, "it does not know of that"
    assert attempt() == 0
    assert store.tags == ({} if error else {"tracklayer.refused": "2: param p: no; param q: no"})
