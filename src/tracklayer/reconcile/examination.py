"""The examination: everything that is wrong, read in pages, nothing changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tracklayer import registry
from tracklayer.reconcile.findings import Finding, Findings, LeftAlone
from tracklayer.reconcile.openness import OPEN, UNTOLD, examine_open, examine_untold
from tracklayer.reconcile.reading import Reader
from tracklayer.reconcile.relations import TRACKED, Relations
from tracklayer.reconcile.scope import LINKS_SINCE, Scope
from tracklayer.reconcile.truth import Truth, is_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import timedelta

    from tracklayer.backend import Backend
    from tracklayer.settings import Settings
    from tracklayer.store import Run

SHOWN = 1_000
"""So many runs that are left alone are told of one by one; the others are counted."""


def examine(
    backend: Backend,
    settings: Settings,
    scope: Scope | None = None,
    *,
    progress: Callable[[str, int], None] | None = None,
) -> Findings:
    """Compare MLflow with the orchestrators' truth. Changes nothing.

    Args:
        backend: the tracking back end.
        settings: say which plugins there are, and how they reach their orchestrators.
        scope: which runs are looked at; None: all.
        progress: is told what is being looked at, and how many runs have been.

    Returns:
        What can be repaired (see `tracklayer.reconcile.repair`), and what is left alone because nobody can say what
        would be right. Runs that tracklayer did not make are in neither.

    Raises:
        StoreError: the back end cannot be read.
    """
    scope = scope or Scope()
    tell = progress or (lambda _what, _count: None)
    reader = Reader(backend.store)
    truth = Truth(reader, registry.load(settings), scope.older_than)
    gathered = _Gathered(scope, tell)
    portions = reader.portions(scope.experiments)
    for experiments in portions:
        pages = gathered.counted("open runs", reader.pages(experiments, OPEN, _since(scope.since)))
        gathered.take(found for page in pages for found in examine_open(page, reader, truth, scope))
    since = _since(scope.since or LINKS_SINCE)
    for experiments in portions:
        pages = gathered.counted("ends that nobody told", reader.pages(experiments, UNTOLD, since))
        gathered.take(found for page in pages for found in examine_untold(page, truth, scope))
    for experiments in portions:
        relations = Relations(reader, scope)
        pages = gathered.counted("parents and links", reader.pages(experiments, TRACKED, since))
        gathered.take(found for page in pages for found in relations.examine(page))
    return gathered.findings(unasked=len(truth.unasked))


class _Gathered:
    """What was found so far, up to a limit."""

    def __init__(self, scope: Scope, tell: Callable[[str, int], None]) -> None:
        self._scope = scope
        self._tell = tell
        self._found: list[Finding] = []
        self._left_alone: list[LeftAlone] = []
        self._unknown = 0
        self._looked_at = 0
        self._covered = 0
        self._more = False

    def counted(self, what: str, pages: Iterable[list[Run]]) -> Iterator[list[Run]]:
        """The pages, as long as there is room for more findings."""
        for page in pages:
            if len(self._found) >= self._scope.limit:
                self._more = True
                return
            self._looked_at += len(page)
            self._covered += sum(is_ours(run) and self._scope.covers(run.tags) for run in page)
            self._tell(what, self._looked_at)
            yield page

    def take(self, found: Iterable[Finding | LeftAlone]) -> None:
        """Keep what was found."""
        for item in found:
            if not isinstance(item, LeftAlone):
                self._found.append(item)
                continue
            self._unknown += 1
            if len(self._left_alone) < SHOWN:
                self._left_alone.append(item)

    def findings(self, *, unasked: int) -> Findings:
        """What was found, as a value."""
        return Findings(
            found=tuple(self._found),
            left_alone=tuple(self._left_alone),
            unknown=self._unknown,
            looked_at=self._looked_at,
            covered=self._covered,
            more=self._more,
            unasked=unasked,
        )


def _since(age: timedelta | None) -> int:
    return 0 if age is None else max(0, time.time_ns() // 1_000_000 - int(age.total_seconds() * 1_000))
