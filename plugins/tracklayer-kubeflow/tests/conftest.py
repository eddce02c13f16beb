"""An experiment for each test on a real MLflow server, and KFP's local runner."""

from __future__ import annotations

import builtins
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.mlflow import MlflowServer

sys.path.insert(0, str(Path(__file__).parent))

from kubeflow_story import Story


@pytest.fixture
def story(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Story:
    """A new experiment, where all runs of the test go."""
    name = f"kubeflow-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("TRACKLAYER_EXPERIMENT", name)
    return Story(mlflow_server.uri, name)


@pytest.fixture(autouse=True)
def _no_folders_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What KFP's own command makes by ``mktemp`` for each task, and leaves there, is in the test's folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def local_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """KFP's local runner, with tasks as subprocesses of this Python; its outputs go below the folder."""
    # While a task runs, it replaces `print` by one that indents; tasks side by side do not put it back in order.
    monkeypatch.setattr(builtins, "print", print)
    from kfp import local
    from kfp.local import config

    folder = tmp_path / "outputs"
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder), workspace_root=str(tmp_path / "work"))
    yield folder
    config.LocalExecutionConfig.instance = None
