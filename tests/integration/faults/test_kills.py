"""Tasks are killed (SIGKILL) at random moments of their whole life, a hundred on each database; and so is delivery."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from harness.killing import Killer

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from harness.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("TRACKLAYER_TEST_KILLS", "100"))
SEED = int(os.environ.get("TRACKLAYER_TEST_SEED", "20261121"))


def test_what_was_acknowledged_survives(
    victim: MlflowServer, scene: Callable[..., Scene], proxy_before: Callable[[str], RecordingProxy]
) -> None:
    proxy = proxy_before(victim.uri)
    stage = scene(proxy.uri, environ={"TRACKLAYER_LINGER": "2"})
    killer = Killer(stage, SEED)
    killer.kill(range(KILLS // 2))
    with proxy.refused():
        killer.kill(range(KILLS // 2, KILLS * 5 // 8))
    killer.kill(range(KILLS * 5 // 8, KILLS))
    with proxy.refused():  # so that there is something to deliver
        killer.kill(range(KILLS, KILLS + 8))
        for number in range(KILLS + 8, KILLS * 2):  # as many as were through before their moment came
            if killer.killed >= KILLS:
                break
            killer.kill(range(number, number + 1))
    stage.deliver_and_be_killed(8, random.Random(SEED))
    told = f"seed {SEED}: {sorted(killer.calls.items())} of {killer.total} calls, {killer.finished} finished"
    assert killer.killed >= KILLS, told
    assert killer.finished < KILLS / 4, told
    assert len(killer.calls) >= min(10, KILLS / 4), told  # the moments are spread
    stage.deliver(seconds=400)  # some thousand requests
    assert stage.differences(victim, died=True, closed=False) == [], told
    killer.close()
    stage.deliver()  # on a busy machine the last of these ends before all of it is sent
    assert stage.differences(victim, died=True) == [], told
