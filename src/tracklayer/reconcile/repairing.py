"""Repairing: what was found is changed, each thing looked at again right before."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from tracklayer import dispatch, registry
from tracklayer.closing import describe_upstream, members_of
from tracklayer.context import Link, Status
from tracklayer.description import NOTE_TAG
from tracklayer.ending import RealEnd, end_as_told, end_instead, is_untold
from tracklayer.exceptions import NotFound, StoreError, StoreUnavailable
from tracklayer.fence import log
from tracklayer.identity import PARENT_TAG, PRODUCED_TAG, UPSTREAM_TAG, key_tag, upstream_tag
from tracklayer.interruption import let_through
from tracklayer.linking import link_tags, ref_of
from tracklayer.outcome import OUTCOME_TAG
from tracklayer.provisional import ID_TAG
from tracklayer.reconcile.findings import (
    KINDS,
    DuplicateParent,
    Finding,
    MisplacedRun,
    OpenParent,
    OpenRun,
    TwinRun,
    UnresolvedId,
    UntoldEnd,
    WantedDataset,
)
from tracklayer.reconcile.relations import candidates_of, elect
from tracklayer.reconcile.relinking import leading_to, move, with_upstream
from tracklayer.store.delivery import deliver
from tracklayer.twins import trash, twins_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pluggy

    from tracklayer.backend import Backend
    from tracklayer.context import RunRef
    from tracklayer.settings import Settings
    from tracklayer.store import Run, Store

RECONCILED_TAG: Final = "mlflow.tracklayer.reconciled"
"""Says on a run why it was changed."""

DUPLICATE_TAG: Final = "tracklayer.duplicate_of"
"""On a parent that was put away: id of the workflow run's parent."""

PAGE: Final = 200

