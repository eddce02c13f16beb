"""The thread that delivers: when it believes that the server is there, and when it looks at what else is to be done."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.journal import MIB, header, point
from harness.process import wait_for
from tracklayer.exceptions import StoreUnavailable
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Log, Rename
from tracklayer.journal.sender import TURN, Sender
from tracklayer.provisional import provisional_id
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

RUN = "0" * 32


class Gate:
    """Where a request stops until a test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.fails = False
        self.count = 0

    def pass_through(self) -> None:
        self.count += 1
        self.reached.set()
        assert self.opened.wait(60)
        if self.fails:
            raise StoreUnavailable("nobody is there")


class SlowStore:
    """A server that answers nothing before it is told to."""

    uri = "http://slow.example.com"

    def __init__(self) -> None:
        self.renaming, self.pinging = Gate(), Gate()
        self.logged: list[str] = []

    def update_run(self, run_id: str, *, name: str) -> None:
        self.renaming.pass_through()

    def log_batch(
        self, run_id: str, *, metrics: Sequence[Any] = (), params: Mapping[str, str] | None = None, tags: Any = None
    ) -> None:
        self.logged += params or {}

    def search_runs(self, *asked: Any, **more: Any) -> list[Any]:
        return []

    def ping(self) -> None:
        self.pinging.pass_through()

    def try_again(self) -> None:
        pass


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


@contextmanager
def sending(
    store: SlowStore, *, on_turn: Callable[[], bool] = lambda: False, interval: float = 0.0
) -> Iterator[tuple[LiveJournal, Sender]]:
    """A journal and the thread that delivers it, which has all that it needs but a server."""
    journal = LiveJournal(None, header(), limit=MIB)
    backend: Any = type("Backend", (), {"store": store})
    delivery = Delivery(journal, backend, Settings(), recovering=False)
    sender = Sender(
        journal,
        delivery,
        cast("Any", store),
        interval=interval,
        on_failure=lambda _: None,
        on_idle=lambda: None,
        on_turn=on_turn,
    )
    yield journal, sender
    store.renaming.opened.set()
    store.pinging.opened.set()
    assert sender.stop(60)
    journal.close(remove=True)


def test_an_answer_to_an_old_request_is_none_to_who_has_waited_in_vain_since(store: SlowStore) -> None:
    """Else whoever comes next would wait in vain as well, for a server that has frozen a moment ago."""
    with sending(store) as (journal, sender):
        journal.append(Rename(RUN, "new"))
        sender.appended(Rename(RUN, "new"))
        assert store.renaming.reached.wait(60)
        assert not sender.wait(journal.end, patience=0.1, limit=None)
        assert sender.away
        store.renaming.opened.set()
        assert store.pinging.reached.wait(60)  # it is asked before anything else is believed
        assert sender.away
        assert not sender.wait(journal.end + 1, patience=60, limit=60)  # nobody waits meanwhile
        store.pinging.opened.set()
        wait_for(lambda: not sender.away, 60, "the server, which is there")
        assert sender.error is None


def test_who_has_waited_in_vain_was_right_if_the_server_is_not_there(store: SlowStore) -> None:
    store.pinging.fails = True
    with sending(store) as (journal, sender):
        journal.append(Rename(RUN, "new"))
        sender.appended(Rename(RUN, "new"))
        assert store.renaming.reached.wait(60)
        sender.slow()
        store.renaming.opened.set()
        store.pinging.opened.set()
        wait_for(lambda: sender.error is not None, 60, "a failed attempt")
        assert sender.away


