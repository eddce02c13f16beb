"""What is looked at once more after it was written holds nothing up that has nothing to do with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from tracklayer.exceptions import StoreUnavailable
from tracklayer.journal import isolation
from tracklayer.journal.isolation import APART, FAILURES
from tracklayer.journal.judging import Judge
from tracklayer.journal.progress import Progress
from tracklayer.journal.second_look import SecondLook

if TYPE_CHECKING:
    from pathlib import Path


class Courier:
    """One that has two runs to look at again, and a server that fails with the first."""

    def __init__(self, error: StoreUnavailable) -> None:
        self.doubts = [("one", "link"), ("other", "link")]
        self._error = error

    @property
    def doubt(self) -> tuple[str, str] | None:
        return self.doubts[0] if self.doubts else None

    def let_go(self) -> None:
        del self.doubts[0]

    def look_again(self) -> None:
        while self.doubts:
            if self.doubts[0][0] == "one":
                raise self._error
            del self.doubts[0]


class Store:
    """A server that serves everything else, or nothing."""

    def __init__(self) -> None:
        self.away = False

    def ping(self) -> str:
        if self.away:
            raise StoreUnavailable("away")
        return "3"

    def log_batch(self, *_: Any, **__: Any) -> None:
        self.ping()


def failure() -> StoreUnavailable:
    error = StoreUnavailable("the server failed")
    error.internal = True
    return error


def look(courier: Courier, store: Store, folder: Path) -> SecondLook:
    """As a process of its own takes it, with what others have noted."""
    found = SecondLook(
        cast("Any", courier), Judge(cast("Any", store), Progress(folder), recovering=True), cast("Any", store)
    )
    found.after("run", 100)
    assert found.before(200) == 100
    return found


def test_what_the_server_fails_with_is_put_off_and_let_go_of_when_that_is_hopeless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns() // 1_000_000
    for number in range(FAILURES - 1):
        monkeypatch.setattr(isolation, "_now", lambda number=number: now + number * APART)
        courier = Courier(failure())
        second = look(courier, Store(), tmp_path)
        before = time.monotonic()
        second.take()
        after = time.monotonic()
        second.take()  # too early: nothing is asked
        assert second.retry_at is not None
        assert before + APART / 1_000 <= second.retry_at <= after + APART / 1_000
        assert (len(courier.doubts), second.before(200)) == (2, 100), "the journal is not done with"
    monkeypatch.setattr(isolation, "_now", lambda: now + FAILURES * APART)
    courier = Courier(failure())
    second = look(courier, Store(), tmp_path)
    second.take()
    assert (courier.doubts, second.retry_at, second.before(200)) == ([], None, 200)


def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    store = Store()
    with pytest.raises(StoreUnavailable):
        look(Courier(StoreUnavailable("no answer")), store, tmp_path).take()
    store.away = True
    second = look(Courier(failure()), store, tmp_path)
    with pytest.raises(StoreUnavailable):
        second.take()
    assert (second.retry_at, second.before(200)) == (None, 100)
