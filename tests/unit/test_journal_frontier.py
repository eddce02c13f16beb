"""What a delivery notes about how far it is, and where whoever goes on with the journal begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.journal import appended
from tracklayer.exceptions import StoreUnavailable
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.frontier import Frontier
from tracklayer.journal.holding import Holds
from tracklayer.journal.judging import Judge
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import End, Header, Named, Rename
from tracklayer.journal.parcels import Parcels
from tracklayer.journal.progress import Progress
from tracklayer.journal.recovery import Recovery
from tracklayer.journal.second_look import SecondLook
from tracklayer.provisional import provisional_id
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from tracklayer.journal.courier import Courier
    from tracklayer.journal.readable import Journal

A, B, C = "a" * 32, "b" * 32, "c" * 32


class Names:
    """A store that takes new names of runs, but of those in trouble.

    Attributes:
        taken: these, in order, each with its run.
        troubled: ids of runs with which it fails.
        away: True if it is not there at all.
    """

    uri = "memory:"

    def __init__(self, *troubled: str) -> None:
        self.taken: list[tuple[str, str]] = []
        self.troubled = set(troubled)
        self.away = False

    def update_run(self, run_id: str, *, name: str) -> None:
        if self.away or run_id in self.troubled:
            raise StoreUnavailable("not now")
        self.taken.append((run_id, name))

    def ping(self) -> None:
        if self.away:
            raise StoreUnavailable("not now")


def delivered(journal: LiveJournal | LeftJournal, store: Names) -> bool:
    """Deliver what can be; whether that was all."""
    delivery = Delivery(journal, cast("Any", SimpleNamespace(store=store)), Settings(), recovering=True)
    for _ in range(20):
        try:
            if not delivery.step():
                break
        except StoreUnavailable:
            if store.away:
                break
    return delivery.delivered == journal.end


@pytest.fixture
def journal(tmp_path: Path) -> LiveJournal:
    return LiveJournal(JournalFolder(tmp_path), Header(1, "memory:", "host", 1, 1), limit=1_048_576)


def left(journal: LiveJournal) -> LeftJournal:
    journal.close(remove=False)
    return taken(journal.path)


def taken(path: Path | None) -> LeftJournal:
    assert path
    found = LeftJournal.take(path)
    assert found
    return found


def test_what_waited_comes_before_what_nobody_has_read(journal: LiveJournal) -> None:
    """As it was logged: a workflow run's end may stand behind what waits."""
    store = Names(A)
    for run, name in ((A, "1"), (B, "2"), (A, "3")):
        journal.append(Rename(run, name))
    assert not delivered(journal, store)
    store.away = True
    for run, name in ((B, "4"), (A, "5")):
        journal.append(Rename(run, name))
    other = left(journal)
    assert not delivered(other, store)
    other.close(remove=False)
    assert store.taken == [(B, "2")]
    store.away = False
    store.troubled.clear()
    other = taken(journal.path)
    assert delivered(other, store)
    assert store.taken == [(B, "2"), (A, "1"), (A, "3"), (B, "4"), (A, "5")]
    other.close(remove=True)


def test_what_waits_still_is_tried_by_each_and_passed_over_in_what_is_new(journal: LiveJournal) -> None:
    store = Names(A)
    journal.append(Rename(A, "1"))
    begun = journal.end
    assert not delivered(journal, store)
    position = appended(journal, Rename(B, "2"))
    journal.append(Rename(A, "3"))
    other = left(journal)
    assert other.progress.held == {A: other.progress.delivered}
    assert other.progress.settled == begun < position
    assert not delivered(other, store)
    other.close(remove=False)
    other = taken(journal.path)
    assert not delivered(other, store)
    assert store.taken == [(B, "2")]
    assert other.progress.settled == other.end
    store.troubled.clear()
    other.close(remove=False)
    other = taken(journal.path)
    assert delivered(other, store)
    assert store.taken == [(B, "2"), (A, "1"), (A, "3")]
    other.close(remove=True)


