"""Ray Tune: its callback for MLflow, and trials in workers that log by themselves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.situation import Situation

ray: Any = pytest.importorskip("ray")
tune: Any = pytest.importorskip("ray.tune")

TRIALS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


def test_the_callback(situation: Situation, cluster: None, tmp_path: Path) -> None:
    integration: Any = pytest.importorskip("ray.air.integrations.mlflow")

    def objective(config: dict[str, Any]) -> None:
        for step in range(3):
            tune.report({"error": config["x"] ** 2 / (step + 1)})

    with situation.stage():
        situation.strike()
        callback = integration.MLflowLoggerCallback(
            tracking_uri=situation.uri, experiment_name=situation.workflow, save_artifact=True
        )
        tune.Tuner(
            objective,
            param_space={"x": tune.grid_search([1, 2, 3])},
            run_config=tune.RunConfig(storage_path=str(tmp_path), callbacks=[callback], verbose=0),
        ).fit()

    runs = situation.below()
    assert len(runs) == TRIALS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["x"] for run in runs} == {"1", "2", "3"}
    assert all(len(situation.client.get_metric_history(run.info.run_id, "error")) == 3 for run in runs)
    assert all("params.json" in situation.artifacts(run.info.run_id) for run in runs)
