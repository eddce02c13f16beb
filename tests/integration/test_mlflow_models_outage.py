"""MLflow's logged models in a stage while the server is away, goes away, or loses its answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import msgspec
import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel

import tracklayer
from harness.line import ARTIFACTS, Line, within
from harness.outage import flush
from harness.patience import patient
from harness.pipeline import PLUGINS, Pipeline
from harness.process import wait_for
from tracklayer.provisional import is_provisional

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo

    from harness.proxy import Answer


# What MLflow warns of among itself is not the matter here.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]


class Constant(PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:  # type: ignore[override]  # MLflow takes this form too
        return ["on time" for _ in model_input]


def loads(line: Line, *uris: str) -> None:
    """Each of these leads to the model, for somebody who has only the server."""
    mlflow.set_tracking_uri(line.server.uri)
    for uri in uris:
        assert mlflow.pyfunc.load_model(uri).predict(["AA1"]) == ["on time"]
    mlflow.set_tracking_uri(line.proxy.uri)


def description(line: Line, model_id: str, folder: Path) -> str:
    """The model's file ``MLmodel``."""
    place = mlflow.artifacts.download_artifacts(
        artifact_uri=f"models:/{model_id}", dst_path=str(folder), tracking_uri=line.server.uri
    )
    return Path(place, "MLmodel").read_text()


def log_model(**options: Any) -> ModelInfo:
    told: ModelInfo = mlflow.pyfunc.log_model(
        **{"name": "model", "python_model": Constant(), "pip_requirements": [], **options}
    )
    return told


def test_a_model_that_is_logged_while_the_server_is_away(line: Line, tmp_path: Path) -> None:
    line.cut()
    with within(100), line.stage() as stage:  # less than half of what one request of MLflow's would take
        mlflow.log_params({"lr": 0.1, "depth": 3})
        mlflow.log_metric("auc", 0.8, step=0)
        mlflow.log_metric("auc", 0.9, step=1)
        told = log_model(step=1, params={"own": "yes"}, tags={"team": "risk"}, model_type="classifier")
        mlflow.log_metric("later", 1.0, model_id=told.model_id)
        mlflow.log_model_params({"more": "1"}, model_id=told.model_id)
        mlflow.set_logged_model_tags(told.model_id, {"checked": "yes"})
        assert is_provisional(told.model_id or "")
        assert mlflow.pyfunc.load_model(told.model_uri).predict(["AA1"]) == ["on time"]
        assert mlflow.pyfunc.load_model(f"runs:/{told.run_id}/model").predict(["AA1"]) == ["on time"]
        known = mlflow.get_logged_model(told.model_id)
        assert (str(known.status), known.params["depth"], known.tags["checked"]) == ("READY", "3", "yes")
    line.mend()
    run_id = line.deliver(stage)

    (model,) = line.models(run_id)
    assert (model.name, str(model.status), model.model_type) == ("model", "READY", "classifier")
    assert (model.source_run_id, model.params) == (run_id, {"lr": "0.1", "depth": "3", "own": "yes", "more": "1"})
    assert {"team": "risk", "checked": "yes"}.items() <= model.tags.items()
    assert {(metric.key, metric.value, metric.step) for metric in model.metrics or ()} == {
        ("auc", 0.9, 1),
        ("later", 1.0, 0),
    }
    outputs = line.client.get_run(run_id).outputs
    assert outputs is not None
    assert [output.step for output in outputs.model_outputs] == [1]
    loads(line, model.model_uri, f"runs:/{run_id}/model")
    written = description(line, model.model_id, tmp_path)
    assert model.model_id in written
    assert run_id in written
    assert "pending" not in written
    assert told.model_id not in written


def test_ids_of_a_model_and_its_run_that_were_given_out_stay_valid(line: Line, tmp_path: Path) -> None:
    line.cut()
    with line.stage() as stage, mlflow.start_run() as run:
        told = log_model()
    line.mend()
    run_id = line.deliver(stage)
    (model,) = line.models(run_id)

    with line.stage("evaluation") as evaluation:
        assert mlflow.pyfunc.load_model(told.model_uri).predict(["AA1"]) == ["on time"]
        mlflow.log_metric("auc", 0.7, model_id=told.model_id)
    line.deliver(evaluation)
    assert "auc" in {metric.key for metric in line.client.get_logged_model(model.model_id).metrics or ()}
    code = f"""
import mlflow, sys, warnings
sys.path += {[str(ROOT), str(ROOT / "tests")]}  # where the model's class is
warnings.simplefilter("ignore")
for uri in ({told.model_uri!r}, "runs:/{run.info.run_id}/model"):
    print(mlflow.pyfunc.load_model(uri).predict(["AA1"]))
"""
    environ = {**os.environ, "MLFLOW_TRACKING_URI": line.proxy.uri}  # another process, and no stage
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["['on time']", "['on time']"], done.stderr


