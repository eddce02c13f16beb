"""Reads inside a stage see what was logged before, although nothing was sent yet: each of them has it sent first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, ViewType
from mlflow.exceptions import MlflowException

from harness.pipeline import Pipeline
from harness.process import wait_for
from tracklayer.journal.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable

    import tracklayer
    from harness.mlflow import MlflowServer


@dataclass
class Place:
    """Where a row logs and reads.

    Attributes:
        stage: the tracked stage.
        client: MLflow's.
        run: id of a run below the stage.
        model: id of a model that was made before the stage began, so that what is known of it is the server's.
        fresh: id of one that was made in it.
        apart: id of a run in an experiment of its own.
    """

    stage: tracklayer.StageRun
    client: MlflowClient
    run: str
    model: str
    fresh: str
    apart: str

    @property
    def store(self) -> Any:
        return self.client._tracking_client.store

    @property
    def experiments(self) -> list[str]:
        assert self.stage.experiment_id is not None
        return [self.stage.experiment_id]

    def points(self, found: Any) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in found]


def log_points(place: Place) -> None:
    for step in range(3):
        place.client.log_metric(place.run, "auc", 0.9 + step, step=step)


def log_for_model(place: Place) -> None:
    place.client.log_metric(place.run, "auc", 0.9, model_id=place.model)


def log_param(place: Place) -> None:
    place.client.log_param(place.run, "lr", 0.1)


def log_text(place: Place) -> None:
    place.stage.log_text("clear", "sky/today.txt")


POINTS = [(0, 0.9), (1, 1.9), (2, 2.9)]

READS: dict[str, tuple[Callable[[Place], object], Callable[[Place], object], object]] = {
    "get_run": (log_param, lambda place: place.client.get_run(place.run).data.params, {"lr": "0.1"}),
    "search_runs by a metric": (
        log_points,
        lambda place: [run.data.metrics for run in place.client.search_runs(place.experiments, "metrics.auc > 2.8")],
        [{"auc": 2.9}],
    ),
    "search_runs by a param": (
        log_param,
        lambda place: [run.data.params for run in place.client.search_runs(place.experiments, "params.lr = '0.1'")],
        [{"lr": "0.1"}],
    ),
    "search_runs by a tag": (
        lambda place: place.client.set_tag(place.run, "team", "risk"),
        lambda place: [
            run.data.tags["team"] for run in place.client.search_runs(place.experiments, "tags.team = 'risk'")
        ],
        ["risk"],
    ),
    "search_runs by its end": (
        lambda place: place.client.set_terminated(place.run, "FAILED"),
        lambda place: [
            run.info.run_id == place.run
            for run in place.client.search_runs(place.experiments, "attributes.status = 'FAILED'")
        ],
        [True],
    ),
    "get_metric_history": (
        log_points,
        lambda place: place.points(place.client.get_metric_history(place.run, "auc")),
        POINTS,
    ),
    "get_metric_history_bulk_interval": (
        log_points,
        lambda place: place.points(
            place.store.get_metric_history_bulk_interval([place.run], "auc", max_results=10, start_step=0, end_step=2)
        ),
        POINTS,
    ),
    "get_logged_model": (
        log_for_model,
        lambda place: [metric.value for metric in place.client.get_logged_model(place.model).metrics or ()],
        [0.9],
    ),
    "search_logged_models": (
        log_for_model,
        lambda place: [
            [metric.value for metric in model.metrics or ()]
            for model in place.client.search_logged_models(place.experiments, "metrics.auc > 0.8")
        ],
        [[0.9]],
    ),
    "search_logged_models by a tag": (
        lambda place: place.client.set_logged_model_tags(place.fresh, {"team": "risk"}),
        lambda place: [
            model.name for model in place.client.search_logged_models(place.experiments, "tags.team = 'risk'")
        ],
        ["fresh"],
    ),
    "list_artifacts": (
        log_text,
        lambda place: [file.path for file in mlflow.artifacts.list_artifacts(f"{_artifacts(place)}/sky")],
        ["sky/today.txt"],
    ),
    "download_artifacts": (
        log_text,
        lambda place: mlflow.artifacts.load_text(f"{_artifacts(place)}/sky/today.txt"),
        "clear",
    ),
    "flush_async_logging": (
        log_param,
        lambda place: _after(mlflow.flush_async_logging, lambda: _plain(place, place.run).data.params),
        {"lr": "0.1"},
    ),
    # These change something at the server itself, for which it has to have what came before.
    "delete_run": (
        log_param,
        lambda place: _after(lambda: place.client.delete_run(place.run), lambda: _plain(place, place.run).data.params),
        {"lr": "0.1"},
    ),
    "restore_run": (
        lambda place: _after(lambda: place.store._stock.delete_run(place.run), lambda: mlflow.log_param("lr", 0.1)),
        lambda place: _after(
            lambda: place.client.restore_run(place.run),
            lambda: _plain(place, place.stage.run_id or "").data.params,
        ),
        {"lr": "0.1"},
    ),
    "delete_experiment": (
        lambda place: place.client.log_param(place.apart, "lr", 0.1),
        lambda place: _after(lambda: _delete_experiment(place), lambda: _plain(place, place.apart).data.params),
        {"lr": "0.1", "depth": "3"},
    ),
    "link_traces_to_run": (
        log_param,
        lambda place: _after(
            lambda: place.store.link_traces_to_run(["tr-1"], place.run), lambda: _plain(place, place.run).data.params
        ),
        {"lr": "0.1"},
    ),
    "delete_tag of one that another process has set": (
        lambda place: mlflow.set_tag("team", "risk"),
        lambda place: _after(
            lambda: _untold_tag(place), lambda: _plain(place, place.stage.run_id or "").data.tags.get("team")
        ),
        "risk",
    ),
    "an end that MLflow alone has": (
        log_param,
        lambda place: _after(
            lambda: place.client.update_run(place.run, "SCHEDULED"), lambda: _plain(place, place.run).data.params
        ),
        {"lr": "0.1"},
    ),
    "set_logged_model_tags of a model from before": (
        log_for_model,
        lambda place: _after(
            lambda: place.client.set_logged_model_tags(place.model, {"team": "risk"}), lambda: _metrics_of_model(place)
        ),
        [0.9],
    ),
    "log_model_params of a model from before": (
        log_for_model,
        lambda place: _after(
            lambda: place.client.log_model_params(place.model, {"depth": "3"}), lambda: _metrics_of_model(place)
        ),
        [0.9],
    ),
    "delete_logged_model_tag": (
        log_for_model,
        lambda place: _after(
            lambda: place.client.delete_logged_model_tag(place.model, "old"), lambda: _metrics_of_model(place)
        ),
        [0.9],
    ),
    "finalize_logged_model of a model from before": (
        log_for_model,
        lambda place: _after(
            lambda: place.client.finalize_logged_model(place.model, LoggedModelStatus.READY),
            lambda: _metrics_of_model(place),
        ),
        [0.9],
    ),
    "delete_logged_model": (
        log_for_model,
        lambda place: _after(
            lambda: place.client.delete_logged_model(place.model), lambda: _plain(place, place.run).data.metrics
        ),
        {"auc": 0.9},
    ),
}
"""What is logged, what is asked for at once, and the answer."""


def _after(change: Callable[[], object], look: Callable[[], object]) -> object:
    change()
    return look()


def _delete_experiment(place: Place) -> None:
    """Its runs are deleted with it, and restored with it."""
    experiment = place.client.get_run(place.apart).info.experiment_id
    place.client.rename_experiment(experiment, f"renamed-{place.apart}")
    place.client.delete_experiment(experiment)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        place.client.log_param(place.apart, "depth", 3)
    place.client.restore_experiment(experiment)
    place.client.log_param(place.apart, "depth", 3)
    assert place.client.get_run(place.apart).data.params == {"lr": "0.1", "depth": "3"}
    place.client.delete_experiment(experiment)


def _untold_tag(place: Place) -> None:
    with pytest.raises(MlflowException, match="No tag with name"):
        place.client.delete_tag(place.stage.run_id or "", "of-another-process")


def _plain(place: Place, run: str) -> Any:
    """The run as the server has it now, whatever is still to be sent."""
    return place.store._stock.get_run(run)


def _artifacts(place: Place) -> str:
    return str(_plain(place, place.stage.run_id or "").info.artifact_uri)


def _metrics_of_model(place: Place) -> list[float]:
    return [metric.value for metric in place.store._stock.get_logged_model(place.model).metrics or ()]


@pytest.mark.parametrize("name", READS)
@pytest.mark.usefixtures("fresh_mlflow")
def test_what_was_just_logged_is_read(mlflow_server: MlflowServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(mlflow_server.uri)
    log, read, expected = READS[name]
    experiment = pipeline.client.create_experiment(pipeline.workflow)
    model = pipeline.client.create_logged_model(experiment, name="before", tags={"old": "1"})
    with pipeline.stage() as stage:
        client = MlflowClient(pipeline.uri)
        run = client.create_run(experiment).info.run_id
        fresh = client.create_logged_model(experiment, name="fresh").model_id
        apart = client.create_run(client.create_experiment(f"{pipeline.workflow}-apart")).info.run_id
        assert stage.flush()
        assert stage.recorder is not None
        sender = stage.recorder._sender
        wait_for(lambda: sender._idle and not sender._hurry, 30, "rest, so that nothing is read by what is under way")
        place = Place(stage, client, run, model.model_id, fresh, apart)
        with monkeypatch.context() as patched:
            patched.setattr(Sender, "appended", lambda self, operation: None)  # nothing is sent before it is asked for
            log(place)
            assert read(place) == expected
    kept = client.search_runs([experiment], run_view_type=ViewType.ALL)
    assert not [told for told in kept if "tracklayer.refused" in told.data.tags]
