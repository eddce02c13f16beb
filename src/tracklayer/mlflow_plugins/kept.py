"""Artifacts that could not be stored at once: copied aside, read from the copies, delivered by the journal."""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Final, NoReturn

from tracklayer.journal.operations import Artifact
from tracklayer.mlflow_plugins import tables
from tracklayer.mlflow_plugins.stages import current_stage, state_of_run, states, tracked_in
from tracklayer.provisional import is_provisional
from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tracklayer.journal.recorder import Recorder
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun

AGAIN: Final = 5.0
"""After a failure, so many seconds pass before a store is tried again directly."""

_OWNER = re.compile(r"(?:^|/)((?:m-)?[0-9a-f]{32})/artifacts(?:/(.*))?$")


def owner_of(artifact_uri: str) -> tuple[str, str] | None:
    """The run or model to which a place of artifacts belongs, and the path below it; None if it is not of that form.

    >>> owner_of("s3://bucket/7/4d0b2f6c1a834e5f9f0c6a1e2b3d4c5f/artifacts/plots")
    ('4d0b2f6c1a834e5f9f0c6a1e2b3d4c5f', 'plots')
    >>> owner_of("s3://bucket/7/traces/tr-4d0b2f6c1a834e5f9f0c6a1e2b3d4c5f/artifacts") is None
    True
    """
    found = _OWNER.search(artifact_uri.rstrip("/"))
    return None if found is None else (found[1], (found[2] or "").strip("/"))


class Kept:
    """The artifacts of one run or model, as far as this process has them still.

    Attributes:
        owner: local id of the run or model.
        recorder: what writes for it.
        settings: how long the server is waited for.
        stage: within which it was last asked for.
    """

    def __init__(self, owner: str, recorder: Recorder, stage: StageRun) -> None:
        self.owner = owner
        self.recorder = recorder
        self.settings: Settings = stage.settings
        self.stage = stage
        self._pid = os.getpid()
        self._copies: dict[str, str] = {}
        self._not_before = 0.0

    @property
    def here(self) -> bool:
        """True in the process that made it: a fork has a journal of its own."""
        return self._pid == os.getpid()

    @property
    def waiting(self) -> bool:
        """True if something of it may not be delivered yet."""
        return bool(self._copies)

    def add(self, files: Sequence[tuple[Path, str]], *, tried: bool = False) -> None:
        """Copy files aside, to be delivered.

        Args:
            files: pairs of a file and its path among the artifacts.
            tried: True if they were sent, and nobody knows whether they have arrived.

        Raises:
            OSError: a file cannot be read, or there is no room for its copy.
        """
        for source, path in files:
            name = self.recorder.keep(source)
            known = tables.rows_before(path)
            # `tried` means something for a table only: whatever else was sent before is replaced by itself.
            self.recorder.append(
                Artifact(owner=self.owner, path=path, file=name, known=known, tried=tried and known is not None)
            )
            self._copies[path] = name
        _known().setdefault(self.owner, self)  # another thread's stage may have ended, and forgotten it, meanwhile

    def settle(self) -> bool:
        """True if nothing is here any more that waits to be delivered. Waits for that, if the server is there."""
        if not self._copies:
            return True
        limit = 0.0 if time.monotonic() < self._not_before else None
        if self.recorder.away or not self.recorder.flush(limit):
            if limit is None:
                self.failed()
            return False
        # What could not be stored although the server is there, because its storage is not, is still here.
        return self.is_delivered()

    def is_delivered(self) -> bool:
        """True if nothing is here any more that waits to be delivered. Waits for nothing."""
        for path, name in list(self._copies.items()):
            if self._file(name) is None:
                there = self._copies.pop(path, name)
                if there != name:  # it was stored once more, just now
                    self._copies.setdefault(path, there)
        return not self._copies

    def direct(self, *, by_server: bool) -> bool:
        """True if an artifact may be stored at once, without overtaking what is kept.

        Args:
            by_server: True if it goes through the tracking server, which may be known to be away.
        """
        if time.monotonic() < self._not_before or (by_server and self.recorder.away):
            return False
        return self.settle() and not self.others_wait()

    def others_wait(self) -> bool:
        """True if something of it waits that tracklayer's own calls have kept, although that was waited for."""
        if self.recorder.waits(self.owner):
            self.recorder.flush()
        return self.recorder.waits(self.owner)

    def failed(self) -> None:
        """The store was not reached: for a moment it is not tried again."""
        self._not_before = time.monotonic() + AGAIN

    def copies(self, path: str) -> Iterator[tuple[str, Path]]:
        """What is still here at `path` or below it: pairs of path and copy. Empty means everything."""
        above = f"{path}/" if path else ""
        copies = list(self._copies.items())
        found = [(name, copy) for name, copy in copies if name == path or name.startswith(above)]
        for name, copy in found:
            file = self._file(copy)
            if file is not None:
                yield name, file

    def has(self, path: str) -> bool:
        """True if a file of exactly this path is still here."""
        return any(name == path for name, _ in self.copies(path))

    def _file(self, name: str) -> Path | None:
        """The copy of this name; None if it is delivered."""
        try:
            file = self.recorder.file(name)
        except FileNotFoundError:
            return None
        return file if file.exists() else None

    def fetch(self, path: str, target: Path) -> bool:
        """Copy what is kept of `path` to `target`; False if it is not here."""
        for name, copy in self.copies(path):
            if name == path:
                try:
                    shutil.copyfile(copy, target)
                except FileNotFoundError:  # delivered in this moment
                    return False
                return True
        return False


