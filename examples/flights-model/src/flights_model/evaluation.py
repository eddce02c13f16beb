"""Score a trained model on flights that it has not seen, against a baseline, and log it into the active MLflow run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import mlflow
import numpy as np
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from flights_model.dataset import read_dataset
from flights_model.figures import calibration_figure, confusion_figure, roc_figure
from flights_model.preparation import FEATURES, TARGET

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import pandas as pd
    from sklearn.pipeline import Pipeline

PLOTS: Final = ("plots/roc.png", "plots/calibration.png", "plots/confusion_matrix.png")
"""Artifact paths of the plots."""

_NEVER_CERTAIN = 1e-3
"""The baseline's probabilities keep this distance from 0 and 1, as the log loss of a wrong certainty is infinite."""
_THRESHOLD = 0.5
_MINUTES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the evaluation found: plain data, ready for JSON (`dataclasses.asdict`).

    Attributes:
        model_uri: the model that was scored.
        rows: flights that it was scored on.
        metrics: ``roc_auc``, ``log_loss``, ``brier`` and ``accuracy`` of the model, the same of the baseline
            (``baseline_roc_auc``, …), and how much better the model's are (``roc_auc_gain``, …; positive is better).
        plots: artifact paths of the plots.
    """

    model_uri: str
    rows: int
    metrics: dict[str, float]
    plots: tuple[str, ...]

    @property
    def better_than_baseline(self) -> bool:
        """Does the model rank flights better, and is its log loss lower?"""
        return self.metrics["roc_auc_gain"] > 0 and self.metrics["log_loss_gain"] > 0


def evaluate(model_uri: str, test_path: str | Path, train_path: str | Path) -> Evaluation:
    """Score the model on the table at `test_path` and log metrics and plots into the active MLflow run.

    The metrics are attached to the logged model, too, where MLflow shows them beside those of its training.

    Args:
        model_uri: the model, as `flights_model.training.train` returned it.
        test_path: the Parquet file to score on.
        train_path: the Parquet file of the training set, from which the baseline is made.
    """
    train, test = read_dataset(train_path), read_dataset(test_path)
    model = mlflow.sklearn.load_model(model_uri)
    late = test[TARGET].to_numpy()
    predicted, expected = predict(model, test), baseline(train, test)
    metrics = compare(late, predicted, expected)
    mlflow.log_params({"model_uri": model_uri, "test_rows": len(test), "baseline": "share by carrier and hour"})
    mlflow.log_metrics(metrics, model_id=mlflow.models.get_model_info(model_uri).model_id)
    figures = (
        roc_figure(late, {"model": predicted, "baseline": expected}),
        calibration_figure(late, {"model": predicted, "baseline": expected}),
        confusion_figure(late, predicted >= _THRESHOLD),
    )
    for figure, path in zip(figures, PLOTS, strict=True):
        mlflow.log_figure(figure, path)
    return Evaluation(model_uri=model_uri, rows=len(test), metrics=metrics, plots=PLOTS)


def predict(model: Pipeline, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The model's probability of being late for each flight."""
    with threadpool_limits(1):  # as in training
        probabilities: npt.NDArray[np.float64] = model.predict_proba(frame[list(FEATURES)])[:, 1]
    return probabilities


def baseline(train: pd.DataFrame, test: pd.DataFrame) -> npt.NDArray[np.float64]:
    """What anyone could say without a model: the share of late flights of this carrier in this hour of the day.

    Where the training set has no such flight it is the share of all flights.
    """
    keys = ["carrier", "hour"]
    shares = train.assign(hour=train["departure"] // _MINUTES).groupby(keys)[TARGET].mean().rename("share")
    found = test.assign(hour=test["departure"] // _MINUTES).merge(shares.reset_index(), on=keys, how="left")["share"]
    probabilities: npt.NDArray[np.float64] = found.fillna(train[TARGET].mean()).to_numpy()
    return probabilities


def compare(
    late: npt.NDArray[np.int64], predicted: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]
) -> dict[str, float]:
    """The metrics of `Evaluation`, from what happened, what the model and what the baseline said."""
    model, base = _score(late, predicted), _score(late, expected)
    gains = {f"{name}_gain": (model[name] - base[name]) * (1 if name in _HIGHER_IS_BETTER else -1) for name in model}
    return {**model, **{f"baseline_{name}": value for name, value in base.items()}, **gains}


_HIGHER_IS_BETTER = frozenset({"roc_auc", "accuracy"})


def _score(late: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]) -> dict[str, float]:
    clipped = np.clip(probability, _NEVER_CERTAIN, 1 - _NEVER_CERTAIN)
    return {
        "roc_auc": float(roc_auc_score(late, probability)),
        "log_loss": float(log_loss(late, clipped)),
        "brier": float(brier_score_loss(late, probability)),
        "accuracy": float(accuracy_score(late, probability >= _THRESHOLD)),
    }
