"""What the executor wrote about its outputs: read for metrics, and stamped with the stage run's token.

The file is KFP's ``ExecutorOutput`` as JSON. Artifact metadata travels with the artifact to whoever takes it as an
input, in this pipeline run or another, also when the task is cached; so the token in it is the hand-over.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracklayer_kubeflow.execution import Execution

TOKEN_KEY: Final = "tracklayer_token"  # noqa: S105 - the name of a metadata field
RUN_ID_KEY: Final = "mlflow_run_id"
URL_KEY: Final = "mlflow_run_url"

METRICS: Final = "system.Metrics"
UNSTAMPED: Final = frozenset({METRICS, "system.ClassificationMetrics", "system.SlicedClassificationMetrics"})
"""Kinds of artifacts whose metadata is data: KFP's own MLflow integration logs each field of it as a metric."""

_HUGE: Final = 10**300  # more does not fit a float

_LIMIT: Final = 32 * 1024 * 1024
"""An output file longer than this, in bytes, is left alone."""


def read(path: str | None) -> dict[str, Any] | None:
    """The executor's output; None if the file is missing, too long, or not a JSON object."""
    try:
        if path is None or Path(path).stat().st_size > _LIMIT:
            return None
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def metrics(output: Mapping[str, Any], execution: Execution) -> dict[str, float]:
    """Numbers that the component gave as outputs: those of Metrics artifacts, and output parameters with names.

    A component's only return value is called ``Output`` by KFP, which says nothing; it is left out.
    """
    kinds = {artifact.name: artifact.kind for artifact in execution.outputs}
    found: dict[str, float] = {}
    for name, artifact in _artifacts(output):
        if kinds.get(name) == METRICS:
            metadata = artifact.get("metadata")
            found.update(_numbers(metadata if isinstance(metadata, dict) else {}))
    parameters = output.get("parameterValues")
    named = _numbers(parameters if isinstance(parameters, dict) else {})
    return {**found, **{name: value for name, value in named.items() if name != "Output"}}


def stamp(path: str, output: Mapping[str, Any], execution: Execution, marks: Mapping[str, str]) -> bool:
    """Write `marks` into the metadata of every output artifact, all at once.

    Args:
        path: the executor's output file.
        output: what `read` gave for it.
        execution: tells the kinds of the artifacts.
        marks: flat text only; on a cluster other values change on their way.

    Returns:
        False if there is no artifact to stamp; the file is then left as it is.

    Raises:
        OSError: the file could not be replaced; it is as it was.
    """
    kinds = {artifact.name: artifact.kind for artifact in execution.outputs}
    text = json.dumps(output)
    stamped = json.loads(text)
    found = False
    for name, artifact in _artifacts(stamped):
        metadata = artifact.get("metadata", {})
        if kinds.get(name, "") in UNSTAMPED or not isinstance(metadata, dict | None):
            continue
        artifact["metadata"] = {**(metadata or {}), **marks}
        found = True
    if found:
        _replace(Path(path), json.dumps(stamped))
    return found


def _replace(path: Path, text: str) -> None:
    """Put a whole new file in the place of `path`, with its permissions."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        shutil.copymode(path, fresh)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _artifacts(output: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    artifacts = output.get("artifacts")
    for name, holder in artifacts.items() if isinstance(artifacts, dict) else ():
        several = holder.get("artifacts") if isinstance(holder, dict) else None
        for artifact in several if isinstance(several, list) else ():
            if isinstance(artifact, dict):
                yield name, artifact


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < _HUGE)
    }
