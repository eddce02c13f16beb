"""Which run or model is meant by an id that was given out, by whatever process, before the server knew it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tracklayer.provisional import id_tag
from tracklayer.singleton import singleton
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

_ID: Final = re.compile(r"(?<![0-9a-zA-Z-])(?:m-)?[0-9a-f]{12}8[0-9a-f]{19}(?![0-9a-f])")


def found_run(tracking_uri: str, identifier: str) -> str | None:
    """The server's id of a run; None if it has no run that was given out by that id. What was found is remembered.

    Args:
        tracking_uri: where to look.
        identifier: a provisional id.

    Raises:
        StoreError: the server cannot be reached.
    """
    known = _found().get((tracking_uri, identifier))
    if known is None:
        runs = open_store(tracking_uri).search_runs([], f"tags.`{id_tag(identifier)}` != ''", limit=1)
        if not runs:
            return None
        known = _found()[tracking_uri, identifier] = runs[0].run_id
    return known


def found_model(tracking_uri: str, identifier: str) -> str | None:
    """The server's id of a logged model, as `found_run` finds that of a run.

    Raises:
        StoreError: the server cannot be reached.
    """
    known = _found().get((tracking_uri, identifier))
    if known is None:
        model = open_store(tracking_uri).find_logged_model([], id_tag(identifier))
        if model is None:
            return None
        known = _found()[tracking_uri, identifier] = model.model_id
    return known


def found_any(tracking_uri: str, identifier: str) -> str | None:
    """The server's id of a run or logged model, as `found_run` and `found_model` find it.

    Raises:
        StoreError: the server cannot be reached.
    """
    return (found_model if is_model(identifier) else found_run)(tracking_uri, identifier)


def is_model(identifier: str) -> bool:
    """True for the id of a logged model, False for that of a run."""
    return identifier.startswith("m-")


def with_ids(text: str, real: Callable[[str], str]) -> str:
    """A text (a filter, a URI) with other ids in place of the provisional ones that it names.

    Args:
        text: the text.
        real: what stands in place of an id.

    >>> with_ids("run_id = '4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f'", lambda identifier: "7")
    "run_id = '7'"
    """
    return _ID.sub(lambda found: real(found[0]), text)


@singleton
def _found() -> dict[tuple[str, str], str]:
    return {}
