"""Optuna: its callback for MLflow, and trials that log by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.situation import Situation

optuna: Any = pytest.importorskip("optuna")

TRIALS = 6


def test_the_callback(situation: Situation) -> None:
    integration: Any = pytest.importorskip("optuna_integration.mlflow")
    callback = integration.MLflowCallback(
        tracking_uri=situation.uri, metric_name="error", create_experiment=False, mlflow_kwargs={"nested": True}
    )

    def objective(trial: Any) -> Any:
        if trial.number == TRIALS // 2:
            situation.strike()
        return trial.suggest_float("x", -1, 1) ** 2

    with situation.stage():
        study = optuna.create_study(study_name="tuning")
        study.optimize(objective, n_trials=TRIALS, callbacks=[callback])

    runs = situation.below()
    assert len(runs) == TRIALS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {float(run.data.params["x"]) for run in runs} == {trial.params["x"] for trial in study.trials}
    assert {run.data.metrics["error"] for run in runs} == {trial.value for trial in study.trials}


def test_its_decorator_with_trials_that_log_by_themselves(situation: Situation) -> None:
    import mlflow

    integration: Any = pytest.importorskip("optuna_integration.mlflow")
    callback = integration.MLflowCallback(
        tracking_uri=situation.uri, create_experiment=False, mlflow_kwargs={"nested": True}
    )

    def objective(trial: Any) -> Any:
        if trial.number == TRIALS // 2:
            situation.strike()
        mlflow.log_param("power", 2)
        for step in range(3):
            mlflow.log_metric("progress", step, step=step)
        return trial.suggest_float("x", -1, 1) ** 2

    with situation.stage():
        study = optuna.create_study(study_name="tuning")
        study.optimize(callback.track_in_mlflow()(objective), n_trials=TRIALS, callbacks=[callback])

    runs = situation.below()
    assert len(runs) == TRIALS
    assert {run.data.params["power"] for run in runs} == {"2"}
    assert all(len(situation.client.get_metric_history(run.info.run_id, "progress")) == 3 for run in runs)
