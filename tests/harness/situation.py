"""A stage around a framework's own calls, with the tracking server there, away, or going away in the middle."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.line import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities import LoggedModel, Run

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer import StageRun


class Situation:
    """A line to a server that is cut as the test is called.

    Attributes:
        name: ``there``: it is not cut; ``away``: all through the stage; ``lost``: from `strike` on.
        uri: the tracking URI.
        workflow: a name of this test's own.
        client: asks the server itself.
        run_id: id of the stage run, once it is delivered.
    """

    def __init__(self, name: str, server: MlflowServer, proxy: RecordingProxy) -> None:
        self.name = name
        self.uri = proxy.uri
        self._line = Line(server, proxy)
        self.workflow = self._line.pipeline.workflow
        self.client = self._line.client
        self.run_id = ""

    @contextmanager
    def stage(self) -> Iterator[StageRun]:
        """A tracked stage; when it has ended, the server is back, and what was left is delivered."""
        try:
            if self.name == "away":
                self._line.cut()
            with self._line.stage() as stage:
                yield stage
        finally:
            self._line.mend()
        self.run_id = self._line.deliver(stage)

    def strike(self) -> None:
        """The middle of the user's code: from here on a server that is to be lost is lost."""
        if self.name == "lost":
            self._line.cut()

    # What there is at last

    @property
    def run(self) -> Run:
        """The stage run."""
        return self.client.get_run(self.run_id)

    def below(self) -> list[Run]:
        """The runs whose parent is the stage run."""
        return self._line.pipeline.below(self.run_id)

    def models(self) -> list[LoggedModel]:
        """The models that the stage run made, with all that is known of them."""
        return self._line.models(self.run_id)

    def artifacts(self, run_id: str | None = None) -> list[str]:
        """Paths of the artifacts of the stage run, or of another one."""
        return self._line.paths(run_id or self.run_id)

    def load(self, flavour: Any, *uris: str) -> list[Any]:
        """Models as anybody loads them now, in plain MLflow."""
        import mlflow

        mlflow.set_tracking_uri(self.client.tracking_uri)
        return [flavour.load_model(uri) for uri in uris]
