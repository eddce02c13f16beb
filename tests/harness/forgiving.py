"""Stages that go on while the server is away, how soon their calls return, and the wait for what they have logged."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer import StageRun

AGES = 30.0
"""Seconds that no call may take, though MLflow alone would try for four minutes each."""


@contextmanager
def soon() -> Iterator[None]:
    """The block ends long before MLflow would give up."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < AGES


def delivered(stage: StageRun) -> None:
    """Wait until the server has what was logged, now that it is back."""
    recorder = stage.recorder
    assert recorder is not None
    deadline = time.monotonic() + 60
    while not recorder.flush():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Forgiving(Pipeline):
    """Stages that do not raise because the server is away, and that wait for it no longer than such tests can."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, on_error="log", patience=5.0, timeout=10.0)
