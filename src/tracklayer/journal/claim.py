"""Who delivers a packed journal: of several readers of a folder, one.

Object stores have no renaming: their libraries copy and delete, which two can do at the same time. But what was put is
listed from then on. So who wants a journal puts a file of his own beside it, the *claim*, and looks then: if there is
no other claim it is his. Two who see each other both step back, and come again after times of their own.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Protocol

from tracklayer.jitter import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

log = logging.getLogger("tracklayer")

TAKEN: Final = 3600.0
"""Seconds after which a claim that nobody has renewed is worth nothing any more: whoever had it is gone."""

RENEWED: Final = TAKEN / 6
"""Seconds after which a claim is renewed while its journal is being delivered."""

TRIES: Final = 3
"""So often somebody looks whose claim met another's."""

PAUSE: Final = 0.5
"""Seconds between two of these looks, about."""

_CLAIM: Final = re.compile(r"(?P<name>.+)\.claim-(?P<at>\d{10,15})-(?P<who>[0-9a-f]{16})")


class Folder(Protocol):
    """A folder in which what was put is listed at once."""

    def names(self) -> list[str]:
        """Names of the files in it."""

    def put(self, name: str, source: Path) -> None:
        """Copy a local file to it, whole or not at all."""

    def remove(self, name: str) -> None:
        """Remove a file; no error if it is not there."""


class Claimed(Exception):
    """Somebody else delivers the journal, or has just done so."""


def free(names: Iterable[str]) -> list[str]:
    """Of the names of the files in a folder those that are no claims, and that nobody claims.

    >>> free(["a", "b", f"b.claim-{time.time_ns() // 1_000_000}-0123456789abcdef", "c", "c.claim-1000000000000-0123456789abcdef"])
    ['a', 'c']
    """
    every = list(names)
    claimed = {found["name"] for name in every if (found := _CLAIM.fullmatch(name)) and _is_fresh(found)}
    return [name for name in every if not _CLAIM.fullmatch(name) and name not in claimed]


@contextmanager
def claimed(place: Folder, name: str) -> Iterator[None]:
    """Claim a file of a folder meanwhile.

    Raises:
        Claimed: somebody else has it, or it is gone.
        Exception: whatever the folder raises.
    """
    with TemporaryDirectory(prefix="tracklayer-") as temporary:
        empty = Path(temporary, "claim")
        empty.touch(mode=0o600)
        claim = _Claim(place, name, empty)
        claim.take()
        try:
            with claim.kept():
                yield
        finally:
            claim.drop()


class _Claim:
    """One reader's."""

    def __init__(self, place: Folder, name: str, empty: Path) -> None:
        self._place = place
        self._name = name
        self._empty = empty
        self._who = secrets.token_hex(8)
        self._own = ""

    def take(self) -> None:
        for number in range(TRIES):
            if number:
                time.sleep(PAUSE * spread(0.2, 2.0))
            self._put()
            try:
                there = self._place.names()
            except BaseException:
                self.drop()
                raise
            others = [found for name in there if (found := self._of_another(name))]
            if self._name in there and not any(map(_is_fresh, others)):
                for gone in others:
                    self._place.remove(gone.group())
                return
            self.drop()
            if self._name not in there:
                raise Claimed(f"{self._name} is not there any more")
        raise Claimed(f"somebody else delivers {self._name}")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew it now and then, meanwhile."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(RENEWED):
                try:
                    before = self._own
                    self._put()
                    self._place.remove(before)
                except Exception as error:
                    log.warning("tracking: the claim on %s could not be renewed: %s", self._name, type(error).__name__)

        keeper = threading.Thread(target=renew, name="tracklayer-claim", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def drop(self) -> None:
        self._place.remove(self._own)

    def _put(self) -> None:
        own = f"{self._name}.claim-{time.time_ns() // 1_000_000}-{self._who}"
        self._place.put(own, self._empty)
        self._own = own

    def _of_another(self, name: str) -> re.Match[str] | None:
        found = _CLAIM.fullmatch(name)
        return found if found is not None and found["name"] == self._name and found["who"] != self._who else None


def _is_fresh(claim: re.Match[str]) -> bool:
    return time.time() - int(claim["at"]) / 1000 <= TAKEN
