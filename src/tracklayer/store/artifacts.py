"""Where the artifacts of a run live, and the ways to get there that need no server: a folder, or the mlflow library."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from tracklayer.exceptions import NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.store.calling import own_call
from tracklayer.store.endpoint import without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def checked(path: str) -> str:
    """An artifact's path, refused unless it stays among the artifacts of its run.

    >>> checked("plots/roc.png")
    'plots/roc.png'

    Raises:
        Refused: it is empty or absolute, climbs out with ``..``, or holds a character that no path can.
    """
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\\" in path or "\0" in path or ":" in parts[0]:
        raise Refused(f"{path!r} is no artifact path: it must be relative, with / between its parts, and without ..")
    return path


def folder(artifact_uri: str) -> Path | None:
    """The local folder that an artifact URI names, None if it names something else.

    >>> folder("file:///srv/mlflow/7/abc/artifacts")
    PosixPath('/srv/mlflow/7/abc/artifacts')
    >>> folder("s3://bucket/7/abc/artifacts") is None
    True
    """
    parts = urlsplit(artifact_uri)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(unquote(parts.path))
    if parts.scheme == "" and artifact_uri:
        return Path(artifact_uri)
    return None


def write(root: Path, path: str, content: bytes | Path, *, here: bool) -> None:
    """Write an artifact into the folder of a run, whole or not at all.

    The folder belongs to the machine that runs the server. It is used only if it can be the same one, never made
    out of nothing: on another machine that would hide the artifact for good.

    Args:
        root: folder with the artifacts of the run: ``<root of all>/<experiment>/<run>/artifacts``.
        path: path of the artifact in it.
        content: what to write, or the local file that holds it.
        here: whether the server is known to run on this machine. MLflow makes the root of all only with the first
            artifact, so then it is enough that the folder above it is there.

    Raises:
        StoreError: it cannot be the same folder, or it cannot be written to.
    """
    above = (root, *root.parents[: 4 if here else 3])
    base = next((parent for parent in above if parent.is_dir()), None)
    if not root.is_absolute() or base is None or base == base.parent or not os.access(base, os.W_OK | os.X_OK):
        raise StoreError(
            f"the artifacts of this run live in the folder {root} of the server's machine, which cannot be written "
            "to from here: start the server with --artifacts-destination instead of --default-artifact-root, so that "
            "artifacts go through it"
        )
    target = root / PurePosixPath(checked(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file)
                else:
                    file.write(content)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"the artifact {path} cannot be written to {root}: {error}") from error


def read(root: Path, path: str) -> bytes:
    """Read an artifact from the folder of a run.

    Raises:
        NotFound: it is not there (or the folder is on another machine).
    """
    try:
        return (root / PurePosixPath(checked(path))).read_bytes()
    except OSError as error:
        raise NotFound(f"there is no artifact {path} in {root} of this machine") from error


def upload(artifact_uri: str, path: str, content: bytes | Path) -> None:
    """Store an artifact at any URI that the mlflow library knows (``s3://``, ``gs://``, ``abfss://``, …).

    Raises:
        StoreError: mlflow, or what it needs for this scheme, is not installed, or the upload failed.
    """
    name = PurePosixPath(checked(path))
    with tempfile.TemporaryDirectory(prefix="tracklayer-") as temporary:
        local = Path(temporary, name.name)
        if isinstance(content, Path):
            local.symlink_to(content.absolute())
        else:
            local.write_bytes(content)
        above = None if str(name.parent) == "." else str(name.parent)
        _with_library(artifact_uri, lambda repository: repository.log_artifact(str(local), above))


def exists(artifact_uri: str, path: str) -> bool:
    """Whether a file is listed at any URI that the mlflow library knows.

    Raises:
        StoreError: mlflow, or what it needs for this scheme, is not installed, or the storage failed.
    """
    above = checked(path).rpartition("/")[0] or None
    listed = _with_library(artifact_uri, lambda repository: repository.list_artifacts(above))
    return any(file.path == path and not file.is_dir for file in listed)


def download(artifact_uri: str, path: str) -> bytes:
    """Read an artifact from any URI that the mlflow library knows.

    Raises:
        NotFound: it is not there.
        StoreError: mlflow, or what it needs for this scheme, is not installed, or the download failed.
    """
    checked(path)
    with tempfile.TemporaryDirectory(prefix="tracklayer-") as temporary:

        def fetch(repository: Any) -> bytes:
            return Path(repository.download_artifacts(path, dst_path=temporary)).read_bytes()

        return _with_library(artifact_uri, fetch)


def _with_library(artifact_uri: str, action: Callable[[Any], T]) -> T:
    shown = without_credentials(artifact_uri)
    if artifact_uri.startswith("mlflow-artifacts:"):
        raise StoreError(
            f"the artifacts at {shown} can only be reached through the MLflow server that keeps them: use its "
            "http:// address, as that server knows it, as the tracking URI"
        )
    try:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    except ImportError:
        raise StoreError(f"artifacts at {shown} need the mlflow library: install mlflow or mlflow-skinny") from None
    try:
        repository = get_artifact_repository(artifact_uri)
    except Exception:
        raise StoreError(f"the mlflow library that is installed here knows no way to artifacts at {shown}") from None
    try:
        with own_call():
            return action(repository)
    except ImportError as error:
        raise StoreError(f"artifacts at {shown} need a library that is not installed: {error}") from error
    except FileNotFoundError as error:
        raise NotFound(f"there is no such artifact at {shown}") from error
    except Exception as error:
        if getattr(error, "error_code", "") in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
            raise NotFound(f"there is no such artifact at {shown}") from error
        # Any storage library may be behind this; what it says may hold a signed URL, so only its type is told.
        raise StoreUnavailable(f"the artifact storage at {shown} failed ({type(error).__name__})") from error