def test_a_server_that_is_lost_while_a_model_is_logged(line: Line) -> None:
    class Striking(Constant):
        """Strikes when MLflow asks for it: the model is created then, its files are not there yet."""

        def __reduce__(self) -> Any:
            line.cut()
            return Constant, ()

    with line.stage() as stage:
        mlflow.log_param("lr", 0.1)
        mlflow.log_metric("auc", 0.9)
        told = log_model(python_model=Striking())
    line.mend()
    run_id = line.deliver(stage)
    (model,) = line.models(run_id)
    assert (model.model_id, str(model.status), model.params) == (told.model_id, "READY", {"lr": "0.1"})
    assert [metric.key for metric in model.metrics or ()] == ["auc"]
    loads(line, model.model_uri, f"runs:/{run_id}/model")


def test_a_server_that_is_back_before_the_files_of_a_model_are_stored(line: Line, tmp_path: Path) -> None:
    class Healing(Constant):
        """Mends the way when MLflow asks for it: the model has its id then, and MLflow stores its files at once."""

        def __reduce__(self) -> Any:
            line.mend()
            wait_for(stage.flush, 60, "delivery")
            return Constant, ()

    line.cut()
    with line.stage() as stage, mlflow.start_run():
        told = log_model(python_model=Healing())
    run_id = line.deliver(stage)
    (model,) = line.models(run_id)
    assert told.model_id != model.model_id
    loads(line, model.model_uri, told.model_uri)
    written = description(line, model.model_id, tmp_path)
    assert model.model_id in written
    assert run_id in written
    assert "pending" not in written
    assert (told.model_id or "-") not in written


@pytest.mark.parametrize("lost", ["logged-models", "runs/outputs", ARTIFACTS, "runs/create"])
def test_what_is_repeated_after_a_lost_answer_is_there_once(line: Line, lost: str) -> None:
    line.proxy.lost(lost, times=2)
    with line.stage() as stage:
        log_model(name="first")
        log_model(name="second")
    run_id = line.deliver(stage)
    models = line.models(run_id)
    assert sorted(model.name for model in models) == ["first", "second"]
    assert {str(model.status) for model in models} == {"READY"}
    assert len(line.client.search_logged_models([line.experiment_id])) == 2
    loads(line, *(model.model_uri for model in models))


