# mypy: disable-error-code="no-untyped-call"
"""The artifacts of a run or model that the server did not know when MLflow asked where they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path

from tracklayer.journal.failures import JournalError
from tracklayer.journal.pending import pending_owner
from tracklayer.mlflow_plugins import tables
from tracklayer.mlflow_plugins.artifacts import files_of, joined, listed
from tracklayer.mlflow_plugins.kept import Kept, kept_of, no_room, refuse_to_ask
from tracklayer.mlflow_plugins.stages import guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities import FileInfo


class PendingArtifacts(ArtifactRepository):
    """Keeps what is stored, and reads what is kept, until the run or model is there; from then on it is its repository.

    In another process than the one that kept them, and on other machines, the artifacts are found as soon as they
    are delivered.
    """

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        told = pending_owner(artifact_uri)
        if told is None:
            raise ValueError(f"{artifact_uri!r} is no place of artifacts to come")
        self._owner, self._root = told
        self._delivered: ArtifactRepository | None = None

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store a file, or keep it until it can be stored."""
        repository, kept = self._places()
        path = joined(self._root, joined(artifact_path, Path(local_file).name))
        if repository is not None and not tables.in_part(path):  # else its rows are kept, to be appended
            repository.log_artifact(local_file, artifact_path)
            return
        verify_artifact_path(artifact_path)
        self._keep(self._kept() if kept is None else kept, [(Path(local_file), path)])

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store the files of a folder, or keep them until they can be stored."""
        repository, kept = self._places()
        if repository is not None:
            repository.log_artifacts(local_dir, artifact_path)
            return
        verify_artifact_path(artifact_path)
        self._keep(kept, [(file, joined(self._root, path)) for file, path in files_of(local_dir, artifact_path)])

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """The artifacts at `path`: those that are kept here, as long as they are not delivered."""
        repository, kept = self._places()
        if repository is not None:
            return repository.list_artifacts(path)
        tables.told(in_part=True)
        return [] if kept is None else listed(kept, joined(self._root, path or ""))

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """A local copy of a file or folder, from what is kept here as long as it is not delivered."""
        repository, _ = self._places()
        if repository is not None:
            return str(repository.download_artifacts(artifact_path, dst_path))
        return str(super().download_artifacts(artifact_path, dst_path))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        kept = self._kept()
        if kept is not None and kept.fetch(joined(self._root, remote_file_path), Path(local_path)):
            return
        repository, _ = self._places()
        if repository is None:
            refuse_to_ask(f"The artifact {remote_file_path}")
        repository._download_file(remote_file_path, local_path)  # noqa: SLF001 - what MLflow's classes ask each other

    def _places(self) -> tuple[ArtifactRepository | None, Kept | None]:
        """The repository, if there is one now and nothing waits that must be there before; and what is kept."""
        if self._delivered is not None:
            return self._delivered, None
        kept = self._kept()
        with guard("finding where artifacts have come to be"):
            # What nothing is kept of here may have been delivered by another process, of which only the server knows.
            elsewhere = kept is not None and not kept.waiting and not kept.recorder.away
            if kept is None or ((elsewhere or kept.recorder.resolve(self._owner) is not None) and kept.settle()):
                self._delivered = self._found()
        return self._delivered, kept

    def _found(self) -> ArtifactRepository | None:
        """The repository of the run or model, as the server knows it by now."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.tracking_uri)
        location: Any
        try:
            if self._owner.startswith("m-"):
                location = client.get_logged_model(self._owner).artifact_location
            else:
                location = client.get_run(self._owner).info.artifact_uri
        except MlflowException:
            return None
        if not location or pending_owner(location) is not None:
            return None
        place = f"{location.rstrip('/')}/{self._root}".rstrip("/")
        return get_artifact_repository(place, self.tracking_uri, self.registry_uri)

    def _kept(self) -> Kept | None:
        kept: list[Kept | None] = [None]
        with guard("finding the stage of an artifact"):
            kept.append(kept_of(self._owner, self.tracking_uri))
        return kept[-1]

    def _keep(self, kept: Kept | None, files: Sequence[tuple[Path, str]]) -> None:
        """Keep files, where only that is left.

        Raises:
            OSError: a file cannot be read.
            MlflowException: this process has no stage to keep them for, or no room for them.
        """
        if kept is None:
            refuse_to_ask(f"Where the artifacts of {self._owner} are")
        for file, _ in files:
            with file.open("rb"):  # so that what goes wrong now is the user's, and what comes later the journal's
                pass
        try:
            kept.add(files)
        except (JournalError, OSError) as error:
            no_room(error)
