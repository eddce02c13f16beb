"""The conformance kit's workflow as a Prefect flow; run as a script with the kit's folder as its argument."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tracklayer.testing import step
from tracklayer_prefect import tracked_flow, tracked_task


@tracked_task(stage="data-prep")
@task
def prepare(folder: str) -> str:
    return step("prepare", folder)


@tracked_task(stage="training")
@task(retries=1)
def train(folder: str, prepared: str) -> str:
    return step("train", folder)


@tracked_task(stage="evaluation")
@task
def score(folder: str, item: str) -> str:
    return step("score", folder, item)


@tracked_task
@task
def broken(folder: str) -> str:
    return step("broken", folder)


@tracked_flow
@flow
def conformance(folder: str) -> None:
    train(folder, prepare(folder))
    score.map(folder, ["a", "b"]).wait()
    broken(folder)


if __name__ == "__main__":
    settings: dict[Any, Any] = {PREFECT_LOGGING_TO_API_ENABLED: False, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with (
        temporary_settings(settings),
        prefect_test_harness(server_startup_timeout=180),
        contextlib.suppress(ValueError),
    ):
        conformance(str(Path(sys.argv[1])))
