"""XGBoost: autologging of its own training loop and of its scikit-learn classes, its flavour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.situation import Situation

numpy: Any = pytest.importorskip("numpy")
xgboost: Any = pytest.importorskip("xgboost")

DATA = numpy.array([[number, number % 3] for number in range(60)], dtype=float), numpy.arange(60) % 2
ROUNDS = 5


def test_autologging_of_training(situation: Situation) -> None:
    import mlflow

    with situation.stage():
        mlflow.xgboost.autolog(silent=True)
        situation.strike()
        matrix = xgboost.DMatrix(*DATA)
        options = {"max_depth": 2, "objective": "binary:logistic"}
        xgboost.train(options, matrix, num_boost_round=ROUNDS, evals=[(matrix, "train")], verbose_eval=False)

    run = situation.run
    assert run.data.params["max_depth"] == "2"
    history = situation.client.get_metric_history(situation.run_id, "train-logloss")
    assert sorted(point.step for point in history) == list(range(ROUNDS))
    assert any("feature_importance" in path for path in situation.artifacts())
    (model,) = situation.models()
    assert str(model.status) == "READY"
    by_id, by_run = situation.load(mlflow.xgboost, model.model_uri, f"runs:/{situation.run_id}/model")
    assert by_id.num_boosted_rounds() == by_run.num_boosted_rounds() == ROUNDS


def test_autologging_of_its_estimators(situation: Situation) -> None:
    import mlflow

    with situation.stage():
        mlflow.xgboost.autolog(silent=True)
        situation.strike()
        xgboost.XGBClassifier(n_estimators=ROUNDS, max_depth=2).fit(*DATA)

    assert situation.run.data.params["max_depth"] == "2"
    (model,) = situation.models()
    assert str(model.status) == "READY"


def test_the_flavour(situation: Situation) -> None:
    import mlflow

    with situation.stage():
        booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(*DATA), num_boost_round=ROUNDS)
        situation.strike()
        told = mlflow.xgboost.log_model(booster, name="trees")
        assert mlflow.xgboost.load_model(told.model_uri).num_boosted_rounds() == ROUNDS

    (model,) = situation.models()
    (loaded,) = situation.load(mlflow.xgboost, model.model_uri)
    assert loaded.num_boosted_rounds() == ROUNDS
