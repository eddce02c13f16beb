"""What `tracklayer flush` does: journals are delivered a round at a time, and none of them keeps another from that."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tracklayer.cli.tracking import PATIENCE
from tracklayer.exceptions import NotFound, StoreError, TracklayerError
from tracklayer.interruption import let_through
from tracklayer.journal.bell import Latch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tracklayer.backend import Backend
    from tracklayer.cli.terminal import Terminal
    from tracklayer.journal.folder import JournalFolder
    from tracklayer.journal.left import LeftJournal
    from tracklayer.settings import Settings

T = TypeVar("T")

log = logging.getLogger("tracklayer")

LOOK: Final = "tracklayer journal"
"""The commands that say more about a journal."""

TAKES: Final = 3
"""So many attempts to take a journal that nobody seems to hold."""


@dataclass(slots=True)
class Outcome:
    """What became of the journals that were found.

    Attributes:
        delivered: how many are delivered.
        left: how many are not, or not whole.
        refused: how many values the server refused in this round.
        unknown: True if nobody could look what there is.
    """

    delivered: int = 0
    left: int = 0
    refused: int = 0
    unknown: bool = False

    def __str__(self) -> str:
        if not (self.delivered or self.left):
            return "There is nothing to deliver."
        parts = [f"{_count(self.delivered, 'journal')} delivered"]
        if self.left:
            parts.append(f"{self.left} left")
        if self.refused:
            parts.append(f"{_count(self.refused, 'value')} refused")
        return ", ".join(parts) + "."


class Flusher:
    """Delivers what is left, a round at a time."""

    def __init__(
        self,
        terminal: Terminal,
        settings: Settings,
        *,
        source: str | None,
        only_here: bool,
        watching: bool,
        instead_of: str | None = None,
    ) -> None:
        """Look for nothing yet.

        Args:
            terminal: what to write to.
            settings: where journals and the tracking server are.
            source: URL of a folder to which journals were carried; None for those of this machine.
            only_here: only journals for the server of the settings.
            instead_of: an address that the server of the settings had before: what is for that one is for it.
            watching: there are many rounds: say nothing where there is nothing to do, and what does not change once.
        """
        self._terminal = terminal
        self._settings = settings
        self._source = source
        self._only_here = only_here
        self._watching = watching
        self._instead_of = instead_of
        self._stop = Latch()
        self._noted: set[str] = set()
        self._complained: set[str] = set()  # of what, in this round
        self._before: set[str] = set()  # and in the one before
        self._away: dict[str, str] = {}
        self._waits: dict[str, None] = {}
        self._moved = False

    def round(self, stop: Latch | None = None) -> Outcome:
        """Deliver what is there now.

        Args:
            stop: as soon as it is open, no more is begun: what is not delivered by then is left.

        Raises:
            NotFound: there is no such folder. Not while watching: it may come to be.
            StoreError: the folder to which journals were carried cannot be read. Not while watching either.
        """
        outcome = Outcome()
        self._stop = stop or Latch()
        self._away = {}
        self._before, self._complained = self._complained, set()
        if self._source is None:
            self._of_this_machine(outcome)
        else:
            self._carried(self._source, outcome)
        for reason in dict.fromkeys(self._away.values()):
            self._complain(reason)
        is_news = not self._complained <= self._before or outcome.delivered or self._stop.is_open
        if (is_news or not self._watching) and (
            outcome.delivered or outcome.left or not (self._watching or outcome.unknown)
        ):
            self._terminal.out.print(str(outcome))
        if outcome.refused and self._source is None:
            self._terminal.say("What was refused, and why, is told by: tracklayer doctor")
        return outcome

    # Where they are

    def _of_this_machine(self, outcome: Outcome) -> None:
        from tracklayer.journal.folder import AS_WHOM, JournalFolder, is_settled, misplaced
        from tracklayer.journal.left import LeftJournal
        from tracklayer.journal.lock import Lock

        def settle(path: Path) -> bool:
            for _ in range(TAKES):  # whoever had it may let go of it, and leave something, before it is looked at
                journal = LeftJournal.take(path)
                if journal is not None:
                    return self._deliver(journal, outcome)
                if not path.exists() or is_settled(path):
                    return True
                if Lock.is_held(path):
                    if not self._watching:
                        self._note(f"{path.name}: another process delivers it")
                    return True
            outcome.left += 1
            self._complain(f"{path.name} cannot be taken: its files cannot be read, or it is not yours")
            return True

        folders = JournalFolder.every(self._settings)
        for why in [why for folder in folders if (why := folder.trouble)]:
            outcome.unknown = True
            self._complain(f"{why}; {AS_WHOM}")
        if why := misplaced(self._settings):
            # Of a file whoever logs has its journal elsewhere, where it is found; not all did perhaps, before it was one.
            outcome.unknown = True
            self._complain(f"{why}, and journals are there by the setting journal: correct it")
        uris = self._uris() if self._only_here else frozenset()
        self._note_what_is_passed_over(folders, uris)
        self._as_far_as_it_goes([path for folder in folders for path in folder.left(*uris)], settle, outcome)
        for path in [path for folder in folders for path in folder.unreadable()]:
            outcome.left += 1
            self._complain(f"{path.name} cannot be read, or a later version wrote it: {LOOK} verify {path} says more")

    def _note_what_is_passed_over(self, folders: Sequence[JournalFolder], uris: frozenset[str]) -> None:
        """Say once what somebody may have meant who has typed this."""
        from tracklayer.journal.carrying import packed_in
        from tracklayer.journal.folder import missing

        if (wanted := missing(self._settings)) is not None:
            self._note(
                f"There is no folder {wanted}, where journals are by the setting journal: nothing was logged to it yet"
            )
        for folder in folders:
            if others := folder.others():
                self._note(f"{_count(others, 'journal')} of other users in {folder.path}: passed over, run it as they")
            if packed := packed_in(folder.path):
                self._note(f"{_count(packed, 'packed journal')} in {folder.path}: --from {folder.path} delivers them")
            if uris and (elsewhere := len(folder.left()) - len(folder.left(*uris))) > 0:
                self._note(
                    f"{_count(elsewhere, 'journal')} for other servers than {', '.join(sorted(uris))}: passed over"
                )

    def _carried(self, url: str, outcome: Outcome) -> None:
        from tracklayer.journal.carrying import CarryingError, listed, local_folder, missing
        from tracklayer.journal.folder import AS_WHOM, JournalFolder, no_folder

        own = self._uris()
        try:
            if (folder := missing(url)) is not None:
                raise NotFound(no_folder(folder))
            if (local := local_folder(url)) is not None and (why := JournalFolder(local).trouble):
                raise CarryingError(f"{why}; {AS_WHOM}")
            names, claimed = listed(url)
        except StoreError as error:
            if not self._watching:
                raise
            self._away[url] = str(error)
            outcome.unknown = True
            return
        self._as_far_as_it_goes(names, lambda name: self._settle_carried(url, name, own, outcome), outcome)
        for name in claimed:
            self._give_up(f"{name}: somebody else delivers it, or began to within the last hour", outcome)
        self._look_for_unpacked(url, outcome)

    def _settle_carried(self, url: str, name: str, own: frozenset[str], outcome: Outcome) -> bool:
        """Deliver a journal of a folder; whether it need not be tried again."""
        from tracklayer.journal.carrying import UNPACKED, fetched
        from tracklayer.journal.left import LeftJournal

        limit = max(UNPACKED, 2 * self._settings.journal_limit)  # whoever allows larger ones means to deliver them
        try:
            with fetched(url, name, limit=limit) as (folder, fate):
                journal = LeftJournal.take(folder)
                if journal is None:
                    return self._give_up(f"{name} cannot be read: another version may have written it", outcome)
                uri = journal.header.tracking_uri
                if uri not in own:
                    # It came from outside: credentials go to no server but the one that this machine trusts.
                    journal.close(remove=False)
                    told = f"deliver it with --tracking-uri {uri}, or --instead-of {uri} if your server was called that"
                    return self._give_up(f"{name} is for {uri}: {told}", outcome)
                fate.delivered = self._deliver(journal, outcome)
                fate.changed = journal.progress.changed
        except StoreError as error:
            return self._give_up(str(error), outcome)
        for kept in fate.kept:
            self._terminal.say(f"What was refused of it is kept beside it: {kept}")
        return fate.delivered

    def _give_up(self, why: str, outcome: Outcome) -> bool:
        outcome.left += 1
        self._complain(why)
        return True

    def _look_for_unpacked(self, url: str, outcome: Outcome) -> None:
        """Journals as processes write them are taken from another folder than this."""
        from tracklayer.journal.carrying import local_folder
        from tracklayer.journal.folder import JournalFolder

        path = local_folder(url)
        if path is not None and (found := len(JournalFolder(path).left())):
            outcome.left += found
            self._complain(
                f"{_count(found, 'journal')} in {path}, not packed: set TRACKLAYER_JOURNAL to it, without --from"
            )

    def _as_far_as_it_goes(self, found: Iterable[T], settle: Callable[[T], bool], outcome: Outcome) -> None:
        """Deliver journals, and those that are left once more as long as that helps: one may wait for another's run.

        Args:
            found: where they are.
            settle: delivers one; whether it need not be tried again.
            outcome: is told how many are left.
        """
        waiting = list(found)
        while True:
            self._moved = False
            self._waits.clear()
            waiting = [one for one in waiting if self._stop.is_open or not self._fenced(settle, one)]
            if self._stop.is_open or not (waiting and self._moved):
                break
        for why in self._waits:
            self._complain(why)
        outcome.left += len(waiting)

    def _fenced(self, settle: Callable[[T], bool], one: T) -> bool:
        try:
            return settle(one)
        except Exception as error:  # whatever is wrong with one journal, the others are delivered
            let_through(error)
            name = one.name if isinstance(one, Path) else one
            told = f"{type(error).__name__}: {error}"  # on the line that is shown where nobody debugs
            log.exception("%s cannot be delivered: %s", name, told)
            return False

    # Where they go

    def _uris(self) -> frozenset[str]:
        """The addresses of the server of the settings, that of before among them, as journals say them."""
        backends = (self._backend(None), self._backend(self._instead_of) if self._instead_of else None)
        return frozenset(backend.store.uri for backend in backends if backend is not None)

    def _backend_for(self, uri: str) -> Backend | None:
        """Where a journal goes that is for this address."""
        before = self._backend(self._instead_of) if self._instead_of else None
        return self._backend(None if before is not None and before.store.uri == uri else uri)

    def _backend(self, uri: str | None) -> Backend | None:
        """The back end at an address: that of the settings, with its credentials, if it is the same; None for that one."""
        from tracklayer.backend import open_backend

        settings = msgspec.structs.replace(self._settings, enabled=True, timeout=max(self._settings.timeout, PATIENCE))
        try:
            own = open_backend(settings)
        except TracklayerError:
            if uri is None:
                raise
            own = None  # a wrong address in the settings is no reason to leave what is for another one
        if uri is None or (own is not None and own.store.uri == uri):
            return own
        return open_backend(msgspec.structs.replace(settings, tracking_uri=uri))

    # One of them

    def _deliver(self, journal: LeftJournal, outcome: Outcome) -> bool:
        from tracklayer.journal.recovery import Recovery

        name, uri, complete = journal.path.name, journal.header.tracking_uri, False
        recovery: Recovery | None = None
        backend: Backend | None = None
        refused, before = journal.progress.refused, _come(journal)
        try:
            backend = None if uri in self._away else self._backend_for(uri)
            if backend is not None:
                backend.store.try_again()
                recovery = Recovery(journal, backend, self._settings)
                with self._bar(name, journal.end - journal.progress.delivered) as advance:
                    while not self._stop.is_open and recovery.step():
                        advance(journal.end - recovery.delivery.delivered)
                hint = f" (perhaps it was in the damaged part: {LOOK} show {name})" if journal.damaged else ""
                self._waits.update(dict.fromkeys(f"{name}: {why}{hint}" for why in recovery.delivery.held.values()))
        except StoreError as error:
            if backend is not None and _answers(backend):  # then it says nothing about the other journals for it
                self._waits[f"{name}: {error}"] = None
            else:
                self._away[uri] = str(error)
        except TracklayerError as error:
            self._away[uri] = f"what is for {uri} cannot be delivered: {error}"
        finally:
            refused = journal.progress.refused - refused
            self._moved = self._moved or _come(journal) != before
            if recovery is not None:
                complete = recovery.finish()
            else:
                journal.close(remove=False)
        outcome.refused += refused
        outcome.delivered += complete
        return complete

    @contextlib.contextmanager
    def _bar(self, name: str, total: int) -> Iterator[Any]:
        if not self._terminal.err.is_terminal:
            yield lambda _left: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        with Progress(*columns, TimeRemainingColumn(), console=self._terminal.err, transient=True) as bar:
            task = bar.add_task(name, total=max(total, 1))
            yield lambda left: bar.update(task, completed=total - left)

    def _complain(self, text: str) -> None:
        """Say what is wrong; not again in each round, as long as it is."""
        if text not in self._complained | self._before:
            self._terminal.error(text)
        self._complained.add(text)

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._terminal.say(text)


def _answers(backend: Backend) -> bool:
    try:
        backend.store.ping()
    except StoreError:
        return False
    return True


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _come(journal: LeftJournal) -> tuple[int, int]:
    """How far a journal has come: up to where it is delivered, and up to where but for what waits."""
    return journal.progress.delivered, journal.progress.settled
