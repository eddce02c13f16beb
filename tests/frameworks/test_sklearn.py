"""scikit-learn: autologging, its flavour, a search over parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.situation import Situation

numpy: Any = pytest.importorskip("numpy")
linear_model: Any = pytest.importorskip("sklearn.linear_model")
model_selection: Any = pytest.importorskip("sklearn.model_selection")

DATA = numpy.array([[number, number % 3] for number in range(60)], dtype=float), numpy.arange(60) % 2


def test_autologging(situation: Situation) -> None:
    import mlflow

    with situation.stage():
        mlflow.sklearn.autolog(log_datasets=True, silent=True)
        situation.strike()
        linear_model.LogisticRegression(C=0.5).fit(*DATA)

    run = situation.run
    assert run.info.status == "FINISHED"
    assert run.data.params["C"] == "0.5"
    assert "training_accuracy_score" in run.data.metrics
    assert "training_confusion_matrix.png" in situation.artifacts()
    assert run.inputs is not None
    assert len(run.inputs.dataset_inputs) == 1
    (model,) = situation.models()
    assert (str(model.status), model.source_run_id) == ("READY", run.info.run_id)
    assert model.params is not None
    assert model.params["C"] == "0.5"
    assert "training_accuracy_score" in {metric.key for metric in model.metrics or ()}
    by_id, by_run = situation.load(mlflow.sklearn, model.model_uri, f"runs:/{run.info.run_id}/model")
    assert by_id.C == by_run.C == 0.5


def test_the_flavour(situation: Situation) -> None:
    import mlflow

    with situation.stage(), mlflow.start_run():
        mlflow.log_param("C", 2.0)
        estimator = linear_model.LogisticRegression(C=2.0).fit(*DATA)
        mlflow.log_metric("accuracy", 0.75)
        situation.strike()
        told = mlflow.sklearn.log_model(
            estimator, name="classifier", input_example=DATA[0][:2], registered_model_name=situation.workflow
        )
        mlflow.log_metric("later", 1.0, model_id=told.model_id)
        assert mlflow.sklearn.load_model(told.model_uri).C == 2.0  # as long as the copies are here, it can be read

    (model,) = situation.models()
    assert (model.name, str(model.status), model.params) == ("classifier", "READY", {"C": "2.0"})
    assert {metric.key for metric in model.metrics or ()} == {"accuracy", "later"}
    version = situation.client.get_model_version(situation.workflow, "1")
    assert (version.source, version.run_id) == (model.model_uri, situation.run_id)
    assert len(situation.client.search_model_versions(f"name = '{situation.workflow}'")) == 1
    places = [model.model_uri, f"runs:/{situation.run_id}/classifier", f"models:/{situation.workflow}/1"]
    assert [loaded.C for loaded in situation.load(mlflow.sklearn, *places)] == [2.0, 2.0, 2.0]
    described = mlflow.models.get_model_info(model.model_uri)
    assert (described.model_id, described.run_id) == (model.model_id, situation.run_id)


def test_a_search_over_parameters(situation: Situation) -> None:
    import mlflow

    with situation.stage():
        mlflow.sklearn.autolog(silent=True)
        situation.strike()
        model_selection.GridSearchCV(linear_model.LogisticRegression(), {"C": [0.1, 1.0]}, cv=2, n_jobs=1).fit(*DATA)

    assert "best_C" in situation.run.data.params
    candidates = situation.below()
    assert {candidate.data.params["C"] for candidate in candidates} == {"0.1", "1.0"}
    assert {candidate.info.status for candidate in candidates} == {"FINISHED"}
    names = {model.name for model in situation.models()}
    assert names == {"model", "best_estimator"}
