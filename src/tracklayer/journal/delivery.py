"""A journal becomes requests: in order for each run, in as few of them as MLflow's limits allow, and each run for itself.

Records are read a window at a time. What is logged to a run is gathered into parcels until one fills a request, until
an operation of the same run comes that has to wait for it (its end), or until whoever drives this wants it sent. What
cannot be delivered yet (it names a run that another machine has still to deliver, or the server fails with this run
and with no other) is *held*: its run is passed over from there on, and tried again later. Nothing before the lowest
position of what is gathered or held counts as delivered; but whoever goes on with the journal knows what was held, and
delivers nothing else of what stands behind that (see `tracklayer.journal.frontier`). One full request of metric points
may be under way while the next window is read; nothing else is sent before it has landed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import AlreadyExists, NotFound, Refused, StoreError
from tracklayer.journal.courier import Abandoned, Courier
from tracklayer.journal.dead_letters import DeadLetters, letters, told_of
from tracklayer.journal.flight import Flight
from tracklayer.journal.frontier import Frontier
from tracklayer.journal.gathering import Gatherer
from tracklayer.journal.holding import Holds
from tracklayer.journal.identities import Held, Identities, Later
from tracklayer.journal.judging import TRIES, Judge
from tracklayer.journal.lanes import MODEL, lane_of, owner_of
from tracklayer.journal.notes import Ended
from tracklayer.journal.operations import (
    Artifact,
    Begin,
    Close,
    Consumed,
    Create,
    CreateModel,
    DeleteTag,
    End,
    Gone,
    Header,
    Inputs,
    LeftOpen,
    Linked,
    Log,
    Outputs,
    Rename,
)
from tracklayer.journal.parcels import Parcels
from tracklayer.journal.second_look import SecondLook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracklayer.backend import Backend
    from tracklayer.journal.operations import Named, NamedModel, Operation
    from tracklayer.journal.parcel import Parcel
    from tracklayer.journal.readable import Journal
    from tracklayer.journal.record import Record
    from tracklayer.opening import Opened
    from tracklayer.settings import Settings
    from tracklayer.store.delivery import Refusal

log = logging.getLogger("tracklayer")

BARRIERS: Final = (DeleteTag, Linked, Rename, End)
"""What has to wait for everything that was logged to its run before."""

_FINAL: Final = (Refused, NotFound, AlreadyExists)


def nobody(identifier: str) -> bool:
    """No id: for callers that know of none."""
    del identifier
    return False


def unheard(identifier: str, named: Named | NamedModel, opened: Opened | None) -> None:
    """Nobody listens."""
    del identifier, named, opened


def untroubled(identifier: str, error: Exception) -> None:
    """Nobody cares."""
    del identifier, error


class Delivery:
    """Delivers one journal; has no thread of its own and is used by one at a time.

    Attributes:
        settled: position up to which everything is delivered, refused or held; may be read from any thread.
        identities: what the server calls the runs and models of the journal.
        requests: counts up with everything that was delivered, so that progress can be told from a standstill.
    """

    def __init__(
        self,
        journal: Journal,
        backend: Backend,
        settings: Settings,
        *,
        recovering: bool,
        on_named: Callable[[str, Named | NamedModel, Opened | None], None] = unheard,
        given: Callable[[str], bool] = nobody,
        cancelled: Callable[[str], bool] = nobody,
        on_trouble: Callable[[str, Exception], None] = untroubled,
    ) -> None:
        """Begin where the journal's progress says.

        Args:
            journal: what to deliver.
            backend: where to.
            settings: those of whoever delivers.
            recovering: True for a journal whose process has ended.
            on_named: told when a run or model has come to be: its local id, what the server calls it, and, for a
                stage, all that is known about it.
            given: whether a local id was given out to user code; asked when its run is created.
            cancelled: whether a run that was begun is not to be any more.
            on_trouble: told what is wrong with one run or model alone, by its local id.
        """
        self._journal = journal
        self._store = backend.store
        self._on_trouble = on_trouble
        self._position = journal.progress.settled
        self.settled = self._position
        self.identities = Identities(backend.store, journal.progress)
        self._letters = DeadLetters(backend.store, journal.progress)
        self._courier = Courier(
            journal,
            backend,
            settings,
            self.identities,
            recovering=recovering,
            given=given,
            cancelled=cancelled,
            on_named=on_named,
            on_refused=self._letters.keep,
        )
        self._judge = Judge(backend.store, journal.progress, recovering=recovering)
        self._second_look = SecondLook(self._courier, self._judge)
        self._parcels = Parcels()
        self._gatherer = Gatherer(self._courier, self.identities, self._parcels, self._letters)
        self._holds = Holds()
        self._frontier = Frontier(journal, self._holds, self._parcels, self._second_look)
        self._taking_over = bool(self._holds)
        self._dead = self.identities.dead
        self._retrying: tuple[set[str], int] | None = None
        self._flight: Flight | None = None
        self._last_flight = 0.0  # seconds that it took
        self._answers = False
        self.requests = 0

    @property
    def delivered(self) -> int:
        """Position before which everything is delivered."""
        return self._frontier.delivered(self._position)

    @property
    def unread(self) -> bool:
        """True if there is something in the journal that was not looked at yet."""
        return self._position < self._journal.end

    @property
    def held(self) -> dict[str, str]:
        """Why runs are held, by their local ids. May be called from any thread."""
        return self._holds.reasons

    @property
    def gathered_since(self) -> float | None:
        """When the oldest of what is gathered was, on the monotonic clock; None if nothing is."""
        return self._parcels.since

    @property
    def retry_at(self) -> float | None:
        """When, on the monotonic clock, something that is held, or put off, is worth another try; None if nothing is."""
        moments = self._holds.retry_at, self._second_look.retry_at
        return min((moment for moment in moments if moment is not None), default=None)

    def step(self, *, whole: bool = True) -> bool:
        """Deliver the next window.

        Args:
            whole: also send what does not fill a request, at the end of the journal; False leaves it gathered.

        Returns:
            False when there is nothing left to do now.

        Raises:
            StoreError: the server is away, or lets nobody in. Nothing is lost, and the same step may be tried again.
        """
        more = False
        try:
            more = self._step(whole=whole)
        except StoreError:
            self._answers = False
            raise
        finally:
            self.settled = self._frontier.settled(self._position)
            self._frontier.note(self._position, resting=not more)
        return more

    def _step(self, *, whole: bool) -> bool:
        if self._second_look.is_due(self._position):
            self._second_look.take()
        if self._taking_over:  # what an earlier delivery has passed over comes before what it has not read
            self._retry()
            self._taking_over = self._retrying is not None
            return True
        if self._position < self._journal.end and (records := self._journal.read(self._position)):
            taken = 0
            while taken < len(records):
                if points := self._took_points(records, taken):
                    taken += points
                else:
                    self._take(records[taken])
                    taken += 1
                self._position = records[taken - 1].next
                self._send_full()
            return True
        self._land()
        if self._parcels.full:
            self._send_full()
            return True
        if whole and self._parcels:
            self.send()
            return True
        if self._retry():
            return True
        self._letters.tell_all()
        self._second_look.take()
        return False

    def send(self) -> None:
        """Send everything that is gathered. Raises StoreError."""
        for lane in self._parcels:
            self._send(lane)

    # One record after the other

    def _take(self, record: Record) -> None:
        operation = record.operation
        self._land()
        lane = lane_of(operation)
        if self._holds.passes(lane, record.position) or (lane in self._dead and self._is_dead(operation, lane)):
            return
        try:
            self._perform(operation, record, lane)
        except Held as held:
            if self.identities.is_refused(held.id) and not isinstance(operation, Close):  # others may make a parent
                self._go_without(operation, lane, self._dead[held.id] or "")
            else:
                self._hold(lane, record.position, str(held), held.id)
        except Later as later:
            self._hold(lane, record.position, str(later))
        except Abandoned:
            self._dead[lane] = None
        except StoreError as error:
            self._judge_one(operation, lane, record.position, error)
        except Exception as error:
            log.warning("tracking: delivering %s failed: %s", type(operation).__name__, error, exc_info=error)
            self._trouble(lane, record.position, error)

    def _took_points(self, records: Sequence[Record], begin: int) -> int:
        """Gather the points of a run that is well and has some already, of how many records; 0 in any other case."""
        first = records[begin].operation
        run = first.run if type(first) is Log else ""
        if not run or run in self._judge.troubles or run in self._dead or run in self._holds:
            return 0
        return self._parcels.take_points(run, records, begin)

    def _is_dead(self, operation: Operation, lane: str) -> bool:
        """Whether nothing can become of an operation, because its run is not to be."""
        if isinstance(operation, Begin):  # with which it may come to life again
            del self._dead[lane]
            return False
        self._bury(operation, self._dead[lane])
        return True

    def _perform(self, operation: Operation, record: Record, lane: str) -> None:
        if isinstance(operation, Log):
            self._gatherer.log(operation, lane, record.position)
        elif isinstance(operation, Inputs | Outputs | Consumed):
            self._gatherer.more(operation, lane, record.position)
        elif isinstance(operation, LeftOpen):
            self._journal.progress.remember(Ended(operation.run))
        elif not isinstance(operation, Header | Gone):
            if isinstance(operation, Close):
                self.send()
            elif isinstance(operation, BARRIERS):
                if isinstance(operation, End) and (tags := self._courier.endings.announcement(operation)):
                    self._gatherer.log(Log(operation.run, tags=dict(tags)), lane, record.position)
                if not self._send(lane):
                    if lane in self._dead:  # else it is held, and comes again
                        self._bury(operation, self._dead[lane])
                    return
                self._letters.tell(self._courier.resolve(operation.run))
            self._courier.perform(operation, record.at)
            self._second_look.after(lane, record.position, self.identities.known(owner_of(operation)))
            self._judge.well(lane)
            self.requests += 1

    def _send_full(self) -> None:
        """Send what fills requests, once a record is taken; all that is gathered, if that is much."""
        if self._parcels.many:
            self.send()
            self._parcels.count_anew()
        full = self._parcels.full
        while full:
            lane = next(iter(full))
            parcel = self._parcels.get(lane)
            if parcel is None or not parcel.only_points or not self._answers or self._retrying is not None:
                self._send(lane, whole=False)
                continue
            flight = Flight(lane, parcel, self._store)
            if self._flight is not None:
                self._flight.follow_with(flight)
            self._land()
            # Else what was under way has put its run aside, or has taken these points with it when it was made again.
            if self._parcels.get(lane) is parcel and flight.take_off(self._last_flight):
                self._flight = flight
                if not parcel.full:
                    full.discard(lane)

    def _send(self, lane: str, *, whole: bool = True) -> bool:
        """Send what is gathered for a run; False if that cannot be done now, and the run is held."""
        self._land()
        parcel = self._parcels.get(lane)
        if parcel is None:
            self._parcels.full.discard(lane)
            return True
        return self._settle(lane, parcel, lambda: parcel.send(self._store, whole=whole), whole=whole)

    def _land(self) -> None:
        """Wait for what is under way. Raises StoreError."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._settle(flight.lane, flight.parcel, flight.land, whole=False)
            self._last_flight = flight.took

    def _settle(self, lane: str, parcel: Parcel, request: Callable[[], list[Refusal]], *, whole: bool) -> bool:
        """See what becomes of a request for a run; False if that cannot be made now, and the run is held."""
        before, begin = parcel.size, parcel.position
        try:
            refusals = request()
        except _FINAL as error:  # the run itself is gone, not only a value refused
            if not self._is_gone(parcel.run_id):
                self._judge.tell_apart(lane, error)
                self._trouble(lane, parcel.position, error)
                return False
            self._dead[lane] = str(error)
            refusals = parcel.refused(str(error))
            whole = True
        except StoreError as error:
            if parcel.full:
                self._parcels.full.add(lane)
            self._judge.tell_apart(lane, error)
            position = parcel.position
            try:
                refusals = self._judge.isolated(parcel, error, whole=whole)
            except StoreError as left:
                self._trouble(lane, position, left)
                return False
        except Exception as error:
            log.warning("tracking: delivering what was logged to %s failed: %s", lane, error, exc_info=error)
            self._trouble(lane, parcel.position, error)
            return False
        self._parcels.sent(lane, parcel, before, whole=whole)
        self._answers = True
        self.requests += 1
        self._judge.well(lane)
        self._letters.keep(parcel.run_id, refusals, tell=lane not in self._dead)
        self._courier.sent(parcel.run_id, parcel.links)
        self._second_look.after(lane, begin, parcel.run_id)
        return lane not in self._dead

    def _is_gone(self, run_id: str) -> bool:
        try:
            return self._store.get_run(run_id).deleted
        except NotFound:
            return True

    # What does not go well

    def _judge_one(self, operation: Operation, lane: str, position: int, error: StoreError) -> None:
        """See what becomes of an operation that failed."""
        if self._judge.has_raised(error):
            raise error
        if not isinstance(error, _FINAL):
            self._judge.tell_apart(lane, error)
            error = self._judge.verdict(operation, error, self.identities)
        if isinstance(error, _FINAL):
            self._give_up(operation, lane, position, error)
        else:
            self._trouble(lane, position, error)

    def _trouble(self, lane: str, position: int, error: Exception) -> None:
        self._on_trouble(lane, error)
        if self._holds.is_news(lane):
            log.warning("tracking: %s waits, the others go on: %s", lane, error)
        self._hold(lane, position, str(error))

    def _hold(self, lane: str, position: int, why: str, missing: str | None = None) -> None:
        self._parcels.put_aside(lane, position)  # it is gathered anew when its run is tried again
        self._holds.hold(lane, position, why, missing)
        if self._retrying is not None:  # what comes behind has to wait for the next time, too
            self._retrying[0].discard(lane)

    def _give_up(self, operation: Operation, lane: str, position: int, error: StoreError) -> None:
        """The server will never take this operation."""
        if isinstance(operation, Begin | Create | CreateModel):
            count = self._judge.count(lane)
            self._on_trouble(lane, error)
            if count < TRIES:  # whatever was in its way (an experiment that somebody has just deleted) may be gone
                self._hold(lane, position, str(error))
                return
            log.error("tracking: the run %s cannot be created, what was logged to it is kept: %s", lane, error)
            self.identities.bury(lane, str(error))
        elif isinstance(error, NotFound) and not owner_of(operation).startswith(MODEL):
            run_id = self.identities.known(owner_of(operation))
            if run_id is not None and self._is_gone(run_id):
                self._dead[lane] = str(error)
        self._bury(operation, str(error))

    def _bury(self, operation: Operation, reason: str | None) -> None:
        """Keep what an operation holds among what was refused; nothing of a run that nobody was promised."""
        if reason is None:
            return
        lane, known = owner_of(operation), self.identities.known
        if isinstance(operation, Artifact):
            self._journal.spare(operation.file)
        run = known(told_of(operation) or "") or known(lane) or lane
        alive = ":" not in run and (lane not in self._dead or run != known(lane))
        self._letters.keep(run, letters(operation, reason), tell=alive)

    def _go_without(self, operation: Operation, lane: str, reason: str) -> None:
        """An operation needs a run or model that was refused."""
        if isinstance(operation, Begin | Create | CreateModel):
            self._on_trouble(lane, Refused(reason))
            self.identities.bury(lane, reason)
        self._bury(operation, reason)

    # What is held is tried again

    def _retry(self) -> bool:
        """Deliver the next window of what is held and due; False if there is none."""
        if self._retrying is None:
            due = self._worth_a_try()
            first = self._holds.first(due)
            if first is None:
                return False
            self._retrying = due, first
        due, position = self._retrying
        records = self._journal.read(position) if position < self._position else []
        for record in records:
            if record.position >= self._position:
                break
            lane = lane_of(record.operation)
            if lane in due and self._holds.passes(lane, record.position):
                self._take_again(record, lane)
            position = record.next
            self._retrying = due, position
            self._send_full()
        if position >= self._position or not records or not due:  # those that are held once more wait for the next time
            self._release(due)
        return True

    def _worth_a_try(self) -> set[str]:
        """Those that are due, but for those that wait for an id which is not there yet."""
        due = self._holds.due()
        if due:
            self.identities.ask_again()
        for lane in list(due):
            hold = self._holds[lane]
            missing = hold.missing
            if missing is None or self.identities.is_refused(missing):
                continue
            if self.identities.resolved(missing) == missing:
                self._holds.hold(lane, hold.position, hold.why, missing)
                due.discard(lane)
        return due

    def _take_again(self, record: Record, lane: str) -> None:
        hold = self._holds[lane]
        hold.tried = True
        try:
            self._take(record)
        finally:
            hold.tried = False
        if self._holds[lane] is hold:  # else it is held once more
            hold.position = record.next

    def _release(self, due: set[str]) -> None:
        """All that they had left was tried."""
        for lane in list(due):
            if self._send(lane) or lane in self._dead:
                self._holds.release(lane)
                self._judge.well(lane)
            due.discard(lane)
        self._retrying = None
