"""The way to a real tracking server, which can be cut and mended in the middle of a stage."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tracklayer
from harness.pipeline import PLUGINS, Pipeline
from harness.process import wait_for
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from mlflow.entities import LoggedModel

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer import StageRun

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
"""How the paths of requests begin that store artifacts."""


class Line:
    """A pipeline that is tracked over a proxy; what is asked of the server itself goes around it.

    Attributes:
        server: the server.
        proxy: stands in the way.
        pipeline: a pipeline that is tracked over it.
        client: asks the server itself.
    """

    def __init__(self, server: MlflowServer, proxy: RecordingProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.pipeline = Pipeline(proxy.uri)
        self.client = Pipeline(server.uri).client
        self._cut = ExitStack()

    def cut(self) -> None:
        """From here on connections are refused."""
        self._cut.enter_context(self.proxy.refused())

    def mend(self) -> None:
        """The server is back."""
        self._cut.close()

    def stage(self, name: str = "training", **options: Any) -> AbstractContextManager[StageRun]:
        """A stage as users have it: tracking never raises."""
        journal = os.environ["TRACKLAYER_JOURNAL"]  # of this test alone
        # A machine that does much else may take longer than the usual second to create a run.
        settings = Settings(tracking_uri=self.proxy.uri, journal=journal, patience=8.0, disabled_plugins=PLUGINS)
        return tracklayer.track(name, context=self.pipeline.context(name), settings=settings, **options)

    def deliver(self, stage: StageRun) -> str:
        """Wait until everything is delivered; the server's id of the stage run."""
        assert stage.recorder is not None
        assert stage.run_id is not None
        wait_for(stage.recorder.flush, 60, "delivery")
        return stage.recorder.resolve(stage.run_id) or stage.run_id

    def paths(self, run_id: str, path: str | None = None) -> list[str]:
        """Paths of all artifacts of a run."""
        found: list[str] = []
        for file in self.client.list_artifacts(run_id, path):
            found += self.paths(run_id, file.path) if file.is_dir else [file.path]
        return sorted(found)

    def text(self, run_id: str, path: str, folder: Path) -> str:
        """An artifact of a run, downloaded to a folder."""
        folder.mkdir(exist_ok=True)
        return Path(self.client.download_artifacts(run_id, path, str(folder))).read_text()

    def models(self, run_id: str) -> list[LoggedModel]:
        """The models that a run made."""
        run = self.client.get_run(run_id)
        assert run.outputs is not None
        return [self.client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]

    @property
    def experiment_id(self) -> str:
        """Id of the pipeline's experiment."""
        experiment = self.client.get_experiment_by_name(self.pipeline.workflow)
        assert experiment is not None
        return experiment.experiment_id


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done in the block takes no longer; MLflow repeats a request for four minutes and more."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds
