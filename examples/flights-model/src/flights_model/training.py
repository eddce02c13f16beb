"""Fit the model, and log it into the active MLflow run with MLflow's own calls."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import mlflow
from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from flights_model.dataset import read_dataset
from flights_model.preparation import CATEGORIES, FEATURES, TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

MODEL_NAME: Final = "flights-late"
"""The name of the MLflow logged model."""

# MLflow stores scikit-learn models with skops, which loads only types that it knows; these are the boosting's own.
_TRUSTED_TYPES = [
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
]
# Named, as finding them out would load the model in another process, which takes longer than the training.
_NEEDED_TO_LOAD = ("mlflow", "pandas", "scikit-learn", "skops")
_UNKNOWN_CATEGORY = -1
_EXAMPLE_ROWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Hyperparameters, named as scikit-learn names them.

    Attributes:
        learning_rate: shrinkage of each tree.
        max_iter: the number of trees, unless the validation loss stops to improve before.
        max_leaf_nodes: leaves of one tree.
        min_samples_leaf: flights that a leaf holds at least; the fewest flights one may train with are twice that.
        l2_regularization: penalty on the values of the leaves.
        validation_fraction: share of the training set that is held out for the validation loss, 0 to 1.
        seed: the same seed and data make the same model.
    """

    learning_rate: float = 0.1
    max_iter: int = 100
    max_leaf_nodes: int = 15
    min_samples_leaf: int = 200
    l2_regularization: float = 1.0
    validation_fraction: float = 0.1
    seed: int = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted model and how the fitting went.

    Attributes:
        model: takes a table with the columns of `FEATURES`.
        train_loss: log loss on the training set before the first and after each iteration.
        validation_loss: the same on the flights that were held out.
    """

    model: Pipeline
    train_loss: Sequence[float]
    validation_loss: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What the training made: plain data, ready for JSON (`dataclasses.asdict`).

    Attributes:
        run_id: the MLflow run that it was logged to.
        model_id: id of the MLflow logged model (``m-…``).
        model_uri: where to load it from (``models:/m-…``).
        iterations: number of trees.
        metrics: the last losses.
    """

    run_id: str
    model_id: str
    model_uri: str
    iterations: int
    metrics: dict[str, float]


def train(train_path: str | Path, settings: TrainingSettings | None = None) -> Trained:
    """Fit the model on the table at `train_path` and log it into the active MLflow run.

    Logged are the settings as params, both losses for each iteration, the last of them, and the model with its
    signature. Without an active run MLflow starts one, as it always does.

    Args:
        train_path: the Parquet file that `flights_model.preparation.prepare` wrote.
        settings: None means the defaults.
    """
    chosen = settings or TrainingSettings()
    frame = read_dataset(train_path)
    mlflow.log_params({**asdict(chosen), "train_rows": len(frame)})
    fitted = fit(frame, chosen)
    for step, (train_loss, validation_loss) in enumerate(zip(fitted.train_loss, fitted.validation_loss, strict=True)):
        mlflow.log_metrics({"train_loss": train_loss, "validation_loss": validation_loss}, step=step)
    metrics = {"train_loss": fitted.train_loss[-1], "validation_loss": fitted.validation_loss[-1]}
    features = frame[list(FEATURES)].head(_EXAMPLE_ROWS)
    info = mlflow.sklearn.log_model(
        fitted.model,
        name=MODEL_NAME,
        signature=infer_signature(features, fitted.model.predict_proba(features)),
        pyfunc_predict_fn="predict_proba",
        skops_trusted_types=_TRUSTED_TYPES,
        pip_requirements=[f"{name}=={version(name)}" for name in _NEEDED_TO_LOAD],
    )
    return Trained(
        run_id=info.run_id,
        model_id=info.model_id,
        model_uri=info.model_uri,
        iterations=len(fitted.train_loss) - 1,
        metrics=metrics,
    )


def fit(frame: pd.DataFrame, settings: TrainingSettings) -> Fit:
    """Fit the model on `frame`, which holds the columns of `FEATURES` and `TARGET`; log nothing.

    It takes one thread: tasks share their machine with others, and OpenMP's threads wait for each other busily (on
    two busy cores two threads took five times as long as one).
    """
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=_UNKNOWN_CATEGORY)
    boosting = HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        max_leaf_nodes=settings.max_leaf_nodes,
        min_samples_leaf=settings.min_samples_leaf,
        l2_regularization=settings.l2_regularization,
        categorical_features=list(range(len(CATEGORIES))),  # the encoder puts them first
        early_stopping=True,
        scoring="loss",
        validation_fraction=settings.validation_fraction,
        n_iter_no_change=20,
        random_state=settings.seed,
    )
    categories_first = make_column_transformer((encoder, list(CATEGORIES)), remainder="passthrough")
    model = Pipeline([("columns", categories_first), ("boosting", boosting)])
    with threadpool_limits(1):
        model.fit(frame[list(FEATURES)], frame[TARGET])
    # scikit-learn's scores are "higher is better": negative losses.
    return Fit(
        model=model,
        train_loss=[-float(score) for score in boosting.train_score_],
        validation_loss=[-float(score) for score in boosting.validation_score_],
    )
