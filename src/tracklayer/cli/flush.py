"""``tracklayer flush``: what was logged and is not at the tracking server yet is delivered now."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tracklayer.cli import terminal as terminals
from tracklayer.cli.duration import seconds
from tracklayer.cli.tracking import PATIENCE, read_settings
from tracklayer.cli.watching import repeated
from tracklayer.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tracklayer.backend import Backend
    from tracklayer.cli.terminal import Terminal
    from tracklayer.journal.left import LeftJournal
    from tracklayer.settings import Settings

T = TypeVar("T")

LEFT: Final = 1
"""Exit code: something is left to deliver."""

TAKES: Final = 3
"""So many attempts to take a journal that nobody seems to hold."""

REFUSED: Final = 3
"""Exit code: everything is delivered, but for values that the server refused."""

EXAMPLES: Final = (
    "tracklayer flush",
    "tracklayer flush --watch --interval 30s",
    "tracklayer flush --from s3://bucket/journals",
)


def flush(
    context: typer.Context,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Do it again and again, until it is interrupted (SIGINT, SIGTERM).")
    ] = False,
    interval: Annotated[
        str, typer.Option("--interval", help="With --watch: the pause between two rounds (30s, 5m).")
    ] = "30s",
    source: Annotated[
        str | None,
        typer.Option("--from", help="Deliver what was carried to this folder (the setting carry), any fsspec URL."),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Only what is for this server; with --from, to this server.")
    ] = None,
) -> None:
    """Deliver what processes of this machine logged while the tracking server was away, or before they were killed.

    Journals of processes that still run are theirs to deliver and are left alone. Runs whose process died are ended
    as KILLED, at the time of its last sign of life. It can be repeated at will, also beside running pipelines.

    Exit code 0: nothing is left; 1: something is left, the messages say why; 3: everything is delivered but values
    that the server refused, which `tracklayer doctor` shows. With --watch: that of the last round.
    """
    terminal = terminals.of(context)
    pause = seconds(interval)
    settings = read_settings(tracking_uri)
    flusher = Flusher(terminal, settings, source=source, only_here=tracking_uri is not None)
    outcome = repeated(lambda: flusher.round(quiet=True), pause) if watch else flusher.round(quiet=False)
    if outcome.left:
        raise typer.Exit(LEFT)
    if outcome.refused:
        raise typer.Exit(REFUSED)


@dataclass(slots=True)
class Outcome:
    """What became of the journals that were found."""

    delivered: int = 0
    left: int = 0
    refused: int = 0


class Flusher:
    """Delivers what is left, a round at a time."""

    def __init__(self, terminal: Terminal, settings: Settings, *, source: str | None, only_here: bool) -> None:
        """Look for nothing yet.

        Args:
            terminal: what to write to.
            settings: where journals and the tracking server are.
            source: URL of a folder to which journals were carried; None for those of this machine.
            only_here: only journals for the server of the settings.
        """
        self._terminal = terminal
        self._settings = settings
        self._source = source
        self._only_here = only_here
        self._away: dict[str, str] = {}
        self._waits: dict[str, None] = {}
        self._moved = False

    def round(self, *, quiet: bool) -> Outcome:
        """Deliver what is there now.

        Args:
            quiet: say nothing where there is nothing to do.
        """
        outcome = Outcome()
        self._away = {}
        if self._source is None:
            self._of_this_machine(outcome)
        else:
            self._carried(self._source, outcome)
        for reason in self._away.values():
            self._terminal.error(reason)
        if not quiet or outcome.delivered or outcome.left:
            self._terminal.out.print(_summary(outcome))
        return outcome

    def _of_this_machine(self, outcome: Outcome) -> None:
        from tracklayer.journal.folder import is_settled
        from tracklayer.journal.left import LeftJournal
        from tracklayer.journal.lock import Lock
        from tracklayer.journal.recovery import left_behind

        def settle(path: Path) -> bool:
            for _ in range(TAKES):  # whoever had it may let go of it, and leave something, before it is looked at
                journal = LeftJournal.take(path)
                if journal is not None:
                    return self._deliver(journal, outcome)
                if not path.exists() or is_settled(path):
                    return True
                if Lock.is_held(path):
                    self._terminal.err.print(f"{path.name}: another process delivers it")
                    return True
            outcome.left += 1
            self._terminal.error(f"{path.name} cannot be taken: its files cannot be read, or it is not yours")
            return True

        uri = self._uri() if self._only_here else None
        self._as_far_as_it_goes(left_behind(self._settings, uri), settle, outcome)

    def _carried(self, url: str, outcome: Outcome) -> None:
        from tracklayer.journal.carrying import UNPACKED, carried, fetched
        from tracklayer.journal.left import LeftJournal

        limit = max(UNPACKED, 2 * self._settings.journal_limit)  # whoever allows larger ones means to deliver them

        def give_up(why: str) -> bool:
            outcome.left += 1
            self._terminal.error(why)
            return True

        def settle(name: str) -> bool:
            try:
                with fetched(url, name, limit=limit) as (folder, fate):
                    journal = LeftJournal.take(folder)
                    if journal is None:
                        return give_up(f"{name} cannot be read: another version may have written it")
                    uri = journal.header.tracking_uri
                    if uri != self._uri():
                        # It came from outside: credentials go to no server but the one that this machine trusts.
                        journal.close(remove=False)
                        return give_up(f"{name} is for {uri}: deliver it with --tracking-uri")
                    fate.delivered = self._deliver(journal, outcome)
                    fate.changed = journal.progress.changed
                    return fate.delivered
            except StoreError as error:
                return give_up(str(error))

        self._as_far_as_it_goes(carried(url), settle, outcome)

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
            waiting = [one for one in waiting if not settle(one)]
            if not (waiting and self._moved):
                break
        for why in self._waits:
            self._terminal.error(why)
        outcome.left += len(waiting)

    def _uri(self) -> str | None:
        backend = self._backend(None)
        return backend.store.uri if backend else None

    def _backend(self, uri: str | None) -> Backend | None:
        """The back end of a journal: that of the settings, with its credentials, if it is the same."""
        from tracklayer.backend import open_backend

        settings = msgspec.structs.replace(self._settings, enabled=True, timeout=max(self._settings.timeout, PATIENCE))
        own = open_backend(settings)
        if uri is None or (own is not None and own.store.uri == uri):
            return own
        return open_backend(msgspec.structs.replace(settings, tracking_uri=uri))

    def _deliver(self, journal: LeftJournal, outcome: Outcome) -> bool:
        from tracklayer.journal.recovery import Recovery

        uri, complete = journal.header.tracking_uri, False
        recovery: Recovery | None = None
        refused, before = journal.progress.refused, journal.progress.delivered
        try:
            backend = None if uri in self._away else self._backend(uri)
            if backend is not None:
                backend.store.try_again()
                recovery = Recovery(journal, backend, self._settings)
                with self._bar(journal.path.name, journal.end - journal.progress.delivered) as advance:
                    while recovery.step():
                        advance(journal.end - recovery.delivery.delivered)
                self._waits.update(
                    dict.fromkeys(f"{journal.path.name}: {why}" for why in recovery.delivery.held.values())
                )
        except StoreError as error:
            self._away[uri] = str(error)
        finally:
            refused = journal.progress.refused - refused
            self._moved = self._moved or journal.progress.delivered > before
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


def _summary(outcome: Outcome) -> str:
    if not (outcome.delivered or outcome.left):
        return "There is nothing to deliver."
    parts = [f"{outcome.delivered} journal{'' if outcome.delivered == 1 else 's'} delivered"]
    if outcome.left:
        parts.append(f"{outcome.left} left")
    if outcome.refused:
        parts.append(f"{outcome.refused} values refused (tracklayer doctor shows them)")
    return ", ".join(parts) + "."