def test_a_run_that_waited_is_told_from_the_others_until_nothing_of_it_is_open(tmp_path: Path) -> None:
    progress, holds, parcels = Progress(tmp_path), Holds(), Parcels()
    courier: Any = SimpleNamespace(doubt=(A, "a link"), resume=lambda: None)
    courier.in_doubt = lambda _: courier.doubt is not None
    courier.look_again = lambda: setattr(courier, "doubt", None)
    second_look = SecondLook(cast("Courier", courier), Judge(cast("Any", None), progress, recovering=True))
    journal = cast("Journal", SimpleNamespace(progress=progress, thin=lambda before, waiting: None))
    frontier = Frontier(journal, holds, parcels, second_look)

    def noted(position: int) -> tuple[int, int, dict[str, int]]:
        frontier.note(position, resting=True)
        found = Progress(tmp_path, writable=False)
        return found.delivered, found.settled, dict(found.held)

    holds.hold(A, 10, "it waits")
    parcels.add(B, B, 50, (), {}, {"t": "1"})
    assert noted(100) == (10, 50, {A: 10})
    parcel = parcels.get(B)
    assert parcel
    parcels.sent(B, parcel, 1, whole=True)
    assert noted(100) == (10, 100, {A: 10})
    parcels.add(A, A, 20, (), {}, {"t": "1"})  # it is tried again, and has come further
    holds[A].position = 90
    assert noted(100) == (20, 100, {A: 20})
    parcel = parcels.get(A)
    assert parcel
    parcels.sent(A, parcel, 1, whole=True)
    second_look.after(A, 20, A)
    second_look.after("files:a", 15, A)
    holds.release(A)
    second_look.after(B, 120, B)
    assert noted(200) == (20, 120, {A: 20}), "it is to be looked at again"
    second_look.take()
    assert noted(200) == (200, 200, {})
    progress.close()


def test_what_is_looked_at_again_later_holds_up_no_other(tmp_path: Path) -> None:
    """The server fails with it, and with nothing else; whoever takes the journal over goes on behind all others."""
    progress, holds, parcels = Progress(tmp_path), Holds(), Parcels()
    error = StoreUnavailable("the server failed")
    error.internal = True

    def fail() -> None:
        raise error

    told = {"look_again": fail, "postpone": lambda: None, "resume": lambda: None, "in_doubt": lambda run: run == B}
    courier = cast("Courier", SimpleNamespace(doubt=(B, "a link"), **told))
    store = cast("Any", SimpleNamespace(ping=lambda: None, log_batch=lambda *_, **__: None))
    second_look = SecondLook(courier, Judge(store, progress, recovering=True))
    thinned: list[int] = []
    journal = cast("Journal", SimpleNamespace(progress=progress, thin=lambda before, _: thinned.append(before)))
    frontier = Frontier(journal, holds, parcels, second_look)
    second_look.after(B, 120, B)
    second_look.after(A, 50, A)
    second_look.after("close:flights", 60, None)
    assert (frontier.delivered(200), frontier.settled(200)) == (120, 120)
    second_look.take()
    assert (frontier.delivered(200), frontier.settled(200)) == (120, 200)
    holds.hold(A, 150, "it waits")
    frontier.note(200, resting=True)
    found = Progress(tmp_path, writable=False)
    assert (found.delivered, found.settled, dict(found.held)) == (120, 200, {A: 150, B: 120})
    assert thinned == [120], "what is to be looked at again stays in the journal"
    progress.close()


class Ends(Names):
    """One that also ends runs, and has something against one of them when it is looked at again.

    Attributes:
        error: that.
        ended: how runs were ended.
    """

    def __init__(self, error: StoreUnavailable) -> None:
        super().__init__()
        self.error: StoreUnavailable | None = error
        self.ended: list[tuple[str, str]] = []

    def update_run(self, run_id: str, **changes: Any) -> None:
        if "status" in changes:
            self.ended.append((run_id, changes["status"]))
        else:
            super().update_run(run_id, **changes)

    def get_run(self, run_id: str) -> Any:
        if run_id == A and self.error is not None:
            raise self.error
        return SimpleNamespace(run_id=run_id, status="RUNNING", tags={}, deleted=False, start_time=1)

    def log_batch(self, run_id: str, **_: Any) -> None:
        """It takes whatever there is."""


@pytest.mark.parametrize("internal", [True, False])
def test_a_late_end_that_cannot_be_looked_at_holds_up_no_other_run(journal: LiveJournal, internal: bool) -> None:
    """What others have made of them since stays as it is, and what died is ended."""
    error = StoreUnavailable("the server failed, or does not answer")
    error.internal = internal
    store, died = Ends(error), provisional_id()
    backend = cast("Any", SimpleNamespace(store=store))
    journal.progress.name(Named(died, C, "1"))
    begun = journal.end
    for operation in (End(A, "FINISHED", 1), Rename(B, "2"), End(B, "FINISHED", 1)):
        journal.append(operation)
    other = left(journal)

    def recover(other: LeftJournal) -> bool:
        recovery = Recovery(other, backend, Settings())
        try:
            while recovery.step():
                pass
        finally:
            complete = recovery.finish()
        return complete

    assert not recover(other)
    assert (store.taken, store.ended) == ([(B, "2")], [(A, "FINISHED"), (B, "FINISHED"), (C, "KILLED")])
    progress = Progress(other.path, writable=False)
    assert progress.held[A] == progress.delivered == begun
    store.error = None
    assert recover(taken(other.path))
    assert store.taken == [(B, "2")]
    assert store.ended[3:] == [(A, "FINISHED")]
