"""The fixture of all tests of frameworks: a stage, and a tracking server that is there, away, or lost."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from harness.proxy import RecordingProxy
from harness.situation import Situation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.mlflow import MlflowServer

FLAVOURS = {"keras": "keras", "sklearn": "sklearn", "torch": "pytorch", "xgboost": "xgboost"}
"""Libraries for which a test may have switched autologging on, and what MLflow calls them."""


@pytest.fixture(params=["there", "away", "lost"])
def situation(
    request: pytest.FixtureRequest, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Situation]:
    """The tracking server: there, away all through the stage, lost in the middle of it."""
    import mlflow
    from mlflow.tracking import fluent

    with RecordingProxy(mlflow_server.uri) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        # For each model MLflow looks in a process of its own which packages it needs, for half a minute: not here.
        monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")
        mlflow.set_tracking_uri(proxy.uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries warn of among themselves is not the matter here
            yield Situation(request.param, mlflow_server, proxy)
    while mlflow.active_run():
        mlflow.end_run()
    for library, flavour in FLAVOURS.items():
        if library in sys.modules:
            module: Any = getattr(mlflow, flavour)
            module.autolog(disable=True, silent=True)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # MLflow takes it for "none"
    fluent._active_experiment_id = None
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
