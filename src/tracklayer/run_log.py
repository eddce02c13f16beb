"""What user code can log on a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracklayer.exceptions import StoreError
from tracklayer.fence import fence, log
from tracklayer.journal.upload import upload

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from tracklayer.journal.recorder import Recorder
    from tracklayer.logbook import Logbook
    from tracklayer.settings import Settings

DIRECT: Final = 1_048_576
"""A file of more bytes than that is stored at once, if the server takes it; a smaller one is copied aside."""


class RunLog:
    """The part of a stage run that user code logs with: each call is in the journal when it returns.

    Attributes:
        settings: the settings with which the run was opened.
        run_id: its local id; None when tracking is off.
    """

    settings: Settings
    run_id: str | None
    _book: Logbook | None

    @property
    def recorder(self) -> Recorder | None:
        """What writes down what is logged here, in this process; None when tracking is off."""
        return None

    def log_param(self, key: str, value: object) -> None:
        """Log one param; see `log_params`."""
        self.log_params({key: value})

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log params. Nested ones are flattened (``{"model": {"lr": 0.1}}`` is ``model.lr``), none is cut or lost.

        What looks like a secret is masked. As in MLflow, a param that was logged keeps its first value.
        """
        with fence("logging params", self.settings.on_error):
            if params and (book := self._book) is not None and (recorder := self.recorder) is not None:
                book.params(recorder, params)

    def log_metric(self, key: str, value: float, step: int = 0) -> None:
        """Log one metric point; see `log_metrics`."""
        self.log_metrics({key: value}, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metric points of now.

        Args:
            metrics: numbers (NaN and infinities too) by name.
            step: the iteration, epoch or fold that they belong to.
        """
        with fence("logging metrics", self.settings.on_error):
            if (book := self._book) is not None and (recorder := self.recorder) is not None:
                book.metrics(recorder, metrics, step)

    def set_tag(self, key: str, value: object) -> None:
        """Set one tag; see `set_tags`."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags. The last value of a tag counts; what looks like a secret is masked."""
        with fence("setting tags", self.settings.on_error):
            if (book := self._book) is not None and (recorder := self.recorder) is not None:
                book.tags(recorder, tags)

    def log_dict(self, dictionary: Mapping[str, Any] | list[Any], path: str) -> None:
        """Store a dictionary or list as a JSON artifact at `path` (YAML is MLflow's own ``log_dict``'s)."""
        with fence(f"storing {path}", self.settings.on_error):
            self._store_artifact(path, json.dumps(dictionary, indent=2, default=str).encode())

    def log_text(self, text: str, path: str) -> None:
        """Store `text` as an artifact at `path`, in UTF-8."""
        with fence(f"storing {path}", self.settings.on_error):
            self._store_artifact(path, text.encode("utf-8", "backslashreplace"))

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """Store a local file, or every file below a local folder, as artifacts.

        A small file is copied aside and stored from there; one of more than a megabyte is stored at once, and copied
        aside only if the server does not take it.

        Args:
            local_path: the file or folder.
            artifact_path: the folder among the run's artifacts to put it in; None is the top.
        """
        with fence(f"storing {local_path}", self.settings.on_error):
            source = Path(local_path)
            top = f"{artifact_path.strip('/')}/" if artifact_path else ""
            files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
            for file in files:
                self._store_artifact(f"{top}{file.relative_to(source.parent).as_posix()}", file)

    def _store_artifact(self, path: str, source: Path | bytes) -> None:
        book, recorder = self._book, self.recorder
        if book is None or recorder is None:
            return
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > DIRECT:
            try:
                if upload(recorder, self.run_id or "", path, source):
                    return
            except StoreError as error:
                log.info("artifact %s is kept until the server takes it: %s", path, error)
        book.artifact(recorder, path, source)
