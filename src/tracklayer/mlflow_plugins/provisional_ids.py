"""Which run or model is meant by an id that was given out, by whatever process, before the server knew it."""

from __future__ import annotations

from tracklayer.provisional import id_tag
from tracklayer.singleton import singleton
from tracklayer.store.opening import open_store


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


@singleton
def _found() -> dict[tuple[str, str], str]:
    return {}
