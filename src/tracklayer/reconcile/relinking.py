"""Links moved from one run to another: in tags, and in the descriptions that show them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tracklayer.description import DOWNSTREAM_MARKER, MARKER, NOTE_TAG, escape, run_link
from tracklayer.identity import ROOT_TAG, UPSTREAM_TAG, upstream_tag
from tracklayer.reconcile.relations import HOLDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.context import RunRef, Upstream
    from tracklayer.store import Run, Store

UPSTREAM: Final = "**Upstream**"
"""The heading of the links in a description."""


def moved(tags: Mapping[str, str], old: str, new: RunRef) -> tuple[dict[str, str], list[str]]:
    """What has to be changed in a run's tags, so that what led to the run `old` leads to `new`.

    Returns:
        The tags to set, the description among them, and the names of those to take away.
    """
    to_set = {tag: new.run_id for tag in HOLDING if tags.get(tag) == old}
    to_delete = []
    if upstream_tag(old) in tags:
        to_delete.append(upstream_tag(old))
        to_set.setdefault(upstream_tag(new.run_id), tags.get(upstream_tag(new.run_id), tags[upstream_tag(old)]))
    note = tags.get(NOTE_TAG)
    if note is not None and (described := redirected(note, old, new)) != note:
        to_set[NOTE_TAG] = described
    return to_set, to_delete


def move(store: Store, run: Run, old: str, new: RunRef) -> bool:
    """Have everything in a run's tags that leads to `old` lead to `new`; False if nothing does."""
    to_set, to_delete = moved(run.tags, old, new)
    if to_set:
        store.log_batch(run.run_id, tags=to_set)
    for tag in to_delete:
        store.delete_tag(run.run_id, tag)
    return bool(to_set or to_delete)


def redirected(note: str, old: str, new: RunRef) -> str:
    """A description whose links to the run `old` lead to `new`; what a user wrote above is kept to the letter."""
    user, marker, own = note.partition(MARKER)
    if not marker:
        return note
    link = re.compile(rf"\(#/experiments/[^/)\s]*/runs/{re.escape(old)}\)")
    return user + marker + link.sub(f"(#/experiments/{new.experiment_id}/runs/{new.run_id})", own)


def with_upstream(note: str, item: Upstream) -> str:
    """A description with one more link among those upstream, unless it is there."""
    head, marker, own = note.partition(MARKER)
    if f"/runs/{item.run.run_id})" in own:
        return note
    own, downstream, tail = own.partition(DOWNSTREAM_MARKER)
    dataset = f", by {escape(item.dataset)}" if item.dataset else ""
    line = f"- {run_link(item.run)} ({item.kind}{dataset})"
    own = f"{own.rstrip()}\n{line}" if UPSTREAM in own else f"{own.rstrip()}\n\n{UPSTREAM}\n\n{line}"
    rest = f"\n\n{downstream}{tail}" if downstream else ""
    before = head if marker or not head.strip() else f"{head.rstrip()}\n\n"
    return f"{before}{MARKER}{own if own.startswith(chr(10)) else chr(10) * 2 + own}{rest}"


def leading_to(run_id: str) -> tuple[str, ...]:
    """MLflow's filters for the runs that lead to a run: below it, of its story, linked to it."""
    return (
        f"tags.`{HOLDING[0]}` = '{run_id}'",
        f"tags.`{ROOT_TAG}` = '{run_id}'",
        f"tags.`{UPSTREAM_TAG}{run_id}` != ''",
    )
