# mypy: disable-error-code="no-untyped-call"
"""What an artifact repository does otherwise inside a stage: what cannot be stored now is kept, and delivered later.

An artifact is stored at once where its storage can be reached, as in plain MLflow: when ``log_artifact`` returns, it is
there. Only what is not stored is copied. As long as a copy of the same run waits, what comes later waits behind it, so
that an older file never replaces a newer one.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException

from tracklayer.exceptions import StoreError
from tracklayer.journal.failures import JournalError
from tracklayer.journal.pending import names_given_out, names_ids
from tracklayer.mlflow_plugins import tables, waiting
from tracklayer.mlflow_plugins.kept import Kept, kept_of, no_room, owner_of, refuse_to_ask
from tracklayer.mlflow_plugins.stages import guard
from tracklayer.store.calling import is_own_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tracklayer.journal.recorder import Recorder

    Files = Sequence[tuple[Path, str]]

T = TypeVar("T")

SLOWEST: Final = 1_048_576
"""A server that takes fewer bytes than this in a second is taken for one that is away."""

LARGE: Final = 100 * SLOWEST
"""From this size on a file may go to the storage in parts, past the server: MLflow knows how."""

UNREACHABLE: Final = frozenset({
    "ConnectTimeoutError", "ConnectionClosedError", "ConnectionError", "DeadlineExceeded", "EndpointConnectionError",
    "GatewayTimeout", "IncompleteReadError", "MaxRetryError", "NewConnectionError", "ProtocolError", "ProxyConnectionError",
    "ReadTimeoutError", "RetryError", "SSLError", "ServiceRequestError", "ServiceRequestTimeoutError", "ServiceResponseError",
    "ServiceResponseTimeoutError", "ServiceUnavailable", "Timeout", "TooManyRequests", "TransportError",
})  # fmt: skip
"""Names of the exceptions by which the libraries of the storages say that they do not reach them."""


class ArtifactCalls:
    """Stands before a stock repository's class, of which the rest is."""

    artifact_uri: str
    tracking_uri: str | None

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store a file, or keep it until it can be stored."""
        kept = self._kept()
        if kept is None:
            self._upload(local_file, artifact_path)
            return
        file = Path(local_file)
        self._store(kept, [(file, joined(artifact_path, file.name))], lambda: self._upload(local_file, artifact_path))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store the files of a folder, or keep them until they can be stored."""
        kept = self._kept()
        if kept is None:
            self._upload_folder(local_dir, artifact_path)
            return
        files = list(files_of(local_dir, artifact_path))
        self._store(kept, files, lambda: self._upload_folder(local_dir, artifact_path))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """The artifacts at `path`; while they cannot be asked for, those that are kept here."""
        kept = self._kept()
        if kept is not None and not self._readable(kept):
            tables.told(in_part=True)
            return listed(kept, self._below(path)) or self._none_kept(kept, path)
        tables.told(in_part=False, owner=(owner_of(self.artifact_uri) or (None,))[0])
        try:
            found: list[FileInfo] = self._asked(kept, lambda: self._stock.list_artifacts(path))
        except Exception as error:
            if kept is None or not tables.being_logged() or not is_unreachable(error, credentials=self._by_server):
                raise
            self._failed(kept, error)
            tables.told(in_part=True)
            return listed(kept, self._below(path))
        return found

    def _none_kept(self, kept: Kept, path: str | None) -> list[FileInfo]:
        """What is told where nothing is kept below `path` and nothing can be asked for: nothing, if that is right."""
        if path and kept.has(self._below(path)):
            return []  # of a file; MLflow asks for that before it reads one
        return [] if tables.being_logged() else self._not_readable()

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        kept = self._kept()
        if kept is not None and not self._readable(kept):
            if kept.fetch(self._below(remote_file_path), Path(local_path)):
                return
            if not self._readable(kept):
                self._not_readable()
        self._asked(kept, lambda: self._stock._download_file(remote_file_path, local_path))  # noqa: SLF001 - MLflow's own name

    # ------------------------------------------------------------------------------------------------ how it is stored

    def _upload(self, local_file: str, artifact_path: str | None) -> None:
        self._stock.log_artifact(local_file, artifact_path)

    def _upload_folder(self, local_dir: str, artifact_path: str | None) -> None:
        self._stock.log_artifacts(local_dir, artifact_path)

    def _store(self, kept: Kept, files: Files, upload: Callable[[], None]) -> None:
        """Store files at once, or keep them where that cannot be done; raise what MLflow does where neither can."""
        failure: Exception | None = None
        # Sent as it is, a table of which not everything could be read would replace the rest.
        in_part = any(tables.in_part(self._below(path)) for _, path in files)
        if not in_part and kept.direct(by_server=self._by_server):
            try:
                upload()
            except Exception as error:
                if not is_unreachable(error, credentials=self._by_server):
                    raise
                failure = error
                self._failed(kept, error)
            else:
                self._put_right(kept, files)
                return
        try:
            kept.add([(file, self._below(path)) for file, path in files], tried=failure is not None)
        except (JournalError, OSError) as error:
            if failure is not None:
                raise failure from None
            if in_part:
                no_room(error)
            upload()

    def _put_right(self, kept: Kept, files: Files) -> None:
        """Have a model's description stored once more, by the journal, where it names ids that were given out before it was.

        MLflow wrote it while the server was away, and could store it because the server was back by then.
        """
        with guard("putting the ids in a model right"):
            named = [(file, self._below(path)) for file, path in files if names_ids(path)]
            if named := [(file, path) for file, path in named if names_given_out(file.read_bytes())]:
                kept.add(named)

    def _failed(self, kept: Kept, error: Exception) -> None:
        kept.failed()
        if self._by_server and not is_answer(error):
            kept.recorder.unanswered()  # the first wait of an outage is the last one

    @property
    def _by_server(self) -> bool:
        """True if the artifacts go through the tracking server, so that they share its fate."""
        return bool(self.tracking_uri) and self.artifact_uri.startswith(f"{self.tracking_uri}".rstrip("/") + "/")

    def _below(self, path: str | None) -> str:
        """`path`, seen from the run or model to which this repository belongs."""
        owner = owner_of(self.artifact_uri)
        return joined(owner[1] if owner is not None else "", path or "")

    def _kept(self) -> Kept | None:
        """What is kept of the run or model; None if this is no stage's business."""
        with guard("finding the stage of an artifact"):
            owner = owner_of(self.artifact_uri)
            if owner is not None and not is_own_call():
                return kept_of(owner[0], self.tracking_uri)
        return None

    @property
    def _stock(self) -> Any:
        """This repository's methods as the stock class has them."""
        return super()

    def _asked(self, kept: Kept | None, action: Callable[[], T]) -> T:
        """The answer of the stock repository, inside a stage without waiting long for a server that is away."""
        if kept is None or not self._by_server:
            return action()
        settings = kept.settings
        return waiting.shortly(
            action, connect=settings.connect_timeout, answer=settings.timeout, there=lambda: answers(kept.recorder)
        )

    def _readable(self, kept: Kept) -> bool:
        """True if the storage has everything, and is there as far as one knows."""
        if (self._by_server and not kept.recorder.is_there()) or not kept.settle():
            return False
        kept.others_wait()
        return not (self._by_server and kept.recorder.away)

    def _not_readable(self) -> list[FileInfo]:
        refuse_to_ask(f"The artifacts at {self.artifact_uri}")


