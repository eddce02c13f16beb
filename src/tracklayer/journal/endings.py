"""Runs end: those of stages and of user code, those of a try that the orchestrator has lost, a workflow run's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from tracklayer.ending import end_instead, reopen
from tracklayer.forking import importing
from tracklayer.identity import run_key, workflow_run_key
from tracklayer.journal.identities import Held, Later
from tracklayer.journal.late_ends import LateEnds
from tracklayer.journal.notes import Ended, Reopened
from tracklayer.journal.progress import TWICE
from tracklayer.opening import milliseconds
from tracklayer.provisional import provisional_id
from tracklayer.twins import trash_twins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.backend import Backend
    from tracklayer.journal.identities import Identities
    from tracklayer.journal.linkage import Linkage
    from tracklayer.journal.operations import Close, End, Lost
    from tracklayer.journal.progress import Progress
    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")

WAITED: Final = 7 * 24 * 3_600_000
"""Milliseconds after which the parent of a workflow run that has ended is not waited for any longer."""

PROMPT: Final = 30_000
"""Milliseconds within which an end is delivered where nothing is the matter: then what was tracked is there, too."""

PERHAPS_WAITED: Final = 24 * 3_600_000
"""Milliseconds after which a parent is not waited for any longer of which nobody knows whether it will ever come."""

LOST: Final = 20_000
"""Milliseconds for which a try that the orchestrator has lost may still be ended by itself, or by its own journal."""

GRACE: Final = 10_000
"""Milliseconds for which the end of a workflow run waits for observed tasks that have just ended to end their runs."""


class Endings:
    """Makes the requests that end runs, for one journal. Used by one thread at a time.

    What writes to the server raises `Held` or `Later` if it has to wait, and `StoreError`; it may be repeated then.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        identities: Identities,
        progress: Progress,
        linkage: Linkage,
        *,
        recovering: bool,
    ) -> None:
        """Nothing has ended yet.

        Args:
            backend: where the runs are.
            settings: those of whoever delivers.
            identities: what the server calls the runs of the journal.
            progress: what was asked for twice.
            linkage: told of runs that finished.
            recovering: True if the journal's own process has ended.
        """
        self._backend = backend
        self._settings = settings
        self._ids = identities
        self._progress = progress
        self._linkage = linkage
        self._late = LateEnds(backend.store, identities, recovering=recovering)

    def tagged(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run are delivered: the outcome of its end may be among them."""
        self._late.tagged(run_id, tags)

    def announcement(self, operation: End) -> Mapping[str, str]:
        """Tags that a run is to be given before it is ended; empty unless its end is late."""
        return self._late.announcement(self._ids.resolve(operation.run), operation)

    def end(self, operation: End) -> None:
        """End a run, or open it again."""
        store, run_id = self._backend.store, self._ids.resolve(operation.run)
        if operation.status == "RUNNING":
            run = store.get_run(run_id)
            if run.status != "RUNNING" or operation.run in self._progress.remembered.ended:
                # Else it is somebody else's, who is at work with it.
                self._progress.remember(Reopened(operation.run))
            reopen(store, run)  # whoever delivered its end may have announced it
        elif operation.left and operation.end_time is not None:
            end_instead(store, run_id, operation.status, operation.end_time, {})
        else:
            store.update_run(run_id, status=operation.status, end_time=operation.end_time)
        self._late.written(run_id, operation)
        self._progress.remember(Ended(operation.run, again=operation.status == "RUNNING"))
        if self._progress.tried(TWICE + operation.run):
            trash_twins(store, run_id)
        if operation.status == "FINISHED":
            self._linkage.ended(operation.run, run_id)

    def confirm(self) -> None:
        """Everything is delivered: put right what somebody has made meanwhile of runs whose ends came late."""
        self._late.confirm()

    def close(self, operation: Close, at: int) -> None:
        """End a workflow run.

        A parent that was given out, and is not there, is waited for: its tasks' journals may be on other machines.

        Args:
            operation: what to do.
            at: when it was written to the journal, in milliseconds since the epoch.
        """
        with importing():
            from tracklayer.closing import close
            from tracklayer.completion import close_if_last

        parent = self._ids.resolved_ref(operation.parent) if operation.parent else None
        local = provisional_id(workflow_run_key(operation.context.workflow_run))
        if parent is not None and self._progress.tried(TWICE + local):
            trash_twins(self._backend.store, parent.run_id)
        waited = milliseconds(None) - (operation.ended_at or at)
        if operation.perhaps and parent is None:
            if PROMPT < waited < PERHAPS_WAITED:  # the server was away: so it may have been for the tasks
                raise Later(f"nobody has delivered the parent of {local} yet, if there is one")
            return
        if operation.parent is not None and parent is None:
            if milliseconds(None) - at > WAITED:
                log.info("nobody has delivered the parent of %s: its end is left out", operation.parent.key)
                return
            raise Held(operation.parent.run_id)
        if operation.if_last and parent is not None:
            close_if_last(
                operation.context,
                operation.status,
                self._settings,
                self._backend,
                parent=parent,
                ends=operation.ends,
                ended_at=operation.ended_at or at,
            )
            return
        ended = close(
            operation.context,
            operation.status,
            self._settings,
            self._backend,
            parent=parent,
            error=operation.error,
            ended_at=operation.ended_at or at,
            everywhere=operation.observed,
            told=operation.told,
            patient=operation.observed and waited < GRACE,
        )
        if not ended and milliseconds(None) - at <= WAITED:
            raise Later(f"tasks of {local} have started since it ended, or may still be ending their runs")

    def lost(self, operation: Lost) -> None:
        """End the runs of a try that the orchestrator has lost, if nobody who knows better does it soon."""
        with importing():
            from tracklayer.closing import give_up

        key = run_key(operation.context)
        if milliseconds(None) - operation.ended_at < LOST:
            raise Later(f"{key} may still be ending")
        give_up(self._backend.store, key, operation.ended_at)
