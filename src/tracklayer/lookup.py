"""Runs that plugins find again by something of their orchestrator's (a cache key, a job id, a task): by an index tag.

Such a run is tagged with a name that ends with the hash of that something (`marks`), and is found in one indexed look-up
(`find`). While the tracking server is away nobody can look; but an id can be derived from the tag's name, under which
the run is found as soon as it is delivered, as under any other that was given out before the run existed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer import settings as settings_module
from tracklayer.backend import open_backend
from tracklayer.context import RunRef
from tracklayer.exceptions import Refused, StoreError
from tracklayer.fence import fence
from tracklayer.linking import ref_of
from tracklayer.provisional import EXPECTED, id_tag, provisional_id

if TYPE_CHECKING:
    from tracklayer.settings import Settings


def marks(tag: str) -> dict[str, str]:
    """The tags of a run that `find` finds by the name `tag`, also later."""
    return {tag: "1", **later_mark(tag)}


def later_mark(tag: str) -> dict[str, str]:
    """The tag by which a run is found, that has the tag `tag` already, by whom it was looked for in vain."""
    return {id_tag(provisional_id(tag)): "1"}


def find(tag: str, *, expected: bool = False, settings: Settings | None = None) -> RunRef | None:
    """The newest live run, in whatever experiment, with the tag `tag`.

    Args:
        tag: the tag's whole name.
        expected: True if there ought to be such a run: if it is not there, it may still have to be delivered.
        settings: None loads them.

    Returns:
        None if there is no such run, or tracking is off. While the server cannot be reached, and where a run is
        expected, a reference for a link: it leads to the run once there is one with `marks`, and till then to nothing.
    """
    resolved = settings_module.load() if settings is None else settings
    with fence("looking for a run", resolved.on_error):
        backend = open_backend(resolved)
        if backend is None:
            return None
        try:
            order = ["attributes.start_time DESC"]
            runs = backend.store.search_runs([], f"tags.`{tag}` != ''", order_by=order, limit=1)
        except Refused:
            raise
        except StoreError:  # away, or something before it that lets nobody through
            runs, expected = (), True
        if not runs and expected:
            return RunRef(run_id=provisional_id(tag), experiment_id=EXPECTED)
        return ref_of(runs[0]) if runs else None
    return None
