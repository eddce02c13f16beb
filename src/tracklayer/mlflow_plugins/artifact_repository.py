# mypy: disable-error-code="no-untyped-call"
"""The artifact repositories that MLflow gets for the schemes whose storage may be away.

MLflow keeps a repository for each run as long as the process lives, so whether a stage is open is asked at each call.
In a process of the MLflow server it is the stock repository, as if tracklayer were not installed; so it is where
another plugin serves the scheme.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Final

from tracklayer.mlflow_plugins.store import SERVER_VARIABLE

GROUP: Final = "mlflow.artifact_repository"

STOCK: Final = {
    "abfss": "AzureDataLakeArtifactRepository",
    "b2": "B2ArtifactRepository",
    "ftp": "FTPArtifactRepository",
    "gs": "GCSArtifactRepository",
    "hdfs": "HdfsArtifactRepository",
    "http": "HttpArtifactRepository",
    "https": "HttpArtifactRepository",
    "mlflow-artifacts": "MlflowArtifactsRepository",
    "r2": "R2ArtifactRepository",
    "runs": "RunsArtifactRepository",
    "s3": "S3ArtifactRepository",
    "sftp": "SFTPArtifactRepository",
    "viewfs": "HdfsArtifactRepository",
    "wasbs": "AzureBlobArtifactRepository",
}
"""MLflow's own classes by scheme, as they are called in its registry's module; our entry points have the same names."""


def stage_artifacts(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """Build the repository for `artifact_uri`; what the entry points of ``mlflow.artifact_repository`` name.

    Args:
        artifact_uri: where the artifacts are.
        tracking_uri: the tracking URI, where the caller has one.
        registry_uri: the same for the model registry.

    Returns:
        An instance of the stock class for this scheme, or of a class below it that watches what is stored inside
        stages; for artifacts of a run or model that the server did not know when it was asked for, one that finds
        them later.
    """
    watched = SERVER_VARIABLE not in os.environ
    if watched:
        from tracklayer.journal.pending import pending_owner

        if pending_owner(artifact_uri) is not None:
            from tracklayer.mlflow_plugins.pending_artifacts import PendingArtifacts

            return PendingArtifacts(artifact_uri, tracking_uri, registry_uri)
    scheme = artifact_uri.partition(":")[0].lower()
    stock = _stock(scheme)(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
    if watched:
        from tracklayer.mlflow_plugins.stages import guard

        with guard("watching MLflow's artifacts"):
            stock.__class__ = _watching(stock.__class__)
    return stock


@lru_cache(maxsize=32)
def _stock(scheme: str) -> Any:
    """What would serve this scheme without tracklayer: another plugin, else MLflow's own class."""
    from importlib.metadata import entry_points

    others = [entry for entry in entry_points(group=GROUP, name=scheme) if not entry.value.startswith("tracklayer.")]
    if others:
        return others[-1].load()
    from mlflow.store.artifact import artifact_repository_registry

    return getattr(artifact_repository_registry, STOCK[scheme])


@lru_cache(maxsize=32)
def _watching(stock: type) -> type:
    """A class below the stock one, so that MLflow's isinstance checks hold, with what watches before it."""
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    from tracklayer.mlflow_plugins.artifacts import ArtifactCalls, HttpArtifactCalls
    from tracklayer.mlflow_plugins.run_artifacts import RunArtifactCalls

    calls: type = ArtifactCalls
    if issubclass(stock, HttpArtifactRepository):
        calls = HttpArtifactCalls
    elif issubclass(stock, RunsArtifactRepository):  # it asks one of the others for what it does
        calls = RunArtifactCalls
    return type(f"Stage{stock.__name__}", (calls, stock), {"__module__": __name__, "__doc__": stock.__doc__})
