"""More than a request of MLflow's may hold, in one call and in many: all of it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlflow
import pytest

import tracklayer
from harness.pipeline import PLUGINS, Pipeline
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from harness.mlflow import MlflowServer

PAIRS = {f"k{number:03}": str(number) for number in range(250)}
"""More params, and more tags, than the 100 that MLflow takes at once, and than twice that."""

VALUES = {f"m{number:04}": float(number) for number in range(1_250)}
"""More metrics than the 1,000 that MLflow takes at once."""


def in_one_call(run: tracklayer.StageRun) -> None:
    run.log_params(PAIRS)
    run.set_tags(PAIRS)
    run.log_metrics(VALUES)


def in_many_calls(run: tracklayer.StageRun) -> None:
    for key, value in PAIRS.items():
        run.log_param(key, value)
        run.set_tag(key, value)
    for key, number in VALUES.items():
        run.log_metric(key, number)


def in_one_call_of_mlflow(_: tracklayer.StageRun) -> None:
    mlflow.log_params(PAIRS)
    mlflow.set_tags(PAIRS)
    mlflow.log_metrics(VALUES)


def in_many_calls_of_mlflow(_: tracklayer.StageRun) -> None:
    for key, value in PAIRS.items():
        mlflow.log_param(key, value)
        mlflow.set_tag(key, value)
    for key, number in VALUES.items():
        mlflow.log_metric(key, number)


def from_the_start(_: tracklayer.StageRun) -> None:
    """Nothing is logged in the block."""


@pytest.fixture
def pipeline(mlflow_server: MlflowServer, fresh_mlflow: None) -> Pipeline:
    return Pipeline(mlflow_server.uri)


def stage(pipeline: Pipeline, **given: Any) -> AbstractContextManager[tracklayer.StageRun]:
    """A stage that waits for a busy server."""
    settings = Settings(tracking_uri=pipeline.uri, patience=30, timeout=60, disabled_plugins=PLUGINS)
    return tracklayer.track("training", context=pipeline.context("training"), settings=settings, **given)


@pytest.mark.parametrize(
    "log", [in_one_call, in_many_calls, in_one_call_of_mlflow, in_many_calls_of_mlflow, from_the_start]
)
def test_all_of_it_is_there(pipeline: Pipeline, log: Callable[[tracklayer.StageRun], None]) -> None:
    given = {"params": PAIRS, "tags": PAIRS} if log is from_the_start else {}
    with stage(pipeline, **given) as run:
        log(run)
    found = pipeline.run(run.run_id)
    assert found.data.params == PAIRS
    assert {key: value for key, value in found.data.tags.items() if key in PAIRS} == PAIRS
    assert found.data.metrics == ({} if log is from_the_start else VALUES)
    assert "tracklayer.refused" not in found.data.tags
