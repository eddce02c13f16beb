"""Programs of many MLflow calls, by seeds, end in a stage as untracked and leave the same: with the server there, and lost now and then.

`make programs` runs more seeds.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from harness.mlflow_calls import CALLS, NOW, data_of, ended

if TYPE_CHECKING:
    from harness.line import Line

FIRST, LAST = map(int, os.environ.get("TRACKLAYER_TEST_SEEDS", "1:3").split(":"))

LENGTH = 20
"""Calls of a program."""

ASKING = {
    # What only a server can say, and what is told it at once.
    *(name for name in CALLS if "deleted run" in name or "not there" in name or name.startswith("create a run in")),
    "log to a run that nobody could have given out",
    "output twice",
    "scheduled",
}
"""Calls that fail otherwise while the server is away."""


@pytest.mark.parametrize("there", [True, False], ids=["there", "lost"])
@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_a_program_leaves_what_it_leaves_untracked(line: Line, seed: int, there: bool) -> None:
    chance = random.Random(seed)
    names = chance.choices([name for name in CALLS if there or name not in ASKING], k=LENGTH)
    moments = set() if there else set(chance.sample(range(LENGTH), 5))
    experiment = line.client.create_experiment(f"untracked-{line.pipeline.workflow}")

    untracked = line.client.create_run(experiment, run_name="a run").info.run_id
    expected = [(name, ended(lambda: CALLS[name](line.client, untracked))) for name in names]  # noqa: B023 - made at once
    line.client.set_terminated(untracked, "FINISHED", NOW)

    with line.stage() as stage:
        client = MlflowClient(line.proxy.uri)
        away, told = False, []
        if not there and chance.random() < 0.5:
            line.cut()
            away = True
        run_id = client.create_run(stage.experiment_id or "", run_name="a run").info.run_id
        for number, name in enumerate(names):
            if number in moments:
                (line.mend if away else line.cut)()
                away = not away
            told.append((name, ended(lambda: CALLS[name](client, run_id))))  # noqa: B023 - the same
        client.set_terminated(run_id, "FINISHED", NOW)
    line.mend()
    line.deliver(stage)

    assert told == expected
    assert stage.recorder is not None
    assert data_of(line.client, stage.recorder.resolve(run_id) or run_id) == data_of(line.client, untracked)
    assert stage.recorder.refused == 0
