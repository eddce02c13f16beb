"""The end of a run that its own process tells late, while somebody else takes the run for one that nobody will end.

Two write the status of one run then, and neither waits for the other. So that the real end wins in whatever order their
requests arrive, it is announced before it is written: whoever ends the run in its stead looks, after that, whether a
real end was announced, and writes it again. If none was, it is yet to be written, and so comes last.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from tracklayer.context import Status
from tracklayer.exceptions import NotFound
from tracklayer.outcome import ELSEWHERE, OF_AN_END, OUTCOME_TAG
from tracklayer.provisional import provisional_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.store import Run, Store

LEFT_OPEN: Final = "left open"
"""Value of the tag ``tracklayer.outcome`` on a stage run that was ended in place of its own process: nobody had done so
before its workflow run ended, or before the orchestrator gave its try up."""

DIED: Final = "died"
"""Value of the tag ``tracklayer.outcome`` on a run whose process ended without a word, as its journal shows."""

IN_PLACE: Final = (LEFT_OPEN, DIED)
"""Outcomes that are not true any more once the real end is known."""

REAL_END_TAG: Final = "mlflow.tracklayer.real_end"
"""The tag that announces a real end: a JSON object; MLflow's pages do not show it."""

NO_END: Final = {REAL_END_TAG: ""}
"""Tags that take back what was announced."""

TELLS_AN_END: Final = OF_AN_END | {REAL_END_TAG}
"""The tags of a run that are not true of a later try which goes on with it."""


class RealEnd(msgspec.Struct, frozen=True):
    """How a run ended, as its own process says, or its orchestrator where none of its processes lived to see it.

    Attributes:
        status: the run's status.
        end_time: when it ended, in milliseconds since the epoch.
        outcome: value of the tag ``tracklayer.outcome``; None if it has none.
    """

    status: Status
    end_time: int
    outcome: str | None = None

    @classmethod
    def announced(cls, tags: Mapping[str, str]) -> RealEnd | None:
        """The real end that a run's tags announce; None if they announce none, or nothing that can be read."""
        try:
            return msgspec.json.decode(tags.get(REAL_END_TAG, ""), type=cls)
        except (msgspec.DecodeError, RecursionError):
            return None

    def tags(self) -> dict[str, str]:
        """The tags that announce it."""
        return {REAL_END_TAG: msgspec.json.encode(self).decode()}

    def put_right(self, store: Store, run: Run) -> None:
        """Let a run end like this, whatever somebody else has made of it. Safe to repeat. Raises StoreError.

        Args:
            store: where the run is.
            run: as it is now.
        """
        if (run.status, run.end_time) != (self.status, self.end_time):
            store.update_run(run.run_id, status=self.status, end_time=self.end_time)
        before = run.tags.get(OUTCOME_TAG)
        if before not in IN_PLACE and not (before == ELSEWHERE and self.outcome is not None):
            return
        if self.outcome is not None:
            store.log_batch(run.run_id, tags={OUTCOME_TAG: self.outcome})
        else:
            with contextlib.suppress(NotFound):  # whoever else puts it right was quicker
                store.delete_tag(run.run_id, OUTCOME_TAG)


def end_instead(
    store: Store, run_id: str, status: Status, ended_at: int, tags: Mapping[str, str], *, given: str | None = None
) -> bool:
    """End a run in place of its own process, unless that has ended it, or its real end is on the way.

    Args:
        store: where the run is.
        run_id: the run.
        status: how it is to end.
        ended_at: when it is taken to have ended, in milliseconds since the epoch; not before its start.
        tags: what is to be said about it.
        given: the local id that the process had for it; None if that does not matter. A run with which a later try goes
            on (``attempts = "reuse"``) has another one by then.

    Returns:
        False if there was nothing to end: the run is over, in the trash, gone, or another try's.

    Raises:
        StoreError: the back end cannot be reached; a repetition does the rest.
    """
    try:
        run = store.get_run(run_id)
    except NotFound:
        return False
    if run.deleted or run.status != "RUNNING":
        return False
    key = run.tags.get("tracklayer.key")
    if given is not None and key is not None and given != provisional_id(key):
        return False
    if RealEnd.announced(run.tags) is None:
        if tags:
            store.log_batch(run_id, tags=tags)
        store.update_run(run_id, status=status, end_time=max(ended_at, run.start_time or ended_at))
        run = store.get_run(run_id)
    if (end := RealEnd.announced(run.tags)) is not None:
        end.put_right(store, run)
    return True


def leave_open(store: Store, run_id: str, ended_at: int) -> None:
    """End a run that nobody has ended although it must be over; as `end_instead`."""
    end_instead(store, run_id, "KILLED", ended_at, {OUTCOME_TAG: LEFT_OPEN})


def leave_untold(store: Store, run_id: str, ended_at: int) -> None:
    """End a run whose task ended elsewhere, nobody knows how; its outcome stays, so that whoever learns it finds it."""
    end_instead(store, run_id, "KILLED", ended_at, {OUTCOME_TAG: ELSEWHERE})


def end_as_told(store: Store, run: Run, end: RealEnd) -> bool:
    """End a run whose task ended while no process of it was there, as its orchestrator tells; safe to repeat.

    One that was taken for finished when its process left it, or was ended before anybody knew (see `is_untold`), gets its
    right end, too. It is announced first, as by its own process.

    Args:
        store: where the run is.
        run: as it is now.
        end: how the task ended.

    Returns:
        False if that changed nothing: it has ended like this, or otherwise by the word of its own process.

    Raises:
        StoreError: the back end cannot be reached; a repetition does the rest.
    """
    end = msgspec.structs.replace(end, end_time=max(end.end_time, run.start_time or 0))
    tags = end.tags() if end.outcome is None else {**end.tags(), OUTCOME_TAG: end.outcome}
    if run.status == "RUNNING":
        if end_instead(store, run.run_id, end.status, end.end_time, tags):
            return True
        with contextlib.suppress(NotFound):
            run = store.get_run(run.run_id)  # somebody has ended it since it was read
    if run.deleted or run.status == "RUNNING":
        return False
    if not (is_untold(run) or RealEnd.announced(run.tags) == end):
        return False
    store.log_batch(run.run_id, tags=tags)
    end.put_right(store, run)
    return run.status != end.status


def is_untold(run: Run) -> bool:
    """Whether a run's task ends elsewhere, and nobody has told how yet."""
    return run.tags.get(OUTCOME_TAG) == ELSEWHERE and RealEnd.announced(run.tags) is None


def take_back(store: Store, run: Run) -> None:
    """Take the mark of an end in place from a run that has ended by itself since: that was in time, and told nobody.

    Safe to repeat. Raises StoreError.
    """
    if run.tags.get(OUTCOME_TAG) in IN_PLACE and run.status in {"FINISHED", "FAILED"}:
        with contextlib.suppress(NotFound):  # whoever else takes it was quicker
            store.delete_tag(run.run_id, OUTCOME_TAG)


def reopen(store: Store, run: Run) -> None:
    """Let a run go on that had ended: what was announced of that end is no longer true. Raises StoreError."""
    if REAL_END_TAG in run.tags:
        store.log_batch(run.run_id, tags=NO_END)
    store.update_run(run.run_id, status="RUNNING")
