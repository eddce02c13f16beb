"""A large artifact is stored at once: no copy of it is made, unless the server does not take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tracklayer.journal.recorder import Recorder


def upload(recorder: Recorder, owner: str, path: str, content: bytes | Path) -> bool:
    """Store an artifact of a run past the journal, after what waits there for the same place.

    Args:
        recorder: what writes for the run.
        owner: local id of the run.
        path: where among its artifacts.
        content: what to store, or the file that holds it.

    Returns:
        False if it has to go the way of the others: the server is away, has not got the run yet, or not what was
        stored at the same place before.

    Raises:
        StoreError: the server does not take it.
    """
    if recorder.away or (run_id := recorder.resolve(owner)) is None:
        return False
    if recorder.waits(owner, path):
        recorder.flush()
        if recorder.waits(owner, path):  # else an older one would replace this one, later
            return False
    store = recorder.backend.store
    recorder.ask(lambda: store.log_artifact(store.get_run(run_id), path, content))
    return True
