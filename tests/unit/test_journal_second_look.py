"""What is looked at once more after it was written holds nothing up that has nothing to do with it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tracklayer.exceptions import StoreUnavailable
from tracklayer.identity import UPSTREAM_TAG
from tracklayer.journal import isolation
from tracklayer.journal.isolation import APART, FAILURES
from tracklayer.journal.judging import TRIES, Judge
from tracklayer.journal.linkage import Linkage
from tracklayer.journal.progress import Progress
from tracklayer.journal.second_look import SecondLook
from tracklayer.provisional import provisional_id
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


class Courier:
    """One that has two runs to look at again, and a server that fails with the first."""

    def __init__(self, error: StoreUnavailable) -> None:
        self.doubts = [("one", "link"), ("other", "link")]
        self._error = error
        self._postponed: list[tuple[str, str]] = []

    @property
    def doubt(self) -> tuple[str, str] | None:
        return self.doubts[0] if self.doubts else None

    def in_doubt(self, run_id: str) -> bool:
        return run_id in dict(self.doubts)

    def let_go(self) -> None:
        del self.doubts[0]

    def postpone(self) -> None:
        self._postponed.append(self.doubts.pop(0))

    def resume(self) -> None:
        self.doubts += self._postponed
        self._postponed.clear()

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


def look(courier: Courier, store: Store, folder: Path, *, recovering: bool = True) -> SecondLook:
    """As a process of its own takes it, with what others have noted."""
    found = SecondLook(cast("Any", courier), Judge(cast("Any", store), Progress(folder), recovering=recovering))
    found.after("run", 100, "one")
    found.after("well", 50, "well")
    found.after("next", 150, "other")
    assert found.positions == {"run": 100, "next": 150}
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
        assert second.positions == {"run": 100}, "the journal is not done with"
        assert courier.doubts == [("one", "link")], "the other has nothing to do with it"
    monkeypatch.setattr(isolation, "_now", lambda: now + FAILURES * APART)
    courier = Courier(failure())
    second = look(courier, Store(), tmp_path)
    second.take()
    assert (courier.doubts, second.retry_at, second.before(200)) == ([], None, 200)


@pytest.mark.parametrize("error", [failure(), StoreUnavailable("no answer")])
def test_a_server_that_is_away_is_waited_for(tmp_path: Path, error: StoreUnavailable) -> None:
    store = Store()
    store.away = True
    second = look(Courier(error), store, tmp_path)
    with pytest.raises(StoreUnavailable):
        second.take()
    assert (second.retry_at, second.before(200)) == (None, 100)


@pytest.mark.parametrize("recovering", [False, True])
def test_what_is_not_answered_is_put_off_if_everything_else_is(tmp_path: Path, recovering: bool) -> None:
    """A live process asks for it some times more: perhaps the server was away for a moment."""
    courier = Courier(StoreUnavailable("no answer"))
    second = look(courier, Store(), tmp_path, recovering=recovering)
    for _ in range(0 if recovering else TRIES - 1):
        with pytest.raises(StoreUnavailable):
            second.take()
    second.take()
    assert second.retry_at is not None
    second._put_off = 0.0
    second.take()
    assert second.retry_at > time.monotonic(), "and again, at once, for as long as it takes"
    assert (courier.doubts, second.positions) == ([("one", "link")], {"run": 100})
    second._put_off = 0.0
    courier.doubts = []
    second.take()
    assert second.before(200) == 200
    assert second._put_off is None


def test_of_links_that_cannot_be_looked_at_the_others_are() -> None:
    lost, found = provisional_id(), provisional_id()

    def find(identifier: str) -> None:
        if identifier == lost:
            raise StoreUnavailable("no answer")

    linkage = Linkage(
        cast("Any", SimpleNamespace(store=Store())), Settings(), cast("Any", SimpleNamespace(runs={}, find=find))
    )
    linkage.sent("one", [UPSTREAM_TAG + lost, UPSTREAM_TAG + found])
    linkage.sent("other", [UPSTREAM_TAG + found])
    with pytest.raises(StoreUnavailable):
        linkage.look_again()
    assert linkage.doubt == ("one", lost)
    linkage.postpone()
    linkage.look_again()
    assert not linkage.in_doubt("one")
    assert not linkage.in_doubt("other")
    linkage.resume()
    assert linkage.doubt == ("one", lost)
    assert (linkage.in_doubt("one"), linkage.in_doubt("other")) == (True, False)
