"""Runs end: those of stages and of user code, those of a try that the orchestrator has lost, a workflow run's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from tracklayer.ending import end_instead, reopen
from tracklayer.exceptions import NotFound
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
"""Milliseconds after which the parent of a workflow run that has ended is not waited for any longer.

They count from when the server first said that it is not there: whoever has it could not deliver it before, either.
"""

PROMPT: Final = 30_000
"""Milliseconds within which an end is delivered where nothing is the matter: then what was tracked is there, too."""

PERHAPS_WAITED: Final = 24 * 3_600_000
"""The same for a parent of which nobody knows whether it will ever come."""

LOST: Final = 20_000
"""Milliseconds for which a try that the orchestrator has lost may still be ended by itself, or by its own journal."""

GRACE: Final = 10_000
"""Milliseconds for which the end of a workflow run waits for observed tasks that have just ended to end their runs."""

_WAITS: Final = "waits:"
"""How the note begins that the end of a workflow run waits: since when, when that ended, and its key."""


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
        self._waits: dict[str, int] = {}
        for note in progress.notes(_WAITS):
            since, _, what = note.partition(" ")
            self._waits[what] = int(since) if since.isdecimal() else 0
        self._late = LateEnds(backend.store, identities, recovering=recovering)

    def tagged(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run are delivered: the outcome of its end may be among them."""
        self._late.tagged(run_id, tags)

    def announcement(self, operation: End) -> Mapping[str, str]:
        """Tags that a run is to be given before it is ended; empty unless its end is late."""
        run_id = self._ids.resolve(operation.run)
        if self._late.is_late(operation) and self.is_of_a_later_try(run_id):
            return {}
        return self._late.announcement(run_id, operation)

    def is_of_a_later_try(self, run_id: str) -> bool:
        """Whether a later try goes on with the run that this journal has begun (``attempts = "reuse"``).

        Then it ends as that one says, and what this journal has to tell of an end is over. Raises StoreError.
        """
        if self._settings.attempts != "reuse":
            return False
        mine = {local for local, named in self._ids.runs.items() if named.run_id == run_id}
        if not mine:  # it was begun elsewhere
            return False
        try:
            key = self._backend.store.get_run(run_id).tags.get("tracklayer.key")
        except NotFound:
            return False
        return key is not None and provisional_id(key) not in mine

    def end(self, operation: End) -> None:
        """End a run, or open it again."""
        store, run_id = self._backend.store, self._ids.resolve(operation.run)
        if self._late.is_late(operation) and self.is_of_a_later_try(run_id):
            self._progress.remember(Ended(operation.run))
            return
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

    def in_doubt(self, run_id: str) -> bool:
        """Whether the end of this run came late, and is to be looked at again."""
        return self._late.in_doubt(run_id)

    @property
    def unconfirmed(self) -> tuple[str, str] | None:
        """The end that came late and is to be looked at again next: its run, and its status."""
        return self._late.unconfirmed

    def let_go(self) -> None:
        """Do not look at that one again."""
        self._late.let_go()

    def postpone(self) -> None:
        """Look at all others before that one."""
        self._late.postpone()

    def resume(self) -> None:
        """What was postponed is to be looked at again, behind the others."""
        self._late.resume()

    def confirm(self) -> None:
        """Everything is sent: put right what somebody has made meanwhile of runs whose ends came late."""
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
        late = milliseconds(None) - (operation.ended_at or at)
        if operation.perhaps and parent is None:
            # Late: the server was away, and so it may have been for the tasks.
            if late > PROMPT and self._waited(operation, at) < PERHAPS_WAITED:
                raise Later(f"nobody has delivered the parent of {local} yet, if there is one")
            return
        if operation.parent is not None and parent is None:
            if self._waited(operation, at) > WAITED:
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
            told=operation.told,
            patient=operation.observed and late < GRACE,
        )
        if not ended and self._waited(operation, at) <= WAITED:
            raise Later(f"tasks of {local} have started since it ended, or may still be ending their runs")

    def _waited(self, operation: Close, at: int) -> int:
        """For how many milliseconds an end has waited since the server was first asked; whoever asks next counts on."""
        now, what = milliseconds(None), f"{operation.ended_at or at} {workflow_run_key(operation.context.workflow_run)}"
        if what not in self._waits:
            if 0 <= now - at <= PROMPT:  # the server is there, and most do not wait for long: nothing need be noted
                return now - at
            self._waits[what] = now
            self._progress.trying(f"{_WAITS}{now} {what}")
        return now - self._waits[what]

    def lost(self, operation: Lost) -> None:
        """End the runs of a try that the orchestrator has lost, if nobody who knows better does it soon."""
        with importing():
            from tracklayer.closing import give_up

        key = run_key(operation.context)
        if milliseconds(None) - operation.ended_at < LOST:
            raise Later(f"{key} may still be ending")
        give_up(self._backend.store, key, operation.ended_at)
