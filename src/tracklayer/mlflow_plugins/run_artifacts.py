# mypy: disable-error-code="no-untyped-call"
"""Models of a run by the path under which MLflow shows them among its artifacts: ``runs:/<run>/<name of the model>``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tracklayer.mlflow_plugins import tables
from tracklayer.mlflow_plugins.artifacts import is_unreachable
from tracklayer.mlflow_plugins.models import known_model_of
from tracklayer.mlflow_plugins.stages import guard
from tracklayer.store.calling import is_own_call

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


class RunArtifactCalls:
    """Stands before MLflow's repository of the scheme ``runs``, of which the rest is.

    MLflow looks for the model among those of the server, by the run id in the URI. That may be one that was given out
    before the server knew the run, and the model may not be there yet.
    """

    tracking_uri: str | None
    registry_uri: str | None

    def _get_logged_model_artifact_repo(self, run_id: str, name: str) -> ArtifactRepository | None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        ids = [run_id]
        with guard("finding a model of a run"):
            if not is_own_call():
                ids.append(MlflowClient(self.tracking_uri).get_run(run_id).info.run_id)
            model = known_model_of(ids, name)
            if model is not None:
                return get_artifact_repository(model.model_uri, self.tracking_uri, self.registry_uri)
        try:
            found: Any = super()._get_logged_model_artifact_repo(ids[-1], name)  # type: ignore[misc]  # the stock class
        except MlflowException as error:
            if is_own_call() or not tables.being_logged() or not is_unreachable(error, credentials=True):
                raise
            tables.told(in_part=True)  # a table in a folder may be begun all the same
            return None
        return found  # type: ignore[no-any-return]
