"""The server is frozen (SIGSTOP) for a while in the middle of a stage: it takes connections, and answers nothing."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("TRACKLAYER_TEST_FREEZE_SECONDS", "30"))


def test_nothing_is_lost_and_nothing_is_double(victim: MlflowServer, scene: Callable[..., Scene]) -> None:
    ends_within, goes_on = scene(victim.uri), scene(victim.uri)
    # A short patience for answers: the server has what it was sent before it was frozen, and answers after that.
    quick = {"TRACKLAYER_TIMEOUT": "2"}
    first = ends_within.start("within", pauses=("train-0",), pace=0.01)
    second = goes_on.start("on", pauses=("train-0", "evaluate-1"), pace=0.01, environ=quick)
    for task in (first, second):
        task.at("train-0")
        task.go("train-0")
    time.sleep(0.3)  # somewhere among the calls of the second round
    victim.freeze()
    frozen = time.monotonic()
    try:
        ends_within.ends_as_untracked(first)
        second.at("evaluate-1")
        time.sleep(max(0.0, frozen + SECONDS - time.monotonic()))
    finally:
        victim.thaw()
    second.go("evaluate-1")
    goes_on.ends_as_untracked(second)
    for stage in (ends_within, goes_on):
        stage.deliver()
        assert stage.differences(victim) == []
