"""Whose fault a failure is: the server's, which everything waits for, or that of one run, or of one thing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from tracklayer.exceptions import AccessDenied, Refused, StoreError, StoreUnavailable
from tracklayer.journal.isolation import Isolation, Suspects
from tracklayer.journal.lanes import FILES
from tracklayer.journal.operations import DeleteTag, Linked, Rename
from tracklayer.store.failure import is_internal

if TYPE_CHECKING:
    from tracklayer.journal.identities import Identities
    from tracklayer.journal.operations import Operation
    from tracklayer.journal.parcel import Parcel
    from tracklayer.journal.progress import Progress
    from tracklayer.store import Store
    from tracklayer.store.delivery import Refusal

TRIES: Final = 3
"""So often one operation may fail, on a server that answers otherwise, before its run is held and others go on."""


class Judge:
    """Judges the failures of one journal's delivery; used by one thread at a time.

    Attributes:
        troubles: how often it failed lately, by lane.
        recovering: whether nobody waits for the journal.
    """

    def __init__(self, store: Store, progress: Progress, *, recovering: bool) -> None:
        """Nothing has failed yet, but for what others have noted.

        Args:
            store: where to.
            progress: where is noted what counts.
            recovering: True if nobody waits for the journal: a server that says that it failed inside is then asked
                at once whether it serves others.
        """
        self.troubles: dict[str, int] = {}
        self.recovering = recovering
        self._store = store
        self._suspects = Suspects(progress)
        self._raised: StoreError | None = None

    def has_raised(self, error: StoreError) -> bool:
        """Whether it was judged already: it is about what was gathered, of whatever run."""
        return error is self._raised

    def count(self, lane: str) -> int:
        """It failed once more; how often by now."""
        count = self.troubles[lane] = self.troubles.get(lane, 0) + 1
        return count

    def well(self, lane: str) -> None:
        """It did not fail."""
        self.troubles.pop(lane, None)

    def tell_apart(self, lane: str, error: StoreError, *, at_once: bool = False) -> None:
        """Tell trouble with one run from trouble with the server: the latter is raised.

        Args:
            lane: what failed.
            error: what it failed with.
            at_once: ask the server at the first failure whether it serves others.
        """
        tries = 1 if at_once or (self.recovering and is_internal(error)) else TRIES
        if self.count(lane) < tries and not lane.startswith(FILES) and not isinstance(error, AccessDenied):
            self._raised = error
            raise error
        try:
            self._store.ping()
        except StoreError:
            self._raised = error
            raise error from None

    def isolated(self, parcel: Parcel, error: StoreError, *, whole: bool) -> list[Refusal]:
        """Deliver of a parcel what the server does not fail with.

        Args:
            parcel: what was to be sent.
            error: why it could not be.
            whole: as in `Parcel.send`.

        Returns:
            What was refused, and what was given up, for good. All the rest is delivered.

        Raises:
            StoreError: something is left that is to be tried again.
        """
        if not is_internal(error):
            raise error
        isolation = Isolation(self._store, self._suspects)
        refusals = parcel.send(cast("Store", isolation), whole=whole)
        if isolation.pending is not None:
            raise isolation.pending
        return refusals

    def verdict(self, operation: Operation, error: StoreError, identities: Identities) -> StoreError:
        """What a failure of an operation means that stands for itself: `Refused`, if that is hopeless."""
        if not (isinstance(operation, DeleteTag | Linked | Rename) and isinstance(error, StoreUnavailable)):
            return error
        run_id = identities.known(operation.run)
        if run_id is None:
            return error
        kind, _, what = repr(operation).partition("(")
        return self.alone(run_id, kind, what, error)

    def alone(self, run_id: str, kind: str, what: str, error: StoreUnavailable) -> StoreError:
        """What it means that the server failed with one change of a run: `Refused`, if that is hopeless."""
        if not error.internal:
            return error
        isolation = Isolation(self._store, self._suspects)
        try:
            isolation.change(run_id, kind, what, error)
        except Refused as verdict:
            return isolation.pending or verdict
        except StoreError as again:
            return again
        return error
