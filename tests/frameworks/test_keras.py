"""Keras: autologging and its flavour."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.situation import Situation

os.environ.setdefault("KERAS_BACKEND", "torch")
numpy: Any = pytest.importorskip("numpy")
keras: Any = pytest.importorskip("keras")

DATA = numpy.ones((32, 2)), numpy.ones((32, 1))
EPOCHS = 3


def network() -> Any:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    return model


def test_autologging(situation: Situation) -> None:
    import mlflow

    with situation.stage():
        mlflow.keras.autolog(silent=True)
        situation.strike()
        network().fit(*DATA, epochs=EPOCHS, batch_size=8, verbose=0)

    history = situation.client.get_metric_history(situation.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(EPOCHS))
    assert situation.run.data.params["batch_size"] == "8"
    (model,) = situation.models()
    assert str(model.status) == "READY"
    (loaded,) = situation.load(mlflow.keras, model.model_uri)
    assert loaded.predict(DATA[0], verbose=0).shape == (32, 1)


def test_the_flavour(situation: Situation) -> None:
    import mlflow

    trained = network()
    with situation.stage():
        mlflow.log_metric("before", 1.0)
        situation.strike()
        told = mlflow.keras.log_model(trained, name="network")
        assert mlflow.keras.load_model(told.model_uri).count_params() == trained.count_params()

    (model,) = situation.models()
    (loaded,) = situation.load(mlflow.keras, model.model_uri)
    assert loaded.count_params() == trained.count_params()
