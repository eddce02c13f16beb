"""Models, autologging, traces and other stores inside a tracked stage; and plain MLflow where no stage is open."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from mlflow.pyfunc.model import PythonModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlflow.entities import Run
    from mlflow.models.model import ModelInfo

    from harness.backends import Backend
    from harness.mlflow import MlflowServer
    from harness.pipeline import Pipeline
    from harness.proxy import RecordingProxy

pytestmark = pytest.mark.slow


@pytest.fixture
def quiet() -> Iterator[None]:
    """What MLflow and scikit-learn warn of among themselves is not the matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def autolog(quiet: None, fresh_mlflow: None) -> Iterator[None]:
    mlflow.sklearn.autolog(log_datasets=True, silent=True)
    yield
    mlflow.sklearn.autolog(disable=True, silent=True)


class Constant(PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:  # type: ignore[override]  # MLflow takes this form too
        return ["on time" for _ in model_input]


def log_model(**options: Any) -> ModelInfo:
    told: ModelInfo = mlflow.pyfunc.log_model(name="model", python_model=Constant(), pip_requirements=[], **options)
    return told


def models_of(run: Run) -> list[str]:
    assert run.outputs is not None
    return [output.model_id for output in run.outputs.model_outputs]


def data() -> tuple[Any, Any]:
    import numpy as np

    return np.array([[number, number % 3] for number in range(60)], dtype=float), np.arange(60) % 2


def test_a_model_that_is_logged_first_is_a_logged_model_of_the_stage_run(pipeline: Pipeline, quiet: None) -> None:
    with pipeline.stage() as stage:
        told = log_model(registered_model_name=pipeline.workflow)
        assert mlflow.active_run() is None  # as in plain MLflow a model makes no run active
        assert mlflow.pyfunc.load_model(told.model_uri).metadata.run_id == stage.run_id
        with mlflow.start_run():
            mlflow.log_metric("auc", 0.9)

    model = pipeline.client.get_logged_model(told.model_id)
    assert (model.source_run_id, model.experiment_id) == (stage.run_id, stage.experiment_id)
    assert str(model.status) == "READY"
    run = pipeline.run(stage.run_id)
    assert models_of(run) == [told.model_id]
    assert told.run_id == stage.run_id
    assert pipeline.client.get_model_version(pipeline.workflow, "1").run_id == stage.run_id
    assert run.data.metrics == {"auc": 0.9}


def test_a_model_that_is_logged_after_other_things_is_one_of_the_stage_run(pipeline: Pipeline, quiet: None) -> None:
    with pipeline.stage() as stage:
        mlflow.log_param("lr", 0.1)
        mlflow.log_metric("auc", 0.9)
        told = log_model()

    model = pipeline.client.get_logged_model(told.model_id)
    assert (model.source_run_id, model.params) == (stage.run_id, {"lr": "0.1"})
    assert [metric.key for metric in model.metrics or ()] == ["auc"]
    assert models_of(pipeline.run(stage.run_id)) == [told.model_id]


def test_a_model_goes_to_the_experiment_that_the_user_chose_and_is_still_the_stages(
    pipeline: Pipeline, quiet: None
) -> None:
    with pipeline.stage() as stage:
        chosen = mlflow.set_experiment(f"chosen-{pipeline.workflow}")
        told = log_model()

    model = pipeline.client.get_logged_model(told.model_id)
    assert (model.source_run_id, model.experiment_id) == (stage.run_id, chosen.experiment_id)
    assert models_of(pipeline.run(stage.run_id)) == [told.model_id]


def test_a_model_that_lives_elsewhere_is_the_stages(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        model = mlflow.create_external_model(name="agent")
    assert model.source_run_id == stage.run_id
    assert not [name for name in model.tags if "tracklayer" in name or name == "mlflow.parentRunId"]


def test_autologging_of_one_fit_lands_in_the_stage_run(pipeline: Pipeline, autolog: None) -> None:
    from sklearn.linear_model import LogisticRegression

    with pipeline.stage() as stage:
        LogisticRegression(C=0.5).fit(*data())

    run = pipeline.run(stage.run_id)
    assert run.data.params["C"] == "0.5"
    assert "training_accuracy_score" in run.data.metrics
    assert len(models_of(run)) == 1
    assert run.inputs is not None
    assert len(run.inputs.dataset_inputs) == 1
    assert len(pipeline.all_runs()) == 1


def test_autologging_of_two_fits_keeps_them_apart(pipeline: Pipeline, autolog: None) -> None:
    from sklearn.linear_model import LogisticRegression

    with pipeline.stage() as stage:
        LogisticRegression(C=0.5).fit(*data())
        LogisticRegression(C=2.0).fit(*data())

    assert pipeline.run(stage.run_id).data.params["C"] == "0.5"
    (second,) = pipeline.below(stage.run_id)
    assert second.data.params["C"] == "2.0"
    assert second.info.status == "FINISHED"


def test_autologging_of_a_search_puts_its_candidates_below_the_stage(pipeline: Pipeline, autolog: None) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    with pipeline.stage() as stage:
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0, 10.0]}, cv=2, n_jobs=1).fit(*data())

    run = pipeline.run(stage.run_id)
    assert "best_C" in run.data.params
    candidates = pipeline.below(stage.run_id)
    assert {candidate.data.params["C"] for candidate in candidates} == {"0.1", "1.0", "10.0"}
    assert {candidate.info.status for candidate in candidates} == {"FINISHED"}
    assert len(pipeline.all_runs()) == 4


