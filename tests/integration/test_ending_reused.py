"""What is late of one try does not end the run with which a later try goes on (``attempts = "reuse"``)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest

from harness.late_end import ENDED, World
from harness.patience import patient
from tracklayer.closing import CLOCKS, close
from tracklayer.creation import create
from tracklayer.ending import DIED, RealEnd, end_instead
from tracklayer.identity import PARENT_TAG, run_key
from tracklayer.journal.operations import Log, Named
from tracklayer.outcome import OUTCOME_TAG
from tracklayer.provisional import provisional_id

if TYPE_CHECKING:
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from tracklayer.settings import Settings


@pytest.fixture
def settings(mlflow_server: MlflowServer, tmp_path: Path) -> Settings:
    return patient(mlflow_server.uri, journal=str(tmp_path / "journal"))


@pytest.mark.parametrize("status", ["RUNNING", "FINISHED"])
def test_what_comes_late_of_a_try_gives_way_to_the_one_that_goes_on_with_its_run(
    settings: Settings, status: Literal["RUNNING", "FINISHED"]
) -> None:
    """With ``attempts = "reuse"``: its end, and the end of the workflow run as it was before the task was cleared."""
    settings = msgspec.structs.replace(settings, attempts="reuse")
    world = World(settings, "timed out", named=True)
    first = world.opening
    assert first.context.task_run
    assert first.parent
    context = replace(first.context, task_run=replace(first.context.task_run, try_number=2))
    later = ENDED + CLOCKS + 10_000
    again = replace(first, context=context, key=run_key(context), attempts="reuse", start_time=later)
    backend = world.backend()
    assert create(again, backend).ref.run_id == world.run_id
    if status == "FINISHED":
        backend.store.update_run(world.run_id, status=status, end_time=later + 1_000)
    before = world.run()

    world.deliver(backend)
    # Whoever has created the run, and heard no answer, may look for it as late.
    assert create(first, backend, again=True).ref.run_id == world.run_id
    close(first.parent.context, "FAILED", settings, backend, ended_at=ENDED)
    after = world.run()
    assert (after.status, after.end_time, after.tags) == (before.status, before.end_time, before.tags)
    parent = backend.store.get_run(after.tags[PARENT_TAG])
    assert parent.status == ("RUNNING" if status == "RUNNING" else "FAILED")
    assert close(first.parent.context, "FINISHED", settings, backend, ended_at=later + 2_000)
    assert world.run().status == ("KILLED" if status == "RUNNING" else "FINISHED")


@pytest.mark.parametrize("delivered", ["before", "after"])
def test_an_end_that_was_announced_of_an_earlier_try_is_not_the_later_ones(settings: Settings, delivered: str) -> None:
    """It was killed in the callbacks of its end, say, or its journal comes late; ``attempts = "reuse"``."""
    settings = msgspec.structs.replace(settings, attempts="reuse")
    world = World(settings, None)
    assert settings.journal
    shutil.rmtree(settings.journal)
    told = Log(world.run_id, tags=RealEnd("FAILED", ENDED).tags())
    first = world.opening
    assert first.context.task_run
    world.append(Named(provisional_id(first.key), world.run_id, world.run().experiment_id), told)
    backend = world.backend()
    if delivered == "before":
        backend.store.log_batch(world.run_id, tags=told.tags)
    context = replace(first.context, task_run=replace(first.context.task_run, try_number=2))
    again = replace(first, context=context, key=run_key(context), attempts="reuse", start_time=ENDED + 60_000)
    assert create(again, backend).ref.run_id == world.run_id
    if delivered == "after":
        world.deliver(backend)
    assert world.run().status == "RUNNING"
    assert end_instead(backend.store, world.run_id, "KILLED", ENDED + 90_000, {OUTCOME_TAG: DIED})
    run = world.run()
    assert (run.status, run.end_time, run.tags[OUTCOME_TAG]) == ("KILLED", ENDED + 90_000, DIED)
