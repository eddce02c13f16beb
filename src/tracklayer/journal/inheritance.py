"""What the children of this process left behind when they were killed is delivered before it ends its stage.

A worker that is ended by a signal (as `multiprocessing.Pool` ends its own), or by ``os._exit``, has its journal on the
disk and nobody to deliver it. Its parent is the next who can, and knows that it is complete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING

from tracklayer.exceptions import StoreError
from tracklayer.interruption import let_through
from tracklayer.journal.folder import JournalFolder, is_settled
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.lock import Lock
from tracklayer.journal.recovery import recovered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracklayer.backend import Backend
    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")


def inherit(backend: Backend, settings: Settings, *, since: int, limit: float) -> bool:
    """Deliver, here and now, what processes of this machine left behind that began after this one.

    Whose children they were does not show in their journals. So it may be another process's, which is delivered then, too.

    Args:
        backend: the back end that it is for.
        settings: where journals are.
        since: when this process began with what it does, in milliseconds since the epoch.
        limit: seconds for it at most, as far as a single request allows.

    Returns:
        False if something is left, because the server is away, time is over, or a journal cannot be read.
    """
    deadline = time.monotonic() + limit
    whole = True
    for path in left_since(settings, since):
        if time.monotonic() > deadline:
            return False
        journal = LeftJournal.take(path)
        if journal is None:
            continue
        if not (_is_here(journal, since) and journal.header.tracking_uri == backend.store.uri):
            journal.close(remove=False)
            continue
        try:
            if not _delivered(journal, backend, settings, deadline):
                return False
        except Exception as error:  # whatever is wrong with one journal, the next ones are delivered
            let_through(error)
            log.warning("tracking: the journal %s cannot be delivered: %s", path, error, exc_info=error)
            whole = False
    return whole


def left_since(settings: Settings, since: int) -> Iterator[Path]:
    """Folders of journals that were begun since then on this machine, as far as their names tell; some may be in use.

    Nothing is read: there may be thousands of others.
    """
    first = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(since / 1000))
    for folder in JournalFolder.every(settings):
        yield from (path for path in folder.paths() if path.name >= first)


def _is_here(journal: LeftJournal, since: int) -> bool:
    return journal.header.host == socket.gethostname() and journal.header.started_at >= since


def _delivered(journal: LeftJournal, backend: Backend, settings: Settings, deadline: float) -> bool:
    try:
        with recovered(journal, backend, settings) as recovery:
            while recovery.step():
                if time.monotonic() > deadline:
                    return False
    except StoreError as error:
        log.info("what a child process left is delivered later: %s", error)
        return False
    return True


def _warn_of(path: Path) -> None:
    """A journal was not taken. Say so if another process has it; this one's own was seen to when it was closed."""
    with contextlib.suppress(OSError):
        if f"-{os.getpid()}-" not in path.name and Lock.is_held(path):
            log.warning("tracking: a process is still at work with the journal %s, which stays on this disk", path)


def carry_away(settings: Settings, url: str, *, since: int) -> list[str]:
    """Take what is left of the journals of this process and its children from a machine whose disk goes away.

    What is carried is removed here, so that nobody delivers it from two places.

    Args:
        settings: where journals are.
        url: the folder to put them into, any that fsspec knows.
        since: when this process began with what it does, in milliseconds since the epoch.

    Returns:
        The names that they have there; empty if nothing was left, nor refused.

    Raises:
        StoreError: they could not be put there; what was not is still here.
    """
    from tracklayer.journal.carrying import carry, contents

    names = []
    for path in left_since(settings, since):
        journal = LeftJournal.take(path)
        if journal is None:
            _warn_of(path)
            continue
        carried: str | None = None
        try:
            if _is_here(journal, since):  # also where only the ends of its runs are left, or what was refused
                # Of one that is settled only that is left: it must not take the place of all of it.
                carried = carry(path.name, contents(path), url, replace=not is_settled(path))
                names += [carried] if carried else []
        finally:
            journal.close(remove=carried is not None, keep_refused=False)
    return names
