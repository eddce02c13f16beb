"""Journals that were left behind are delivered, and the runs of processes that died are ended.

A journal is left behind when its process was killed, or ended while the server was away. Whoever delivers it holds its
lock; what they cannot deliver either stays for the next one.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tracklayer.ending import DIED, end_instead
from tracklayer.exceptions import NotFound, Refused, StoreError
from tracklayer.forking import importing
from tracklayer.identity import workflow_run_key
from tracklayer.journal.delivery import Delivery
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.lanes import FILES, MODEL
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.notes import Begun
from tracklayer.journal.operations import Begin, Close, End, GivenOut, LeftOpen
from tracklayer.journal.progress import TWICE
from tracklayer.outcome import OUTCOME_TAG
from tracklayer.parent import settle_parents
from tracklayer.store.failure import is_of_one
from tracklayer.twins import trash_twins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tracklayer.backend import Backend
    from tracklayer.context import RunContext
    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")

AGAIN: Final = 30.0
"""Seconds after which somebody who delivers all the time looks again for what was left behind."""


_OVER: Final = "over:"
"""How the note begins that something of a dead process was ended; then what it was."""

UNASKED: Final = 0.75
"""The part of the time at the end of a process in which delivery goes on; the rest is for it to stop in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the whole of a journal says, before any of it is delivered.

    Attributes:
        given: local ids that user code was given: what stands behind them must come to be.
        ended: local ids of runs that were ended, or left open on purpose, and neither begun nor opened again.
        parents: local ids of parents of workflow runs.
        scripts: by key, the workflow runs that were this process's own and that it did not end.
        begun: by the local ids of runs that were begun, the keys of their workflow runs.
    """

    given: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    parents: frozenset[str] = frozenset()
    scripts: Mapping[str, RunContext] = field(default_factory=dict)
    begun: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, journal: LeftJournal) -> Survey:
        """Read all of a journal, and what is remembered of records that are not there any more."""
        remembered, names = journal.progress.remembered, journal.progress.names
        given: set[str] = set()
        ended = set(remembered.ended)
        notes = list(remembered.begun.values())
        begun: dict[str, str] = {}
        closed = set(remembered.closed)
        position = 0
        while records := journal.read(position):
            for record in records:
                match record.operation:
                    case GivenOut(id=identifier):
                        given.add(identifier)
                    case End(run=run, status=status):
                        ended.discard(run) if status == "RUNNING" else ended.add(run)
                    case LeftOpen(run=run):
                        ended.add(run)
                    case Begin(id=identifier, opening=opening) as begin:
                        begun[identifier] = workflow_run_key(opening.context.workflow_run)
                        ended -= {identifier, names[identifier].run_id if identifier in names else ""}
                        if note := Begun.of(begin):
                            notes.append(note)
                    case Close(context=context):
                        closed.add(workflow_run_key(context.workflow_run))
            position = records[-1].next
        scripts = {workflow_run_key(one.script.workflow_run): one.script for one in notes if one.script is not None}
        return cls(
            given=frozenset(given),
            ended=frozenset(ended),
            parents=frozenset(one.id for one in notes if one.parent),
            scripts={key: context for key, context in scripts.items() if key not in closed},
            begun=begun,
        )


class Recovery:
    """Delivers one journal that was left behind, a window at a time."""

    def __init__(self, journal: LeftJournal, backend: Backend, settings: Settings) -> None:
        """Read it.

        Args:
            journal: taken, see `tracklayer.journal.left.LeftJournal.take`.
            backend: the back end that it is for.
            settings: those of whoever delivers; what the journal says about its own comes before them.
        """
        self.journal = journal
        self._backend = backend
        self._settings = settings_of(journal, settings)
        self._survey = Survey.of(journal)
        self._done = False
        self.delivery = Delivery(
            journal, backend, self._settings, recovering=True, given=self._survey.given.__contains__
        )

    @property
    def complete(self) -> bool:
        """True when all of it is delivered, and every run that it began has ended."""
        return self._done and self.delivery.delivered >= self.journal.end

    def step(self) -> bool:
        """Deliver the next window; False when nothing is left to do now. Raises StoreError."""
        if self.delivery.step():
            return True
        if not self._done:
            self._end_what_died()
            self._done = self.delivery.delivered >= self.journal.end
        return False

    def finish(self) -> bool:
        """Let go of the journal, which is removed if nothing of it is left; returns whether that is so."""
        complete = self.complete
        self.journal.close(remove=complete)
        return complete

    def _end_what_died(self) -> None:
        """End the runs of a process that did not live to do it, at the time of its last sign of life.

        Not the parents of workflow runs that are an orchestrator's: other processes may be at work below them, and
        only the orchestrator knows how they end. A run that is held waits; what is held of others (artifacts whose
        storage is away, for days perhaps) says nothing about it. Nor does what goes wrong with another's end. Each is
        ended once: while the journal waits for something else, somebody may have opened the run again.
        """
        left: Exception | None = None
        progress = self.journal.progress
        for what, end in self._ends():
            if progress.tried(_OVER + what):
                continue
            try:
                end()
            except Exception as error:
                if not is_of_one(error, self._backend.store):
                    raise
                if not isinstance(error, NotFound | Refused):  # it may be mended
                    left = left or error
                    continue
                log.warning("tracking: the end of %s, whose process died, is left out: %s", what, error)
            progress.trying(_OVER + what)
        if left is not None:
            raise left

    def _ends(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """What is to be ended by now: what it is called, and how."""
        progress, held = self.journal.progress, self.delivery.held
        for local, named in list(progress.names.items()):
            over = self._is_over(local) or self._is_over(named.run_id)
            if local not in self._survey.parents and not over and held.keys().isdisjoint((local, named.run_id)):
                yield f"the run {named.run_id}", partial(self._end_run, local, named.run_id)
        for run in list(progress.remembered.reopened):
            run_id = self.delivery.identities.known(run)
            if run_id is not None and not self._is_over(run) and held.keys().isdisjoint((run, run_id)):
                yield f"the run {run_id} that was opened again", partial(self._end_reopened, run_id)
        if all(lane.startswith((FILES, MODEL)) for lane in held):
            for key in {key for local, key in self._survey.begun.items() if self._is_unsure(local)}:
                yield f"what was made twice of {key}", partial(settle_parents, self._backend.store, key)
            for key, context in self._survey.scripts.items():
                yield key, partial(self._close, context)

    def _end_run(self, local: str, run_id: str) -> None:
        end_instead(self._backend.store, run_id, "KILLED", self.journal.died_at, {OUTCOME_TAG: DIED}, given=local)
        if self.journal.progress.tried(TWICE + local):
            trash_twins(self._backend.store, run_id)

    def _end_reopened(self, run_id: str) -> None:
        end_instead(self._backend.store, run_id, "KILLED", self.journal.died_at, {OUTCOME_TAG: DIED})

    def _close(self, context: RunContext) -> None:
        with importing():
            from tracklayer.closing import close

        # It may have ended well: forks of a script took it for their own once, and what they left says so.
        close(context, "KILLED", self._settings, self._backend, ended_at=self.journal.died_at, instead=True)

    def _is_unsure(self, local: str) -> bool:
        """Whether a request for the run, and before it for its parent, was sent whose answer nobody has heard."""
        progress = self.journal.progress
        return progress.tried(TWICE + local) or (progress.tried(local) and local not in progress.names)

    def _is_over(self, run: str) -> bool:
        return run in self._survey.ended


@contextmanager
def recovered(journal: LeftJournal, backend: Backend, settings: Settings) -> Iterator[Recovery]:
    """Deliver a journal while this is entered, and let go of it at the end, also if it cannot even be read.

    Args:
        journal: taken, as for `Recovery`.
        backend: the back end that it is for.
        settings: those of whoever delivers.
    """
    try:
        recovery = Recovery(journal, backend, settings)
    except BaseException:
        journal.close(remove=False)
        raise
    try:
        yield recovery
    finally:
        if recovery.finish():
            log.info("what a process had left behind is delivered: %s", journal.path.name)


def settings_of(journal: LeftJournal, settings: Settings) -> Settings:
    """The settings with which a journal is delivered: the names and templates of whoever wrote it."""
    known: dict[str, Any] = {
        name: value for name, value in journal.header.settings.items() if name in settings.__struct_fields__
    }
    try:
        told = {**msgspec.to_builtins({name: getattr(settings, name) for name in known}), **known}
        types = {item.name: item.type for item in msgspec.structs.fields(type(settings))}
        values = {name: msgspec.convert(value, types[name]) for name, value in told.items()}
    except (msgspec.ValidationError, TypeError) as error:
        log.warning("the settings in the journal %s are not used: %s", journal.path.name, error)
        return settings
    return msgspec.structs.replace(settings, **values)


class Scavenger:
    """Delivers, in a thread of its own, what other processes of this machine left behind for one back end.

    It begins when everything of this process is sent, and steps aside while there is something to send.
    """

    def __init__(self, backend: Backend, settings: Settings, *, busy: Callable[[], bool]) -> None:
        """Look for nothing yet.

        Args:
            backend: the back end.
            settings: where journals are.
            busy: whether this process has something of its own to send.
        """
        self._backend = backend
        self._settings = settings
        self._busy = busy
        self._next = 0.0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def look(self) -> float | None:
        """Begin, if it is time for it. Takes no time itself.

        Returns:
            Seconds after which to ask again, because it was too early: what was left behind since the last look may have
            nobody else to deliver it. None if it has begun, or is not to begin any more.
        """
        if self._stopping.is_set():
            return None
        now = time.monotonic()
        if now < self._next:
            return self._next - now
        if self._thread is not None and self._thread.is_alive():
            return AGAIN
        self._next = now + AGAIN
        thread = threading.Thread(target=self._run, name="tracklayer-recovery", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to end
            return None
        self._thread = thread
        return None

    def wait(self, seconds: float) -> None:
        """Wait for it to be done, at most so long; the last part of that it is asked to stop, at the next opportunity."""
        thread, until = self._thread, time.monotonic() + seconds
        if thread is not None:
            thread.join(seconds * UNASKED)
            self._stopping.set()
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        try:
            for path in left_behind(self._settings, self._backend.store.uri):
                if self._stopping.is_set():
                    return
                try:
                    journal = LeftJournal.take(path)
                    if journal is not None:
                        self._deliver(journal)
                except Exception as error:  # whatever is wrong with one journal, the next ones are delivered
                    log.warning("tracking: the journal %s cannot be delivered: %s", path, error, exc_info=error)
        except Exception as error:
            log.warning("tracking: delivering what was left behind failed: %s", error, exc_info=error)

    def _deliver(self, journal: LeftJournal) -> None:
        try:
            with recovered(journal, self._backend, self._settings) as recovery:
                while recovery.step() and not self._stopping.is_set():
                    while self._busy() and not self._stopping.wait(0.05):
                        pass
        except StoreError as error:
            log.info("what is left in %s is delivered later: %s", journal.path, error)


def left_behind(settings: Settings, tracking_uri: str | None = None) -> Iterator[Path]:
    """Folders of journals that were left behind on this machine.

    Args:
        settings: where journals are.
        tracking_uri: only those for this back end (without credentials); None for all.
    """
    for folder in JournalFolder.every(settings):
        yield from folder.left(tracking_uri)
