"""One story by a seed: a process logs and delivers, is killed perhaps, and others take its journal over.

All of it is in this process, in a folder and in memory: the store is a `FaultyStore`, a kill is an exception behind which
nothing of the killed process is written any more. So a story takes less than a second, and thousands can be told.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Final, cast

from harness.acknowledged import Acknowledged
from harness.faulty_store import FaultyStore, Killed, files_of
from harness.journal import MIB
from harness.scribe import Profile, Scribe, bad_values
from tracklayer.backend import Backend
from tracklayer.exceptions import StoreError
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.failures import JournalClosed
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Header
from tracklayer.journal.recovery import Recovery
from tracklayer.journal.refusals import Refusal, refusals
from tracklayer.provisional import id_tag, provisional_id
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.faulty_store import Clock
    from tracklayer.store import Store

ENOUGH = 20_000
"""Steps in which a store that fails no more has everything, unless something hangs."""

PATIENCE = 31_000
"""Milliseconds between two steps, at least, where nobody logs: what a store failed with counts again by then."""

SOME = 60
"""Steps after which it takes longer."""

HOUR = 3_600_000
"""In milliseconds."""

SPARSE: Final = Profile(
    name="sparse",
    rounds=(20, 250),
    calls=6,
    limits=(MIB, 4 * MIB, 64 * MIB),
    whole=0.5,
    weights={
        "points": 30,
        "params": 8,
        "tags": 8,
        "all of it": 8,
        "dataset": 4,
        "untag": 5,
        "name": 3,
        "end": 6,
        "reopen": 4,
        "leave": 1,
        "link": 2,
        "child": 2,
        "artifact": 4,
        "elsewhere": 1,
        "many points": 10,
    },
)
"""A little of everything, which is sent as it comes."""

DENSE: Final = Profile(
    name="dense",
    rounds=(10, 40),
    calls=25,
    limits=(MIB // 4, MIB // 2, MIB, 4 * MIB),
    whole=0.03,
    weights={
        "points": 30,
        "params": 2,
        "tags": 1,
        "all of it": 1,
        "dataset": 0.5,
        "untag": 0.5,
        "name": 0.5,
        "end": 1,
        "reopen": 0.5,
        "leave": 0.3,
        "link": 0.3,
        "child": 1,
        "artifact": 2,
        "elsewhere": 8,
        "many points": 120,
    },
)
"""Metric points that fill requests, so that these fly, and the journal, so that it is thinned."""


class Story:
    """What happens by one seed.

    Attributes:
        acknowledged: what the journal acknowledged.
        store: where it was delivered.
    """

    def __init__(self, seed: int, profile: Profile, folder: Path, clock: Clock) -> None:
        """Begin it.

        Args:
            seed: all that happens follows from it, but for how threads come in each other's way.
            profile: how user code logs.
            folder: where the journal is; nothing but refused values is left there.
            clock: the store's, and that by which failures are counted.
        """
        self._chance = chance = random.Random(seed)
        self._profile = profile
        self._clock = clock
        self.store = FaultyStore(seed, clock, failing=chance.choice((0.0, 0.02, 0.1, 0.3)))
        self.store.on_end = self._look_at_end
        self._backend = Backend(cast("Store", self.store), "memory:")
        limit = chance.choice(profile.limits)
        self._settings = Settings(tracking_uri="http://127.0.0.1:9", journal=str(folder), journal_limit=limit)
        header = Header(1, "http://127.0.0.1:9", "host", os.getpid(), 1)
        self._live = LiveJournal(JournalFolder(folder), header, limit=limit)
        assert self._live.path is not None
        self._path = self._live.path
        self.acknowledged = Acknowledged()
        self._too_early: list[str] = []
        self._elsewhere = provisional_id()
        runs = [self.store.make(f"run{number}", {}).run_id for number in range(chance.randint(1, 4))]
        for run in runs:
            self.acknowledged.said[run] = []
        self._scribe = Scribe(
            chance, self._live, self.acknowledged, runs, elsewhere=self._elsewhere, bad=bad_values(chance)
        )
        self._deleting = chance.random() < 0.15
        self._kills = chance.randint(0, 4)
        self._died = True
        self._refusals: list[Refusal] = []

    def tell(self) -> None:
        """Let it happen, to its end. Raises AssertionError if it has none."""
        delivery = Delivery(
            self._live,
            self._backend,
            self._settings,
            recovering=False,
            given=self.acknowledged.made.__contains__,
        )
        killed = not self._live_through(delivery)
        if not killed and not self._kills and self._chance.random() < 0.5:
            self._died = False
            self._deliver_all(delivery)
            return
        if not killed:
            _land(delivery)
            self._silence_live()
        self._live.forked()  # it lets go of its files, and of its lock
        for kills in reversed(range(self._kills + 1)):
            if self._recover(last=kills == 0):
                return

    def differences(self) -> list[str]:
        """How the store differs, now that it is told, from what the journal acknowledged."""
        return self._too_early + self.acknowledged.differences(self.store, self._refusals, died=self._died)

    # The process that logs

    def _live_through(self, delivery: Delivery) -> bool:
        """Log and deliver for a while; False if the process was killed."""
        chance, store = self._chance, self.store
        store.on_kill = self._silence_live
        if self._kills and chance.random() < 0.6:
            store.kill_in = chance.randint(1, 150)
        try:
            for _ in range(chance.randint(*self._profile.rounds)):
                for _ in range(chance.randint(0, self._profile.calls)):
                    self._scribe.call(self._profile)
                self._disturb()
                for _ in range(chance.randint(0, 4)):
                    if not self._step(lambda: delivery.step(whole=chance.random() < self._profile.whole)):
                        break
        except (Killed, JournalClosed):
            assert store.dead
            return False
        store.kill_in = None
        return True

    def _deliver_all(self, delivery: Delivery) -> None:
        """The store is well again, and the process lives on until it has everything."""
        self._heal()
        for number in range(ENOUGH):
            self._wait(number)
            if not self._step(delivery.step) and delivery.delivered >= self._live.end:
                break
        else:
            raise AssertionError(f"never delivered: {delivery.delivered} of {self._live.end}, {delivery.held}")
        self._live.close(remove=False)
        self._refusals = list(refusals(self._path))
        taken = LeftJournal.take(self._path)
        assert taken is not None
        taken.close(remove=True)

    def _silence_live(self) -> None:
        """Nothing of the process is written from now on, wherever it may be."""
        self._live._closed = "killed"
        _silence(self._live)

    # Those who recover its journal

    def _recover(self, *, last: bool) -> bool:
        """Take the journal over; False if it was left again."""
        journal = LeftJournal.take(self._path)
        assert journal is not None, "nobody holds the journal, and it cannot be taken"
        self.store.dead = False
        self.store.on_kill = lambda: _silence(journal)
        self.store.kill_in = None if last else self._chance.randint(1, 200)
        if last:
            self._heal()
        try:
            recovery = Recovery(journal, self._backend, self._settings)
            for number in range(ENOUGH if last else self._chance.randint(1, 300)):
                if not last:
                    self._disturb()
                self._wait(number)
                self._step(recovery.step)
                if recovery.complete:
                    break
        except Killed:
            journal._held.release()
            return False
        delivery = recovery.delivery
        assert recovery.complete or not last, f"never delivered: {delivery.delivered} of {journal.end}, {delivery.held}"
        _land(delivery)
        if self.store.dead:
            journal._held.release()
            return False
        self._refusals = list(refusals(self._path))
        if recovery.complete or self._chance.random() < 0.5:
            return recovery.finish()
        _silence(journal)
        journal._held.release()
        return False

    # What happens to both

    def _step(self, step: Callable[[], bool]) -> bool:
        try:
            more = step()
        except StoreError:
            more = True
        if self.store.dead:  # in a thread of its own, perhaps
            raise Killed
        return more

    def _wait(self, number: int) -> None:
        """Let time pass before another step; much of it after some, as there are things that are given up after a day."""
        self._clock.now += PATIENCE if number < SOME else HOUR

    def _disturb(self) -> None:
        """Now and then something is the matter with the store, or somebody deletes a run."""
        chance, store = self._chance, self.store
        runs = store.named(chance.choice(self._scribe.runs))
        run_id, what = runs[0].run_id if runs else "?", chance.random()
        if what < 0.02:
            store.troubled[run_id] = chance.randint(1, 30)
        elif what < 0.03:
            store.outage = chance.randint(1, 15)
        elif what < 0.035:
            store.troubled[files_of(run_id)] = chance.randint(1, 60)
        elif what < 0.04 and self._deleting and runs:
            runs[0].deleted = True
        elif what < 0.045:
            self._make_elsewhere()

    def _heal(self) -> None:
        self.store.heal()
        self._make_elsewhere()

    def _make_elsewhere(self) -> None:
        """The run that another process makes comes to be."""
        if not self.store.named(self._elsewhere):
            self.store.make("elsewhere", {id_tag(self._elsewhere): "1"})

    def _look_at_end(self, run_id: str, end_time: int) -> None:
        self._too_early += self.acknowledged.too_early(self.store, run_id, end_time)


def _silence(journal: LiveJournal | LeftJournal) -> None:
    """What a killed process still does in memory, while the exception passes through it, leaves no trace on the disk."""
    journal.progress.forget()
    journal.progress._refusals._writable = False


def _land(delivery: Delivery) -> None:
    """Wait for what is under way: it is sent, and nobody has heard the answer."""
    if delivery._flight is not None and not delivery._flight.claim():
        delivery._flight._over.wait(None)
