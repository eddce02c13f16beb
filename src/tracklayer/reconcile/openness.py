"""Runs that are open though what they stand for has ended, and those that ended before anybody knew how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.ending import LEFT_OPEN, is_untold
from tracklayer.identity import PARENT_TAG
from tracklayer.linking import ref_of
from tracklayer.outcome import ELSEWHERE, OUTCOME_TAG
from tracklayer.reconcile.findings import Finding, LeftAlone, OpenParent, OpenRun, UntoldEnd
from tracklayer.reconcile.truth import Truth, Verdict, is_ours, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer.reconcile.reading import Reader
    from tracklayer.reconcile.scope import Scope
    from tracklayer.store import Run

OPEN = "attributes.status = 'RUNNING'"
"""MLflow's filter for open runs."""

UNTOLD = f"attributes.status != 'RUNNING' and tags.`{OUTCOME_TAG}` = '{ELSEWHERE}'"
"""MLflow's filter for runs whose tasks ended elsewhere, among them those of which nobody has told how."""


def examine_open(page: list[Run], reader: Reader, truth: Truth, scope: Scope) -> Iterator[Finding | LeftAlone]:
    """What is wrong with a page of open runs.

    Args:
        page: RUNNING runs, whoever made them.
        reader: for the runs above them.
        truth: says what has become of them.
        scope: which of them are looked at.
    """
    reader.fetch(parent for run in page if (parent := run.tags.get(PARENT_TAG)))
    for run in page:
        owner = run if is_ours(run) else truth.owner(run)
        if owner is None or not is_ours(owner) or not scope.covers(owner.tags):
            continue  # somebody else's
        verdict = truth.of(owner)
        if verdict.status is None:
            if verdict.because:
                yield LeftAlone(run=ref_of(run), because=verdict.because)
        elif owner is run:
            told = truth.told(run) if is_untold(run) else None
            yield _open(run, verdict) if told is None else _untold(run, told)
        else:
            yield _of_user_code(run, owner, verdict)


def examine_untold(page: list[Run], truth: Truth, scope: Scope) -> Iterator[UntoldEnd]:
    """Which of these runs (see `UNTOLD`) ended otherwise than they say, by their orchestrators' word.

    Of those that nobody knows more about, nothing is said: they have ended.
    """
    for run in page:
        if not (is_untold(run) and is_ours(run) and scope.covers(run.tags)):
            continue
        verdict = truth.told(run)
        if verdict is not None and verdict.status != run.status:
            yield _untold(run, verdict)


def _untold(run: Run, verdict: Verdict) -> UntoldEnd:
    assert verdict.status is not None
    return UntoldEnd(
        run=ref_of(run),
        status=verdict.status,
        ended_at=_after_start(run, verdict.ended_at),
        because=verdict.because,
        note=verdict.note,
        before=run.status,
    )


def _open(run: Run, verdict: Verdict) -> OpenRun:
    assert verdict.status is not None
    place = place_of(run)
    kind = OpenParent if place is not None and place.task_run is None else OpenRun
    return kind(
        run=ref_of(run),
        status=verdict.status,
        ended_at=_after_start(run, verdict.ended_at),
        because=verdict.because,
        note=verdict.note,
    )


def _of_user_code(run: Run, owner: Run, verdict: Verdict) -> OpenRun | LeftAlone:
    """A run that user code started below a stage ends as the stage did, if it was there when that ended."""
    assert verdict.status is not None
    closed = owner.status != "RUNNING"
    ended_at = owner.end_time if closed and owner.end_time else verdict.ended_at
    if ended_at is not None and (run.start_time or 0) > ended_at:
        because = "it was started after its stage had ended, so something else still logs to it"
        return LeftAlone(run=ref_of(run), because=because)
    status = owner.status if closed and owner.status in {"FINISHED", "FAILED", "KILLED"} else verdict.status
    return OpenRun(
        run=ref_of(run),
        status=status,  # type: ignore[arg-type]  # one of the three
        ended_at=ended_at,
        because=f"{verdict.because}; it is a run of that task's own code",
        note=LEFT_OPEN if status == "KILLED" else None,
        own=False,
    )


def _after_start(run: Run, ended_at: int | None) -> int | None:
    """An end is not before the start, whatever two machines' clocks say."""
    return None if ended_at is None else max(ended_at, run.start_time or 0)
