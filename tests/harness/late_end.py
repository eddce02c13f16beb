"""A run whose end is told late, and somebody who does something between two requests of another."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from harness.leaving import opening_of
from tracklayer.backend import open_backend
from tracklayer.closing import close
from tracklayer.creation import create
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import End, Header, Log, Named
from tracklayer.journal.recovery import Recovery, left_behind
from tracklayer.outcome import OUTCOME_TAG
from tracklayer.provisional import provisional_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.backend import Backend
    from tracklayer.ending import RealEnd
    from tracklayer.journal.operations import Operation
    from tracklayer.settings import Settings
    from tracklayer.store import Run, Store

ENDED = 1_700_000_002_000


class Died(BaseException):
    """The process is no more: nobody in it can say what became of its request."""


class Meanwhile:
    """A store before whose request number `at` somebody else does all that he has to do."""

    def __init__(self, store: Store, at: int, act: Callable[[], None]) -> None:
        self._store = store
        self._left = at
        self._act = act

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def request(*args: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self._act()
            return found(*args, **named)

        return request


class World:
    """A stage run that is open, the journal with its end, and the end of its workflow run."""

    def __init__(
        self,
        settings: Settings,
        outcome: str | None,
        *,
        run_id: str | None = None,
        end: End | None = None,
        named: bool = False,
    ) -> None:
        self.settings = settings
        self.opening = opening_of(f"ending-{uuid.uuid4().hex[:12]}")
        self.run_id = run_id or create(self.opening, self.backend()).ref.run_id
        noted = () if outcome is None else (Log(self.run_id, tags={OUTCOME_TAG: outcome}),)
        begun = (Named(provisional_id(self.opening.key), self.run_id, self.run().experiment_id),) if named else ()
        self.append(*begun, *noted, msgspec.structs.replace(end or End("", "FAILED", ENDED), run=self.run_id))

    def append(self, *operations: Operation) -> None:
        """Leave a journal with these behind."""
        folder = JournalFolder.of(self.settings)
        assert folder
        header = Header(1, self.backend().store.uri, "host", os.getpid(), ENDED)
        journal = LiveJournal(folder, header, limit=1024 * 1024)
        for operation in operations:
            journal.append(operation)
        journal.close(remove=False)

    def backend(self) -> Backend:
        found = open_backend(self.settings)
        assert found
        return found

    def deliver(self, backend: Backend) -> None:
        (path,) = left_behind(self.settings)
        journal = LeftJournal.take(path)
        assert journal
        recovery = Recovery(journal, backend, self.settings)
        try:
            while recovery.step():
                pass
        except Died:
            recovery.finish()
            raise
        assert recovery.finish()

    def close(self, backend: Backend, *ends: RealEnd) -> None:
        told = dict.fromkeys([self.opening.key], *ends) if ends else {}
        context = self.opening.context.of_workflow_run()
        close(context, "FAILED", self.settings, backend, ended_at=ENDED + 5_000, told=told)

    def run(self) -> Run:
        return self.backend().store.get_run(self.run_id)