def test_autologging_logs_to_the_users_own_run_within_the_stage(pipeline: Pipeline, autolog: None) -> None:
    from sklearn.linear_model import LogisticRegression

    with pipeline.stage() as stage:
        mlflow.log_param("who", "stage")
        for strength in (0.1, 1.0):
            with mlflow.start_run(nested=True):
                LogisticRegression(C=strength).fit(*data())

    assert pipeline.run(stage.run_id).data.params == {"who": "stage"}
    assert [run.data.params["C"] for run in pipeline.below(stage.run_id)] == ["0.1", "1.0"]


def test_a_trace_belongs_to_the_stage_run(pipeline: Pipeline) -> None:
    with pipeline.stage() as stage:
        with mlflow.start_span("predict") as span:
            span.set_inputs({"x": 1})
        mlflow.flush_trace_async_logging()
        (trace,) = pipeline.client.search_traces(locations=[stage.experiment_id or ""])

    assert trace.info.trace_metadata["mlflow.sourceRun"] == stage.run_id


def test_a_database_server_behind_no_mlflow_server_is_watched_too(postgresql: Backend, fresh_mlflow: None) -> None:
    from harness.pipeline import Pipeline

    with postgresql.database() as uri:  # a scheme with a driver: postgresql+psycopg2
        pipeline = Pipeline(uri)
        with pipeline.stage() as stage:
            mlflow.log_param("lr", 0.1)
            with mlflow.start_run(nested=True):
                mlflow.log_param("lr", 0.2)
        told, below = pipeline.run(stage.run_id), pipeline.below(stage.run_id)

    assert (told.info.status, told.data.params) == ("FINISHED", {"lr": "0.1"})
    assert [run.data.params for run in below] == [{"lr": "0.2"}]


def test_a_back_end_without_our_store_gets_runs_below_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_mlflow: None, quiet: None
) -> None:
    from harness.pipeline import Pipeline

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pipeline = Pipeline(f"file://{tmp_path}/runs")
    with pipeline.stage() as stage:
        mlflow.log_param("lr", 0.1)

    (run,) = pipeline.below(stage.run_id)
    assert (run.info.experiment_id, run.data.params) == (stage.experiment_id, {"lr": "0.1"})
    assert run.data.tags["tracklayer.stage"] == "training"
    assert run.info.status == "FINISHED"


# --------------------------------------------------------------------------------------------------------------------
# No stage
# --------------------------------------------------------------------------------------------------------------------

PLAIN = """
import importlib.metadata, json, sys
if "--without" in sys.argv:
    found = importlib.metadata.entry_points
    importlib.metadata.entry_points = lambda **wanted: type(found())(
        entry for entry in found(**wanted) if not (entry.group.startswith("mlflow.") and "tracklayer" in entry.value)
    )
import mlflow
from mlflow import MlflowClient

mlflow.log_param("lr", 0.1)
mlflow.end_run()
mlflow.set_experiment("plain")
with mlflow.start_run(run_name="forest", tags={"team": "risk"}, description="Words.") as run:
    mlflow.log_metric("auc", 0.9)
    mlflow.log_text("clear", "sky.txt")
    with mlflow.start_run(nested=True):
        mlflow.log_params({"a": 1})
    mlflow.log_input(mlflow.data.from_pandas(__import__("pandas").DataFrame({"x": [1.0]}), name="f", digest="1"))
client = MlflowClient()
client.set_terminated(client.create_run("0").info.run_id)
model = mlflow.create_external_model(name="agent")
with mlflow.start_span("predict"):
    pass
mlflow.flush_trace_async_logging()
loaded = sorted(name for name in sys.modules if name.startswith("tracklayer"))
print(json.dumps({"loaded": loaded, "stack": type(mlflow.tracking.fluent._active_run_stack).__name__}))
"""


def run_plain(uri: str, *arguments: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKLAYER_"))}
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAIN, *arguments],
        env={**environment, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return answer


def test_without_a_stage_mlflow_does_what_it_does_without_tracklayer(
    mlflow_server: MlflowServer, proxy_before: Callable[[str], RecordingProxy]
) -> None:
    def story(*arguments: str) -> tuple[dict[str, Any], list[Any]]:
        proxy = proxy_before(mlflow_server.uri)
        told = run_plain(proxy.uri, *arguments)
        # Traces are sent by a thread of their own, whenever it gets to it.
        requests = [request for request in proxy.requests if "traces" not in request.path]
        return told, [(request.method, named(request.path), shape(request.body)) for request in requests]

    run_plain(mlflow_server.uri)  # makes the experiment, so that both stories begin alike
    without, plain = story("--without")
    told, ours = story()
    assert ours == plain
    assert without == {"loaded": [], "stack": "ThreadLocalVariable"}
    assert told["stack"] == "ThreadLocalVariable"
    assert not {"tracklayer.stage", "tracklayer.tracking", "tracklayer.settings"} & set(told["loaded"])


def named(path: str) -> str:
    return re.sub(r"[0-9a-f]{32}|/experiments/[0-9]+", "<id>", path)


def shape(body: bytes) -> Any:
    """What a request says, without what differs each time: ids, times, random names."""
    try:
        told = json.loads(body)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    tags = sorted(tag["key"] for tag in told.get("tags", []) if isinstance(tag, dict) and "key" in tag)
    return sorted(told), tags


def test_a_process_of_the_mlflow_server_gets_the_stock_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from tracklayer.mlflow_plugins.store import stage_store

    uri = f"sqlite:///{tmp_path / 'server.db'}"
    client = stage_store(uri, str(tmp_path))
    assert isinstance(client, SqlAlchemyStore)
    assert type(client) is not SqlAlchemyStore
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", uri)
    assert type(stage_store(uri, str(tmp_path))) is SqlAlchemyStore
