"""What `tracklayer.store.Store` promises of artifacts and of models, on every back end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.lookup import client
from tracklayer.exceptions import NotFound, Refused, StoreError
from tracklayer.store import Dataset, LoggedModel, Metric, Run, Store

if TYPE_CHECKING:
    from pathlib import Path


# Artifacts


def test_artifacts(store: Store, run: Run) -> None:
    content = bytes(range(256)) * 4096
    for path in ("report.html", "plots/roc curve.png", "größe/100%.txt"):
        store.log_artifact(run, path, content)
        assert store.read_artifact(run, path) == content
    store.log_artifact(run, "report.html", b"")
    assert store.read_artifact(run, "report.html") == b""
    with pytest.raises(NotFound):
        store.read_artifact(run, "plots/none.png")


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../../x", "a//b", "a\\b", "file:x", "a\0b"])
def test_an_artifact_stays_with_its_run(store: Store, run: Run, path: str) -> None:
    with pytest.raises(Refused, match="artifact path"):
        store.log_artifact(run, path, b"x")
    with pytest.raises(Refused, match="artifact path"):
        store.read_artifact(run, path)


def test_an_artifact_folder_of_another_machine_is_not_made_here(store: Store, run: Run, tmp_path: Path) -> None:
    from dataclasses import replace

    away = replace(run, artifact_uri=str(tmp_path / "srv" / "of" / "elsewhere" / "mlruns" / "1" / "r" / "artifacts"))
    with pytest.raises(StoreError, match="--artifacts-destination"):
        store.log_artifact(away, "x.txt", b"x")
    assert list(tmp_path.iterdir()) == []


# Models


def test_the_run_behind_a_model(
    store: Store, run: Run, experiment: str, uri: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow's registry on a database looks for models there
    mlflow = client(uri)
    logged = mlflow.create_logged_model(experiment, source_run_id=run.run_id)
    mlflow.create_registered_model(name)
    mlflow.create_model_version(name, source=f"runs:/{run.run_id}/model", run_id=run.run_id)
    mlflow.create_model_version(name, source=f"models:/{logged.model_id}", model_id=logged.model_id)
    mlflow.set_registered_model_alias(name, "champion", "1")
    for model in (
        f"models:/{name}/1",
        f"models:/{name}/2",
        f"models:/{name}@champion",
        f"models:/{logged.model_id}",
        logged.model_id,
    ):
        assert store.model_run_id(model) == run.run_id, model
    orphan = mlflow.create_logged_model(experiment)
    for model in (
        f"models:/{name}/77",
        f"models:/{name}@nobody",
        f"models:/{name}-none/1",
        "models:/m-0123456789abcdef",
        orphan.model_id,
        f"models:/{name}/Production",
        "nonsense",
    ):
        with pytest.raises(NotFound):
            store.model_run_id(model)


@pytest.fixture
def model(store: Store, experiment: str, run: Run) -> LoggedModel:
    return store.create_logged_model(
        experiment, name="delays", run_id=run.run_id, tags={"a": "1"}, params={"lr": "0.1"}, model_type="sklearn"
    )


def test_a_logged_model_is_what_it_was_created_as_and_is_changed(
    store: Store, run: Run, experiment: str, model: LoggedModel
) -> None:
    assert store.get_logged_model(model.model_id) == model
    assert (model.name, model.experiment_id, model.run_id, model.status) == (
        "delays",
        experiment,
        run.run_id,
        "PENDING",
    )
    assert (model.tags["a"], model.params) == ("1", {"lr": "0.1"})
    for _ in range(2):
        store.change_logged_model(model.model_id, tags={"b": "2"}, params={"lr": "0.1", "depth": "3"}, status="READY")
    changed = store.get_logged_model(model.model_id)
    assert (changed.tags["a"], changed.tags["b"]) == ("1", "2")
    assert (changed.params, changed.status) == ({"lr": "0.1", "depth": "3"}, "READY")
    with pytest.raises(NotFound):
        store.get_logged_model("m-" + "0" * 32)


def test_a_logged_model_is_found_by_a_tag(store: Store, experiment: str, name: str) -> None:
    made = store.create_logged_model(experiment, name=None, run_id=None, tags={name: "1"}, params={}, model_type=None)
    for where in ([experiment], []):
        found = store.find_logged_model(where, name)
        assert found
        assert found.model_id == made.model_id
    assert store.find_logged_model([experiment], f"{name}-no") is None


def test_models_as_inputs_and_outputs_are_logged_again_without_harm(
    store: Store, run: Run, experiment: str, model: LoggedModel
) -> None:
    other = store.create_logged_model(experiment, name="b", run_id=None, tags={}, params={}, model_type=None)
    for _ in range(2):
        store.log_inputs(run.run_id, (), [model.model_id])
        store.log_outputs(run.run_id, [(model.model_id, 3)])
    store.log_outputs(run.run_id, [(model.model_id, 3), (other.model_id, 0)])
    assert sorted(store.get_run(run.run_id).outputs) == sorted([(model.model_id, 3), (other.model_id, 0)])


def test_a_metric_of_a_model_on_a_dataset(store: Store, run: Run, model: LoggedModel, uri: str) -> None:
    store.log_inputs(run.run_id, [Dataset(name="d", digest="1", source_type="uri", source="{}")])
    point = Metric(key="auc", value=0.9, timestamp=1, model_id=model.model_id, dataset_name="d", dataset_digest="1")
    store.log_batch(run.run_id, metrics=[point])
    (told,) = client(uri).get_logged_model(model.model_id).metrics
    assert (told.key, told.value, told.dataset_name) == ("auc", 0.9, "d")


def test_files_as_artifacts_of_runs_and_models(store: Store, run: Run, model: LoggedModel, tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(range(256)) * 400)
    for owner in (run, model):
        store.log_artifact(owner, "data/weights.bin", file)
    assert store.read_artifact(run, "data/weights.bin") == file.read_bytes()