def test_who_can_do_nothing_without_the_server_waits_for_a_silent_one_once(store: SlowStore) -> None:
    with sending(store) as (journal, sender):
        journal.append(Rename(RUN, "new"))
        sender.appended(Rename(RUN, "new"))
        assert store.renaming.reached.wait(60)
        assert sender.is_there(0.1, 60)  # as far as anybody knows
        sender.slow()
        assert not sender.is_there(0.1, 60)
        assert (store.pinging.count, str(sender.error)) == (1, "http://slow.example.com does not answer")
        assert not sender.is_there(60, 60)
        assert store.pinging.count == 1
        store.renaming.opened.set()
        store.pinging.opened.set()
        wait_for(lambda: not sender.away, 60, "the server, which is there")
        assert sender.is_there(60, 60)


def test_who_can_do_nothing_without_the_server_waits_no_longer_than_until_it_has_failed(store: SlowStore) -> None:
    store.renaming.fails = True
    with sending(store) as (journal, sender):
        journal.append(Rename(RUN, "new"))
        sender.appended(Rename(RUN, "new"))
        assert store.renaming.reached.wait(60)
        sender.slow()
        threading.Timer(0.3, store.renaming.opened.set).start()
        begun = time.monotonic()
        assert not sender.is_there(60, 60)
        assert time.monotonic() - begun < 30
        assert str(sender.error) == "nobody is there"


def test_who_can_do_nothing_without_the_server_waits_for_one_that_was_only_slow(store: SlowStore) -> None:
    with sending(store) as (journal, sender):
        journal.append(Rename(RUN, "new"))
        sender.appended(Rename(RUN, "new"))
        assert store.renaming.reached.wait(60)
        sender.slow()
        store.pinging.opened.set()
        threading.Timer(0.3, store.renaming.opened.set).start()
        assert sender.is_there(60, 60)
        assert not sender.away


def test_what_is_logged_while_a_run_is_held_is_not_sent_later_for_that(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracklayer.journal.holding.HELD", (60.0, 60.0))
    with sending(store, interval=0.2) as (journal, sender):
        journal.append(point(0, provisional_id()))  # of a run that is another machine's
        sender.appended(point(0))
        assert sender.wait(journal.end, patience=60, limit=60)
        time.sleep(0.5)  # the thread waits by now
        journal.append(Log(RUN, params={"lr": "0.1"}))
        sender.appended(Log(RUN, params={"lr": "0.1"}))
        wait_for(lambda: store.logged == ["lr"], 40, "what is logged to another run")


def turns_after_one_another(turns: Sequence[float]) -> None:
    """Once the thread waits, one turn follows the other, each when the time between them is over.

    That is to be seen in two gaps after one another: before it waits, the thread takes turns as it works.
    """

    def seen() -> bool:
        last = turns[-3:]
        return len(last) == 3 and all(later - earlier >= 0.9 * TURN for earlier, later in pairwise(last))

    wait_for(seen, 20 * TURN, "turns that follow one another")


@pytest.mark.parametrize("wanted", [True, False])
def test_who_wants_a_turn_before_long_has_one_although_nothing_is_to_be_sent(store: SlowStore, wanted: bool) -> None:
    turns: list[float] = []

    def on_turn() -> bool:
        turns.append(time.monotonic())
        return wanted

    with sending(store, on_turn=on_turn) as (journal, sender):
        assert sender.wait(journal.end, patience=60, limit=60)
        if wanted:
            turns_after_one_another(turns)
        else:
            wait_for(lambda: bool(turns), 60, "a first turn")  # before it waits
            wait_for(lambda: time.monotonic() - turns[-1] > 2.5 * TURN, 20 * TURN, "time without a turn")


def test_who_wants_a_turn_before_long_has_one_while_the_server_is_left_alone(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracklayer.journal.sender.REST", (60.0, 60.0))
    store.renaming.fails = True
    store.renaming.opened.set()
    turns: list[float] = []

    def on_turn() -> bool:
        turns.append(time.monotonic())
        return True

    with sending(store, on_turn=on_turn) as (journal, sender):
        journal.append(Rename(RUN, "new"))
        sender.appended(Rename(RUN, "new"))
        wait_for(lambda: sender.away, 60, "a failed attempt")
        turns_after_one_another(turns)