_RANK: Final = {kind: rank for rank, kind in enumerate(dict.fromkeys((TwinRun, *KINDS)))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What became of a finding.

    Attributes:
        finding: what was found.
        changed: False if there was nothing left to do: somebody else did it, or the run ended by itself.
        error: why it could not be repaired; None if it was.
    """

    finding: Finding
    changed: bool
    error: str | None = None


def repair(
    found: Iterable[Finding],
    backend: Backend,
    settings: Settings,
    *,
    progress: Callable[[str, int], None] | None = None,
    done: list[Repair] | None = None,
) -> list[Repair]:
    """Change what an examination found. Safe to repeat, and to run at the same time as another one.

    Args:
        found: see `tracklayer.reconcile.examine`.
        backend: the same tracking back end.
        settings: the settings.
        progress: is told what is being repaired, and how many findings have been.
        done: what became of each finding is added to this as soon as it is known, so that it is known also if this
            raises; None: to a new list.

    Returns:
        What became of each finding, stage runs before parents. Plugins are told of ends and links that were written.

    Raises:
        StoreUnavailable: the back end cannot be reached any more; what was done until then is done.
    """
    repairer = _Repairer(backend, settings, registry.load(settings))
    done = [] if done is None else done
    for number, finding in enumerate(sorted(found, key=_order), 1):
        try:
            done.append(Repair(finding=finding, changed=repairer.repair(finding)))
        except StoreUnavailable:
            raise
        except StoreError as error:
            done.append(Repair(finding=finding, changed=False, error=str(error)))
        except Exception as error:  # one that nobody thought of is no reason to leave the others
            let_through(error)
            log.error("repairing the run %s failed", finding.run.run_id, exc_info=error)
            done.append(Repair(finding=finding, changed=False, error=f"{type(error).__name__}: {error}"))
        if progress is not None:
            progress(finding.title, number)
    repairer.describe()
    return done


def _order(finding: Finding) -> tuple[int, bool]:
    """Twins, lest they be ended; runs of user code before stage runs, those before parents; then what hangs together."""
    return _RANK[type(finding)], isinstance(finding, OpenRun) and finding.own


class _Repairer:
    """Repairs findings one by one; descriptions are brought up to date at the end, each once."""

    def __init__(self, backend: Backend, settings: Settings, plugins: pluggy.PluginManager) -> None:
        self._backend = backend
        self._store = backend.store
        self._settings = settings
        self._plugins = plugins
        self._changed: dict[str, None] = {}
        self._closed: dict[str, RunRef] = {}

    def repair(self, finding: Finding) -> bool:
        """Repair one finding; False if nothing is left of it."""
        if isinstance(finding, UntoldEnd):
            return self._tell(finding)
        if isinstance(finding, OpenRun):
            return self._end(finding)
        if isinstance(finding, DuplicateParent):
            return self._put_away(finding)
        if isinstance(finding, TwinRun):
            return self._trash(finding)
        if isinstance(finding, MisplacedRun):
            return self._move(finding.run.run_id, finding.parent, finding)
        if isinstance(finding, UnresolvedId):
            return self._move(finding.run.run_id, finding.given_out, finding)
        return self._link(finding)

    def describe(self) -> None:
        """Write anew the lists of downstream runs in the descriptions of what feeds the runs that were changed."""
        if not self._settings.describe_upstream:
            return
        for ref in self._closed.values():
            if parents := self._those_of([ref.run_id]):
                members = members_of(self._backend, ref.key or "")
                describe_upstream(self._backend, [*members, *parents])
        changed = [run_id for run_id in self._changed if run_id not in self._closed]
        for begin in range(0, len(changed), PAGE):
            describe_upstream(self._backend, self._those_of(changed[begin : begin + PAGE]))

    def _those_of(self, run_ids: Iterable[str]) -> list[Run]:
        """These runs, without those that somebody has deleted for good since they were changed."""
        runs = []
        for run_id in run_ids:
            with contextlib.suppress(NotFound):
                runs.append(self._store.get_run(run_id))
        return runs

    # ------------------------------------------------------------------------------------------------ open runs

    def _end(self, finding: OpenRun) -> bool:
        tags = {RECONCILED_TAG: finding.because[:1_000]}
        if finding.note:
            tags[OUTCOME_TAG] = finding.note
        ended_at = finding.ended_at or time.time_ns() // 1_000_000
        if not end_instead(self._store, finding.run.run_id, finding.status, ended_at, tags):
            return False
        if isinstance(finding, OpenParent):
            self._closed[finding.run.run_id] = finding.run
            self._backend.forget(finding.run.key or "")
        if finding.own:
            dispatch.run_ended(self._plugins, finding.run, finding.status)
        return True

    def _tell(self, finding: UntoldEnd) -> bool:
        """Let a run end as its task did, unless somebody has told that meanwhile, or it goes on, or has ended."""
        run = self._store.get_run(finding.run.run_id)
        if run.deleted or run.status != finding.before or not is_untold(run) or finding.ended_at is None:
            return False
        self._store.log_batch(run.run_id, tags={RECONCILED_TAG: finding.because[:1_000]})
        end_as_told(self._store, run, RealEnd(finding.status, finding.ended_at, finding.note))
        dispatch.run_ended(self._plugins, finding.run, finding.status)
        return True

    # ------------------------------------------------------------------------------------------------- parents

    def _put_away(self, finding: DuplicateParent) -> bool:
        """Move everything that leads to a duplicate parent to the elected one, then put it into the trash.

        One that holds metrics of the user's is not deleted but put below the elected one, where it is no parent.
        """
        key = finding.run.key or ""
        loser = self._store.get_run(finding.run.run_id)
        if loser.deleted or PARENT_TAG in loser.tags:
            return False
        elected, because = elect(self._store, candidates_of(self._store, loser.experiment_id, key), key)
        if elected is None or elected.run_id == loser.run_id:
            return False  # the other one is gone by now
        for filter_string in leading_to(loser.run_id):
            for run in _all(self._store, filter_string):
                if run.run_id != elected.run_id:
                    if upstream_tag(loser.run_id) in run.tags:
                        self._changed[run.run_id] = None
                    move(self._store, run, loser.run_id, ref_of(elected))
        self._inherit(elected, loser)
        tags = {DUPLICATE_TAG: elected.run_id, RECONCILED_TAG: f"a second parent of its workflow run: {because}"}
        if loser.metrics:
            self._store.log_batch(loser.run_id, tags={**tags, PARENT_TAG: elected.run_id})
            self._store.delete_tag(loser.run_id, key_tag(key))
            if loser.status == "RUNNING":
                status = elected.status if elected.status in {"FINISHED", "FAILED", "KILLED"} else "KILLED"
                ended_at = elected.end_time or time.time_ns() // 1_000_000
                self._store.update_run(loser.run_id, status=cast("Status", status), end_time=ended_at)
        else:
            self._store.log_batch(loser.run_id, tags=tags)
            self._store.delete_run(loser.run_id)
        self._backend.forget(key)
        self._changed[elected.run_id] = None
        return True

    def _trash(self, finding: TwinRun) -> bool:
        twin = self._store.get_run(finding.run.run_id)
        kept = self._store.get_run(finding.kept.run_id)
        if twin.deleted or kept.deleted or not twins_of(kept, [twin]):
            return False
        trash(self._store, twin.run_id, kept.run_id)
        return True

    def _inherit(self, elected: Run, loser: Run) -> None:
        """Give the elected parent what only the other one knows: links, what it produced, ids, params, tags."""
        indexed = (UPSTREAM_TAG, PRODUCED_TAG, ID_TAG)
        people = {name for name in loser.tags if not name.startswith("mlflow.")}
        tags = {
            name: value
            for name, value in loser.tags.items()
            if name not in elected.tags and (name.startswith(indexed) or name in people)
        }
        params = {name: value for name, value in loser.params.items() if name not in elected.params}
        if tags or params:
            for refusal in deliver(self._store, elected.run_id, params=params, tags=tags):
                log.warning(
                    "the parent %s did not take over the %s %s: %.300s",
                    elected.run_id,
                    refusal.kind,
                    refusal.key,
                    refusal.reason,
                )

    # --------------------------------------------------------------------------------------------------- links

    def _move(self, run_id: str, old: str, finding: MisplacedRun | UnresolvedId) -> bool:
        run = self._store.get_run(run_id)
        new = finding.elected if isinstance(finding, MisplacedRun) else finding.found
        if run.deleted or not move(self._store, run, old, new):
            return False
        self._changed[run_id] = None
        return True

    def _link(self, finding: WantedDataset) -> bool:
        run = self._store.get_run(finding.run.run_id)
        if run.deleted or finding.tag not in run.tags:
            return False
        note = run.tags.get(NOTE_TAG, "")
        tags = link_tags([finding.found])
        if self._settings.describe_upstream and (described := with_upstream(note, finding.found)) != note:
            tags[NOTE_TAG] = described
        self._store.log_batch(run.run_id, tags=tags)
        self._store.delete_tag(run.run_id, finding.tag)
        self._changed[run.run_id] = None
        dispatch.run_linked(self._plugins, Link(consumer=finding.run, upstream=finding.found))
        return True


def _all(store: Store, filter_string: str) -> Iterator[Run]:
    """All live runs that match, each once, in pages; most of them match no more when the next page is read."""
    met: set[str] = set()
    size = PAGE
    while True:
        runs = store.search_runs([], filter_string, limit=size)
        fresh = [run for run in runs if run.run_id not in met]
        met.update(run.run_id for run in fresh)
        yield from fresh
        if len(runs) < size:
            return
        size = PAGE + len(runs) - len(fresh)
