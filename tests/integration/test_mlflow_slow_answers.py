"""A server that does what it is asked, and says so late: what must not be done twice is asked for once."""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import TYPE_CHECKING, Any

import mlflow
import pytest

import tracklayer
from harness.pipeline import Pipeline
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.proxy import RecordingProxy

HELD = 4.0
"""Seconds by which an answer is late: more than the stage's time-out, and less than its requests may take."""


@dataclasses.dataclass
class Here:
    """What a call is made with.

    Attributes:
        client: MLflow's, in the stage.
        experiment: an experiment with the tag ``a``.
        name: that of none.
    """

    client: mlflow.MlflowClient
    experiment: str
    name: str

    def model(self) -> str:
        return str(self.client.create_logged_model(self.experiment, "m", tags={"a": "1"}).model_id)


def restored(here: Here) -> Callable[[], Any]:
    here.client.delete_experiment(here.experiment)
    return lambda: here.client.restore_experiment(here.experiment)


def untagged(here: Here) -> Callable[[], Any]:
    model = here.model()
    return lambda: here.client.delete_logged_model_tag(model, "a")


def deleted_model(here: Here) -> Callable[[], Any]:
    model = here.model()
    return lambda: here.client.delete_logged_model(model)


def run_elsewhere(here: Here) -> Callable[[], Any]:
    """A run that is none of the stage's: its code gives it a parent of its own."""
    parent = mlflow.MlflowClient(here.client.tracking_uri).create_run(here.experiment).info.run_id
    return lambda: here.client.create_run(here.experiment, tags={"mlflow.parentRunId": parent})


CALLS: dict[str, tuple[str, Callable[[Here], Callable[[], Any]]]] = {
    "create_experiment": ("experiments/create", lambda here: lambda: here.client.create_experiment(here.name)),
    "set_experiment": ("experiments/create", lambda here: lambda: mlflow.set_experiment(here.name)),
    "delete_experiment": (
        "experiments/delete",
        lambda here: lambda: here.client.delete_experiment(here.experiment),
    ),
    "restore_experiment": ("experiments/restore", restored),
    "delete_experiment_tag": (
        "experiments/delete-experiment-tag",
        lambda here: lambda: here.client._tracking_client.store.delete_experiment_tag(here.experiment, "a"),
    ),
    "create_run": ("runs/create", run_elsewhere),
    "delete_logged_model": ("logged-models/", deleted_model),
    "delete_logged_model_tag": ("logged-models/", untagged),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_answered_late_is_made_once(proxy: RecordingProxy, fresh_mlflow: None, name: str) -> None:
    pipeline = Pipeline(proxy.uri)
    path, prepare = CALLS[name]
    settings = Settings(tracking_uri=proxy.uri, timeout=1.5, patience=20.0, on_error="raise")
    label = f"late-{uuid.uuid4().hex[:8]}"
    mlflow.set_tracking_uri(proxy.uri)
    experiment = pipeline.client.create_experiment(label, tags={"a": "1"})
    here = Here(mlflow.MlflowClient(proxy.uri), experiment, f"{label}-new")
    with tracklayer.track("training", context=pipeline.context("training"), settings=settings) as stage:
        assert stage.flush()
        call = prepare(here)
        proxy.forget()
        proxy.long(HELD, path)
        call()
        time.sleep(HELD)  # a request is in the list once it is answered
        assert len([request for request in proxy.requests if request.path.startswith(path)]) == 1
        if name == "set_experiment":
            with mlflow.start_run():
                pass
            with mlflow.start_run() as below:
                assert pipeline.client.get_experiment(below.info.experiment_id).name == here.name