def test_a_model_is_registered_when_the_server_is_back(line: Line) -> None:
    name = line.pipeline.workflow
    line.cut()
    with line.stage() as stage:
        told = log_model(registered_model_name=name)
        assert told.registered_model_version is None  # only the registry can say
    line.proxy.lost("model-versions/create")
    line.mend()
    run_id = line.deliver(stage)
    (model,) = line.models(run_id)
    (version,) = line.client.search_model_versions(f"name = '{name}'")
    assert (version.source, version.run_id) == (model.model_uri, run_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": name, "version": 1}]
    loads(line, f"models:/{name}/1")


@pytest.mark.parametrize("trouble", ["reset", "lost"])
@pytest.mark.parametrize("request_", ["registered-models/create", "model-versions/create"])
def test_a_registry_that_is_lost_at_the_last_moment(line: Line, trouble: str, request_: str) -> None:
    name = line.pipeline.workflow
    with line.stage() as stage:
        getattr(line.proxy, trouble)(request_)
        log_model(registered_model_name=name)
    run_id = line.deliver(stage)
    (model,) = line.models(run_id)
    (version,) = line.client.search_model_versions(f"name = '{name}'")
    assert (version.source, version.run_id) == (model.model_uri, run_id)


def test_a_version_whose_number_is_wanted_at_once_is_refused_at_once(line: Line) -> None:
    with line.stage() as stage:
        told = log_model()
        first = mlflow.register_model(told.model_uri, line.pipeline.workflow)
        line.cut()
        mlflow.log_metric("auc", 0.9)
        with within(20), pytest.raises(MlflowException) as raised:
            mlflow.register_model(told.model_uri, line.pipeline.workflow)
    line.mend()
    line.deliver(stage)
    assert raised.value.error_code in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR"}
    assert int(first.version) == 1


def test_a_registry_that_asks_to_come_again_is_asked_again(line: Line) -> None:
    with line.stage() as stage:
        told = log_model()
        for request in ("registered-models/create", "model-versions/create", "registered-models/alias"):
            line.proxy.answer(503, path=request, times=2)
        version = mlflow.register_model(told.model_uri, line.pipeline.workflow)
        mlflow.MlflowClient().set_registered_model_alias(line.pipeline.workflow, "champion", version.version)
    line.deliver(stage)
    found = line.client.get_model_version_by_alias(line.pipeline.workflow, "champion")
    assert (found.source, found.version) == (told.model_uri, version.version)


def test_a_server_that_was_only_slow_is_asked_all_the_same(line: Line, tmp_path: Path) -> None:
    """Somebody had no patience with it: that is no reason for a call to fail that would not have failed untracked."""
    name = line.pipeline.workflow
    settings = patient(line.proxy.uri, journal=os.environ["TRACKLAYER_JOURNAL"], disabled_plugins=PLUGINS)

    def slow(handler: Any) -> Answer:
        """The answer comes when the server has been asked for something else."""
        asked.wait(60)
        answer: Answer = handler.forwarded()
        return answer

    def ask(handler: Any) -> Answer:
        asked.set()
        answer: Answer = handler.forwarded()
        return answer

    with tracklayer.track("training", context=line.pipeline.context("training"), settings=settings) as stage:
        told = log_model()
        mlflow.log_text("clear", "sky.txt")
        stage.settings = msgspec.structs.replace(settings, patience=0.5)  # of whoever starts a run from here on
        for call in (
            lambda: mlflow.register_model(told.model_uri, name),
            lambda: mlflow.artifacts.load_text(f"runs:/{stage.run_id}/sky.txt"),
        ):
            wait_for(stage.flush, 60, "delivery")
            asked = threading.Event()
            line.proxy.fault(slow, "runs/create")
            line.proxy.fault(ask, "experiments/search")
            with mlflow.start_run(nested=True):
                assert stage.recorder is not None
                assert stage.recorder.away
                call()
    (version,) = line.client.search_model_versions(f"name = '{name}'")
    assert version.source == told.model_uri


def test_a_model_that_came_late_is_registered_under_the_servers_ids(line: Line) -> None:
    name = line.pipeline.workflow
    line.cut()
    with line.stage() as stage:
        told = log_model()
        line.mend()
        wait_for(lambda: stage.recorder is not None and stage.recorder.flush(), 60, "delivery")
        version = mlflow.register_model(told.model_uri, name)
    run_id = line.deliver(stage)
    (model,) = line.models(run_id)
    assert (version.source, version.run_id) == (model.model_uri, run_id)


def test_models_that_live_elsewhere_and_checkpoints(line: Line) -> None:
    line.cut()
    with line.stage() as stage:
        external = mlflow.create_external_model(name="agent", params={"temperature": "0"})
        pending = mlflow.initialize_logged_model(name="half")
        mlflow.finalize_logged_model(pending.model_id, LoggedModelStatus.FAILED)
    line.mend()
    run_id = line.deliver(stage)
    assert stage.recorder is not None
    agent = line.client.get_logged_model(stage.recorder.resolve(external.model_id) or "")
    assert (agent.name, agent.source_run_id, agent.params) == ("agent", run_id, {"temperature": "0"})
    half = line.client.get_logged_model(stage.recorder.resolve(pending.model_id) or "")
    assert str(half.status) == "FAILED"


@pytest.mark.parametrize("there", [True, False])
def test_what_mlflow_refuses_at_the_call_is_refused_at_the_call(line: Line, there: bool) -> None:
    with line.stage():
        if not there:
            line.cut()
            mlflow.log_metric("auc", 0.9)
        with pytest.raises(MlflowException, match="Invalid model name"):
            log_model(name="a/b")
        with pytest.raises(MlflowException):
            mlflow.get_logged_model("m-4d0b2f6c1a834e5f9f0c6a1e2b3d4c5f")


KILLED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import mlflow, tracklayer
from tracklayer import RunContext, TaskRun, WorkflowRun
from mlflow.pyfunc.model import PythonModel

class Constant(PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return ["on time" for _ in model_input]

context = RunContext(
    workflow_run=WorkflowRun(orchestrator="test", workflow=sys.argv[1], run_id="r1"),
    task_run=TaskRun(task="training"), owns_workflow_run=True,
)
with tracklayer.track("training", context=context):
    mlflow.log_param("lr", 0.1)
    told = mlflow.pyfunc.log_model(name="model", python_model=Constant(), pip_requirements=[])
    mlflow.log_text("fine", "result.txt")
    print(told.model_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_task_that_is_killed_after_it_logged_a_model(line: Line, tmp_path: Path, there: bool) -> None:
    if not there:
        line.cut()
    environ = {
        **os.environ,
        "MLFLOW_TRACKING_URI": line.proxy.uri,
        "TRACKLAYER_DISABLED_PLUGINS": ",".join(PLUGINS),
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED, line.pipeline.workflow],
        env=environ, capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    line.mend()
    flush(line.proxy.uri)

    (run,) = Pipeline(line.server.uri).client.search_runs(
        [line.experiment_id],
        "tags.`tracklayer.stage` = 'training'",
    )
    (model,) = line.models(run.info.run_id)
    assert (run.info.status, str(model.status), model.params) == ("KILLED", "READY", {"lr": "0.1"})
    loads(line, model.model_uri, f"runs:/{run.info.run_id}/model")
    assert [file.path for file in line.client.list_artifacts(run.info.run_id)] == ["result.txt"]
