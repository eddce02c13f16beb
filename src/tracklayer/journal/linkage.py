"""Links to runs that are not there yet, and to those that have come since: written when they can be, and put right.

A run is linked to by the id that was given out, and the link is put right by whoever comes second. A run that only
ought to be there, by an orchestrator's word, is expected: the consumer has a tag that says so, which nobody sees, and
becomes a link when the run has been delivered and has ended well.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from tracklayer.context import LinkKind, Upstream
from tracklayer.creation import is_expected
from tracklayer.description import NOTE_TAG, with_upstream
from tracklayer.exceptions import StoreError
from tracklayer.forking import importing
from tracklayer.identity import ROOT_TAG, UPSTREAM_TAG, upstream_tag
from tracklayer.journal.identities import Held
from tracklayer.linking import link_tags, ref_of
from tracklayer.provisional import EXPECTED_TAG, ID_TAG, PENDING, id_tag, is_provisional
from tracklayer.store.failure import failure_of_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tracklayer.backend import Backend
    from tracklayer.journal.identities import Identities
    from tracklayer.opening import Opened, Opening
    from tracklayer.settings import Settings
    from tracklayer.store import Run

log = logging.getLogger("tracklayer")

CONSUMERS: Final = 1_000
"""At most so many runs are looked at that were linked to one before it existed."""


class Linkage:
    """The links of the runs of one journal. Every method raises `StoreError` and may be repeated then."""

    def __init__(self, backend: Backend, settings: Settings, identities: Identities) -> None:
        """Ask for nothing yet.

        Args:
            backend: where the runs are.
            settings: those of whoever delivers.
            identities: what the server calls the runs of the journal.
        """
        self._backend = backend
        self._settings = settings
        self._ids = identities
        self._before = frozenset(identities.runs)
        self._derived: dict[str, list[str]] = {}
        self._doubted: dict[str, dict[str, None]] = {}  # by the run that has them, where the links lead to
        self._postponed: list[tuple[str, str]] = []
        self._told: set[tuple[str, str]] = set()

    def sent(self, run_id: str, tags: Iterable[str]) -> None:
        """Links were written with ids that led nowhere when they were resolved: they are to be looked at again."""
        for key in tags:
            identifier = key.removeprefix(UPSTREAM_TAG)
            if key.startswith(UPSTREAM_TAG) and is_provisional(identifier):
                self._doubted.setdefault(run_id, {})[identifier] = None

    def in_doubt(self, run_id: str) -> bool:
        """Whether a link that this run has is to be looked at again."""
        return run_id in self._doubted

    @property
    def doubt(self) -> tuple[str, str] | None:
        """The link that is to be looked at again next: the run that has it, and the id that it leads to."""
        return next(((run_id, next(iter(linked))) for run_id, linked in self._doubted.items()), None)

    def let_go(self) -> None:
        """Do not look at that one again."""
        if (doubt := self.doubt) is not None:
            self._settle(*doubt)

    def postpone(self) -> None:
        """Look at all others before that one."""
        if (doubt := self.doubt) is not None:
            self._settle(*doubt)
            self._postponed.append(doubt)

    def resume(self) -> None:
        """What was postponed is to be looked at again, behind the others."""
        for run_id, identifier in self._postponed:
            self._doubted.setdefault(run_id, {})[identifier] = None
        self._postponed.clear()

    def _settle(self, run_id: str, identifier: str) -> None:
        linked = self._doubted.get(run_id, {})
        linked.pop(identifier, None)
        if not linked:
            self._doubted.pop(run_id, None)

    def look_again(self) -> None:
        """See to the links that were sent: perhaps they lead somewhere now."""
        while (doubt := self.doubt) is not None:
            self._attempt(*doubt, partial(self._look_again_for, *doubt))
            self._settle(*doubt)

    def _attempt(self, consumer: str, linked: str, write: Callable[[], object]) -> None:
        """Write a link, if that can be done; that it cannot is told once. Raises StoreError if it is to be tried again.

        The run that is linked may be another team's, who has given the right to read it and no other. The run that it is
        linked to has nothing to do with that, and does not wait. `tracklayer reconcile`, run by somebody who may, rights
        the link.
        """
        error = failure_of_one(write, self._backend.store)
        if error is not None and (consumer, linked) not in self._told:
            self._told.add((consumer, linked))
            bug = None if isinstance(error, StoreError) else error
            log.warning(
                "tracking: the link of run %s to %s was not brought up to date: %s",
                consumer,
                linked,
                error,
                exc_info=bug,
            )

    def _look_again(self, consumer: str, upstream: Upstream) -> None:
        if is_provisional(upstream.run.run_id):
            self._look_again_for(consumer, upstream.run.run_id)

    def _look_again_for(self, consumer: str, identifier: str) -> None:
        # It may have come while we wrote, and whoever created it may have looked before we had written.
        found = self._ids.find(identifier)
        if found is not None:
            self._ids.ask_again()
            _right(self._backend.store, self._backend.store.get_run(consumer), identifier, found)
            self._describe([found.run_id])

    def right_consumers(self, identifier: str, run_id: str) -> None:
        """Let the links that were made with an id that was given out lead to the run that it stands for."""
        store = self._backend.store
        consumers = store.search_runs([], f"tags.`{upstream_tag(identifier)}` != ''", limit=CONSUMERS)
        if not consumers:
            return
        run = store.get_run(run_id)
        for consumer in consumers:
            self._attempt(consumer.run_id, run_id, partial(_right, store, consumer, identifier, run))
        self._describe([run_id])

    def _found(self, item: Upstream) -> Upstream:
        """The link with the server's id, as far as it is known."""
        if not is_expected(item):
            run = self._ids.resolved_ref(item.run)
            return item if run is None else replace(item, run=run)
        found = self._finished(item.run.run_id)
        return item if found is None else replace(item, run=ref_of(found))

    def _finished(self, identifier: str) -> Run | None:
        """The newest run that was expected under this id. It has ended: whoever expects it came after it."""
        where = f"tags.`{id_tag(identifier)}` != '' and attributes.status = 'FINISHED'"
        order = ["attributes.start_time DESC"]
        found = self._backend.store.search_runs([], where, order_by=order, limit=1)
        return found[0] if found else None

    def ended(self, local: str, run_id: str) -> None:
        """A run has ended well: those that expected it before it was delivered are linked to it."""
        if local not in self._derived and local in self._before:  # what delivered its beginning is not there any more
            self._derived[local] = _other_ids(self._backend.store.get_run(run_id).tags)
        for identifier in self._derived.get(local, ()):
            self._grant_all(identifier, run_id)
        self._derived.pop(local, None)

    def _grant_all(self, identifier: str, run_id: str) -> None:
        store = self._backend.store
        consumers = store.search_runs([], f"tags.`{EXPECTED_TAG}{identifier}` != ''", limit=CONSUMERS)
        run = store.get_run(run_id) if consumers else None
        for consumer in consumers:
            if run is not None:
                self._grant(consumer, identifier, run)

    def _grant(self, consumer: Run, identifier: str, run: Run) -> None:
        name = EXPECTED_TAG + identifier
        kind = consumer.tags.get(name)
        if kind is None:
            return
        item = Upstream(run=ref_of(run), kind=cast("LinkKind", kind) if kind in get_args(LinkKind) else "hand-over")
        note = with_upstream(consumer.tags.get(NOTE_TAG, ""), item)
        tags = {**link_tags([item]), NOTE_TAG: note}
        self._attempt(consumer.run_id, run.run_id, partial(_replace, self._backend.store, consumer.run_id, name, tags))
        self._describe([run.run_id])

    def resolved(self, opening: Opening) -> Opening:
        """The opening with the server's ids. Raises Held if the stage is not there within which this one was opened."""
        if opening.outer is not None:
            outer = self._ids.resolved_ref(opening.outer)
            if outer is None:
                raise Held(opening.outer.run_id)
            opening = replace(opening, outer=outer)
        elif opening.context.parent is not None:  # while there is none, it is elected, as if it had not been told
            parent = self._ids.resolved_ref(opening.context.parent)
            opening = replace(opening, context=replace(opening.context, parent=parent))
        return replace(opening, upstream=tuple(self._found(item) for item in opening.upstream))

    def begun(self, local: str, opening: Opening, opened: Opened, *, late: bool) -> None:
        """See to the links of a new run: those that could not be written yet, and those of others to it."""
        if late:
            self._known_as(local, opening, opened.ref.run_id)
        for link in opened.links:
            self._look_again(opened.ref.run_id, link.upstream)
        for item in opening.upstream:
            if is_expected(item) and (found := self._finished(item.run.run_id)) is not None:
                self._grant(self._backend.store.get_run(opened.ref.run_id), item.run.run_id, found)
        if late:
            self._describe_late(opened)

    def begun_before(self, local: str, opening: Opening, run_id: str) -> None:
        """As `begun`, for a run that an earlier delivery has made, and that perhaps did not come to see to its links."""
        self._known_as(local, opening, run_id)
        run = self._backend.store.get_run(run_id)
        for tag in run.tags:
            identifier = tag.removeprefix(EXPECTED_TAG)
            if identifier != tag and (found := self._finished(identifier)) is not None:
                self._grant(run, identifier, found)
        self.sent(run_id, run.tags)

    def _known_as(self, local: str, opening: Opening, run_id: str) -> None:
        """A run that comes late is known by other ids, too, which were derived where it could not be looked for."""
        self._derived[local] = _other_ids(opening.tags)
        for identifier in self._derived[local]:
            self.right_consumers(identifier, run_id)

    def _describe_late(self, opened: Opened) -> None:
        """Whoever ended the workflow run has described the runs that fed it; a run that comes later does it itself."""
        if not opened.links or opened.parent is None or not self._settings.describe_upstream:
            return
        if self._backend.store.get_run(opened.parent.run_id).status != "RUNNING":
            self._describe([link.upstream.run.run_id for link in opened.links])

    def _describe(self, run_ids: list[str]) -> None:
        if self._settings.describe_upstream:
            with importing():
                from tracklayer.closing import describe_downstream

            for run_id in run_ids:
                if not is_provisional(run_id):
                    describe_downstream(self._backend, run_id)


def _right(store: Any, consumer: Run, identifier: str, run: Run) -> None:
    """Let a link lead to the run that was linked to before it existed."""
    before = upstream_tag(identifier)
    if before not in consumer.tags:
        return
    tags = {upstream_tag(run.run_id): consumer.tags[before]}
    if consumer.tags.get(ROOT_TAG) == identifier:
        tags[ROOT_TAG] = run.tags.get(ROOT_TAG, run.run_id)
    note = consumer.tags.get(NOTE_TAG, "")
    if identifier in note:
        place = f"#/experiments/{PENDING}/runs/{identifier}"
        right = note.replace(place, f"#/experiments/{run.experiment_id}/runs/{run.run_id}")
        tags[NOTE_TAG] = right.replace(identifier, run.run_id)
    _replace(store, consumer.run_id, before, tags)


def _other_ids(tags: Iterable[str]) -> list[str]:
    """By which ids a run is known beside the server's, as its tags say."""
    return [tag.removeprefix(ID_TAG) for tag in tags if tag.startswith(ID_TAG)]


def _replace(store: Any, run_id: str, before: str, tags: Mapping[str, str]) -> None:
    """Let tags stand in the place of one."""
    store.log_batch(run_id, tags=tags)
    store.delete_tag(run_id, before)