class HttpArtifactCalls(ArtifactCalls):
    """`ArtifactCalls` before the repositories that speak to an HTTP server: without their minutes of repeating."""

    def _upload(self, local_file: str, artifact_path: str | None) -> None:
        kept = self._kept()
        file = Path(local_file)
        size = file.stat().st_size
        if kept is None or size >= LARGE:
            super()._upload(local_file, artifact_path)
            return
        from mlflow.store.artifact.artifact_repo import verify_artifact_path
        from mlflow.utils.mime_type_utils import _guess_mime_type
        from mlflow.utils.request_utils import augmented_raise_for_status
        from mlflow.utils.rest_utils import http_request

        verify_artifact_path(artifact_path)
        with file.open("rb") as content:
            answer = http_request(
                self._host_creds,  # type: ignore[attr-defined]  # the stock class
                posixpath.join("/", artifact_path or "", file.name),
                "PUT",
                max_retries=0,
                raise_on_status=False,
                timeout=(kept.settings.patience, kept.settings.patience + size / SLOWEST),
                data=content,
                extra_headers={"Content-Type": _guess_mime_type(file.name)},
            )
            augmented_raise_for_status(answer)
            if self._by_server and answer.text.lstrip().startswith("<"):
                raise ConnectionError(f"a web page answers in the place of the MLflow server at {self.tracking_uri}")


def answers(recorder: Recorder) -> bool:
    """Whether the tracking server answers at all."""
    try:
        recorder.backend.store.ping()
    except StoreError:
        return False
    return True


def files_of(local_dir: str, artifact_path: str | None) -> Iterator[tuple[Path, str]]:
    """The files of a folder as MLflow stores them: pairs of a file and its path among the artifacts."""
    root = Path(local_dir).absolute()
    for folder, _, names in os.walk(root):
        below = Path(folder).relative_to(root)
        for name in names:
            yield Path(folder, name), joined(artifact_path, (below / name).as_posix())


def joined(above: str | None, path: str) -> str:
    """A path among artifacts, below another one; either may be empty.

    >>> joined("plots", "roc.png"), joined(None, "roc.png"), joined("plots", "")
    ('plots/roc.png', 'roc.png', 'plots')
    """
    return posixpath.join(above or "", path).strip("/")


def listed(kept: Kept, path: str) -> list[FileInfo]:
    """What is kept directly below `path`, as MLflow lists it; empty for a file, and where nothing is kept."""
    found: dict[str, FileInfo] = {}
    for name, copy in kept.copies(path):
        if name == path:
            continue
        inner, slash, _ = name.removeprefix(f"{path}/" if path else "").partition("/")
        here = joined(path, inner)
        found[here] = FileInfo(here, bool(slash), None if slash else copy.stat().st_size)
    return sorted(found.values(), key=lambda info: str(info.path))


def is_unreachable(error: BaseException | None, *, credentials: bool) -> bool:
    """True if a storage was not reached, or asked to be asked again; False if it said no, or the file is the trouble.

    Args:
        error: what its library raised.
        credentials: whether credentials that are not taken count as not reached: they may be restored.
    """
    for _ in range(8):
        if error is None:
            return False
        status = _status(error)
        if status is not None:
            return status >= 500 or status in {408, 429} or (credentials and status == 401)
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in UNREACHABLE:
            return True
        error = error.__cause__ or error.__context__
    return False


def is_answer(error: BaseException | None) -> bool:
    """True if an exception tells what a storage has answered; False if there was no answer."""
    for _ in range(8):
        if error is None:
            return False
        if _status(error) is not None:
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(error: Any) -> int | None:
    """The HTTP status in an exception of requests, botocore, azure or google; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {})
        found = response.get("HTTPStatusCode") if isinstance(response, dict) else None
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    if found is None and isinstance(error, MlflowException):
        return None
    return found if isinstance(found, int) else None
