"""MLflow's semantics hold inside a stage: each call ends as it does untracked, and leaves the same data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

from harness.mlflow_calls import CALLS, NOW, SERVER_ONLY, told, two, waited

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.pipeline import Pipeline


@pytest.mark.parametrize("name", CALLS)
def test_a_call_in_a_stage_ends_as_it_does_untracked(pipeline: Pipeline, name: str) -> None:
    if name in SERVER_ONLY and not pipeline.uri.startswith("http"):
        return
    experiment = pipeline.client.create_experiment(f"untracked-{pipeline.workflow}")
    plain = MlflowClient(pipeline.uri)
    untracked = told(plain, plain.create_run(experiment, run_name="a run").info.run_id, CALLS[name])

    with pipeline.stage() as stage:
        client = MlflowClient(pipeline.uri)
        run_id = client.create_run(stage.experiment_id or "", run_name="a run").info.run_id
        tracked = told(client, run_id, CALLS[name])

    assert tracked == untracked
    assert not [run for run in pipeline.all_runs() if "tracklayer.refused" in run.data.tags]


FLUENT: dict[str, Callable[[], object]] = {
    "log_param": lambda: mlflow.log_param("lr", 0.1),
    "log_param changed": lambda: two(lambda: mlflow.log_param("lr", 0.1), lambda: mlflow.log_param("lr", 0.2)),
    "log_params": lambda: mlflow.log_params({"a": 1, "b": [1, 2]}),
    "log_params of 150": lambda: mlflow.log_params({f"p{number}": number for number in range(150)}),
    "log_params with a bad one": lambda: mlflow.log_params({"a": 1, "b//": 2}),
    "log_metric": lambda: mlflow.log_metric("auc", 0.9, step=2, timestamp=NOW),
    "log_metric of a word": lambda: mlflow.log_metric("auc", "high", timestamp=NOW),  # type: ignore[arg-type]
    "log_metrics": lambda: mlflow.log_metrics({"auc": 0.9, "loss": 0.1}, step=2, timestamp=NOW),
    "set_tags": lambda: mlflow.set_tags({"team": "risk", "n": 1}),
    "delete_tag": lambda: mlflow.delete_tag("team"),
    "start_run while one is active": mlflow.start_run,
    "log_params asynchronously": lambda: waited(mlflow.log_params({"a": 1}, synchronous=False)),
    "log_metrics asynchronously": lambda: two(
        lambda: mlflow.log_metrics({"auc": 0.9}, step=2, timestamp=NOW, synchronous=False), mlflow.flush_async_logging
    ),
    "end_run as failed": lambda: mlflow.end_run("FAILED"),
}


@pytest.mark.parametrize("name", FLUENT)
def test_a_fluent_call_in_a_stage_ends_as_it_does_untracked(pipeline: Pipeline, name: str) -> None:
    def made(client: MlflowClient, run_id: str) -> None:
        with mlflow.start_run(run_id=run_id):
            FLUENT[name]()
            mlflow.MlflowClient().set_terminated(run_id, "FINISHED", NOW)

    mlflow.set_tracking_uri(pipeline.uri)
    experiment = pipeline.client.create_experiment(f"untracked-{pipeline.workflow}")
    plain = MlflowClient(pipeline.uri)
    untracked = told(plain, plain.create_run(experiment, run_name="a run").info.run_id, made)

    with pipeline.stage() as stage:
        client = MlflowClient(pipeline.uri)
        run_id = client.create_run(stage.experiment_id or "", run_name="a run").info.run_id
        tracked = told(client, run_id, made)

    assert tracked == untracked


def test_a_run_from_before_is_known_with_what_it_has(pipeline: Pipeline) -> None:
    experiment = pipeline.client.create_experiment(f"before-{pipeline.workflow}")
    before = pipeline.client.create_run(experiment)
    pipeline.client.log_param(before.info.run_id, "lr", 0.1)
    pipeline.client.set_tag(before.info.run_id, "team", "risk")

    with pipeline.stage(), mlflow.start_run(run_id=before.info.run_id):
        mlflow.log_param("lr", 0.1)
        with pytest.raises(MlflowException, match="Changing param values is not allowed") as refused:
            mlflow.log_param("lr", 0.2)
        mlflow.delete_tag("team")

    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    told = pipeline.run(before.info.run_id)
    assert told.data.params == {"lr": "0.1"}
    assert "team" not in told.data.tags
    assert told.info.status == RunStatus.to_string(RunStatus.FINISHED)