def refuse_to_ask(what: str) -> NoReturn:
    """Raise what MLflow raises where a server does not answer, without waiting for that.

    Raises:
        MlflowException: with the error code ``TEMPORARILY_UNAVAILABLE``.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    raise MlflowException(
        f"{what} cannot be asked for now: the tracking server does not answer. What is logged meanwhile is kept on "
        "this machine and delivered later.",
        error_code=TEMPORARILY_UNAVAILABLE,
    )


def no_room(error: Exception) -> NoReturn:
    """Raise what the user is told where an artifact can neither be stored nor kept.

    Raises:
        MlflowException: with the error code ``RESOURCE_EXHAUSTED``.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_EXHAUSTED

    raise MlflowException(
        f"The tracking server does not answer, and there is no room to keep an artifact until it does: {error}",
        error_code=RESOURCE_EXHAUSTED,
    ) from error


def kept_of(owner: str, tracking_uri: str | None) -> Kept | None:
    """What is kept of a run or model.

    Args:
        owner: its local id.
        tracking_uri: where it is tracked, as far as the caller knows.

    Returns:
        None if this is no stage's business: no stage is open here, and nothing of it was kept before.
    """
    known = _known().get(owner)
    if known is not None and not known.here:
        known = None
    stage = _stage(owner)
    if known is not None and (stage is not None or known.waiting or is_provisional(owner)):
        known.stage = stage or known.stage
        return known
    recorder = None if stage is None else stage.recorder
    if stage is None or recorder is None or (tracking_uri and not tracked_in(stage, tracking_uri)):
        return None
    kept = Kept(owner, recorder, stage)
    _known()[owner] = kept
    return kept


def forget_kept() -> None:
    """Let go of runs and models whose stage has ended, as far as nothing of them waits to be delivered.

    What is delivered only after the end of its stage is let go of when the next one ends. An id that was given out
    before the run existed leads to it by its recorder, so that code which uses it later needs that still.
    """
    for owner, kept in list(_known().items()):
        needed = kept.here and (kept.stage.is_open or is_provisional(owner) or not kept.is_delivered())
        if not needed and _known().get(owner) is kept:
            _known().pop(owner, None)


def _stage(owner: str) -> StageRun | None:
    """The current stage; in a thread that has none, the one to which the run belongs."""
    stage = current_stage()
    if stage is not None:
        return stage
    state = state_of_run(owner) or next((state for state in states() if state.owns(owner)), None)
    return None if state is None else state.stage


@singleton
def _known() -> dict[str, Kept]:
    """What this process has kept, by the local id of run or model."""
    return {}
