"""Experiments that are made, chosen or asked for inside a stage while the tracking server is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from harness.forgiving import delivered, soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.pipeline import Pipeline
    from harness.proxy import RecordingProxy


def test_names_that_no_experiment_can_have_are_refused_while_the_server_is_away(
    away: tuple[Pipeline, RecordingProxy],
) -> None:
    pipeline, proxy = away
    calls: list[Callable[[], object]] = [
        lambda: mlflow.set_experiment(""),
        lambda: mlflow.set_experiment("n" * 501),
        lambda: mlflow.set_experiment(7),  # type: ignore[arg-type]
        lambda: mlflow.create_experiment(""),
        lambda: mlflow.create_experiment("n" * 501),
        lambda: mlflow.create_experiment(7),  # type: ignore[arg-type]
    ]

    def refused(call: Callable[[], object]) -> tuple[str, str]:
        with pytest.raises((MlflowException, TypeError)) as raised:
            call()
        return raised.typename, str(raised.value)

    with pipeline.stage(), soon():
        expected = [refused(call) for call in calls]
        with proxy.refused():
            assert [refused(call) for call in calls] == expected


def test_a_new_experiment_is_chosen_by_name_while_the_server_is_away(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    name = f"chosen-{pipeline.workflow}"
    with pipeline.stage() as stage, proxy.refused(), soon():
        experiment = mlflow.set_experiment(name)
        assert experiment.name == name
        with mlflow.start_run(run_name="daily"):
            mlflow.log_metric("auc", 0.9)
        with mlflow.start_run(run_name="again"):
            mlflow.log_metric("auc", 0.8)

    delivered(stage)
    found = pipeline.client.get_experiment_by_name(name)
    assert found is not None
    below = pipeline.below(stage.run_id)
    assert [(run.info.run_name, run.info.experiment_id) for run in below] == [
        ("daily", found.experiment_id),
        ("again", found.experiment_id),
    ]
    assert pipeline.run(stage.run_id).data.metrics == {}


def test_an_experiment_that_was_made_while_the_server_was_away_is_there_in_the_end_without_runs(
    away: tuple[Pipeline, RecordingProxy],
) -> None:
    pipeline, proxy = away
    made, chosen, asked, deleted = (f"{word}-{pipeline.workflow}" for word in ("made", "chosen", "asked", "deleted"))
    with pipeline.stage() as stage, proxy.refused(), soon():
        mlflow.create_experiment(made)
        mlflow.create_experiment(deleted)
        mlflow.set_experiment(chosen)
        mlflow.get_experiment_by_name(asked)
        pipeline.client.delete_experiment(pipeline.client.create_experiment(deleted))  # past the proxy

    delivered(stage)
    found = {name: pipeline.client.get_experiment_by_name(name) for name in (made, chosen, asked, deleted)}
    assert {name: one and one.lifecycle_stage for name, one in found.items()} == {
        made: "active",
        chosen: "active",
        asked: None,
        deleted: "deleted",
    }
    assert pipeline.below(stage.run_id) == []


def test_an_experiment_that_was_chosen_by_name_can_be_used_when_the_server_is_back(
    away: tuple[Pipeline, RecordingProxy],
) -> None:
    pipeline, proxy = away
    name = f"chosen-{pipeline.workflow}"
    with pipeline.stage() as stage:
        with proxy.refused():
            chosen = mlflow.set_experiment(name)
            with mlflow.start_run(run_name="away"):
                mlflow.log_metric("auc", 0.9)
        delivered(stage)
        with mlflow.start_run(run_name="back") as back:
            mlflow.log_metric("auc", 0.8)
        with mlflow.start_run(run_id=back.info.run_id):
            mlflow.log_metric("auc", 0.7)
        found = mlflow.search_runs([chosen.experiment_id], output_format="list")
        assert {run.info.run_name for run in found} == {"away", "back"}

    below = pipeline.below(stage.run_id)
    assert len({run.info.experiment_id for run in below}) == 1
    assert [run.info.run_name for run in below] == ["away", "back"]


def test_the_stages_own_experiment_is_known_without_the_server(away: tuple[Pipeline, RecordingProxy]) -> None:
    pipeline, proxy = away
    with pipeline.stage() as stage, proxy.refused(), soon():
        mlflow.set_experiment(pipeline.workflow)
        with mlflow.start_run(run_name="the stage's") as run:
            mlflow.log_param("lr", 0.1)
        assert run.info.run_id == stage.run_id
        with mlflow.start_run(run_name="below"):
            mlflow.log_param("lr", 0.2)

    delivered(stage)
    assert pipeline.run(stage.run_id).data.params == {"lr": "0.1"}
    (below,) = pipeline.below(stage.run_id)
    assert (below.info.experiment_id, below.data.params) == (stage.experiment_id, {"lr": "0.2"})
