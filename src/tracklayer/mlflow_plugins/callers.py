"""Who called MLflow's store: what the store's own arguments do not say is read from the calling frames.

``create_run`` does not learn whether a run is nested, whether the user asked for it or MLflow itself needed one, or
which of the tags are the user's. All of that are arguments of MLflow's public functions further up the call stack.
Where MLflow has moved them, nothing is found, and the call counts as one of a client, which is left as it is.
"""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

FLUENT: Final = "mlflow.tracking.fluent"
DEEP: Final = 16
"""So many frames are looked at; MLflow needs 6 from ``start_run`` to the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """A call of ``mlflow.start_run``.

    Attributes:
        implicit: True if MLflow called it, because something was logged while no run was active.
        nested: the argument ``nested``.
        has_parent: True if a run is active in MLflow, or the argument ``parent_run_id`` names one.
        experiment_given: True if the argument ``experiment_id`` was given.
        name: the argument ``run_name``, None if it was not given.
        tags: names of the tags that the user gave, the description's included.
    """

    implicit: bool
    nested: bool
    has_parent: bool
    experiment_given: bool
    name: str | None
    tags: frozenset[str]


def start_run() -> StartRun | None:
    """The call of ``mlflow.start_run`` in which this code runs; None if there is none."""
    for frame in _frames():
        if _is(frame, FLUENT, "start_run"):
            told = frame.f_locals
            tags = told["tags"] if isinstance(told["tags"], Mapping) else {}
            note = {"mlflow.note.content"} if told["description"] else set()
            return StartRun(
                implicit=frame.f_back is not None and _is(frame.f_back, FLUENT, "_get_or_start_run"),
                nested=bool(told["nested"]),
                has_parent=told["parent_run_id"] is not None,
                experiment_given=told["experiment_id"] is not None,
                name=told["run_name"],
                tags=frozenset({str(name) for name in tags} | note),
            )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTable:
    """A call of ``log_table``, which reads the table that is there, appends to it, and stores the whole.

    Attributes:
        path: of the table among the artifacts.
        read: how many rows it has read, so far.
        begins: True until it has been told which artifacts there are.
    """

    path: str
    read: int
    begins: bool


def log_table() -> LogTable | None:
    """The call of ``MlflowClient.log_table`` in which this code runs; None if there is none."""
    for frame in _frames():
        if _is(frame, "mlflow.tracking.client", "log_table"):
            told = frame.f_locals
            before = told.get("existing_predictions")
            return LogTable(
                path=posixpath.normpath(str(told["artifact_file"])),
                read=0 if before is None else len(before),
                begins="artifacts" not in told,
            )
    return None


def sets_experiment() -> bool:
    """True inside a call of ``mlflow.set_experiment``."""
    return any(_is(frame, FLUENT, "set_experiment") for frame in _frames())


def logs_model() -> bool:
    """True inside a call that logs a model by one of MLflow's flavours."""
    return any(_is(frame, "mlflow.models.model", "log") for frame in _frames())


def creates_run() -> bool:
    """True where the context of a run is asked for to create one, rather than to describe a model or a dataset."""
    for frame in _frames():
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(("mlflow.tracking.context.", "tracklayer.mlflow_plugins.")):
            continue
        return _is(frame, FLUENT, "start_run") or not module.startswith("mlflow.")
    return False


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - inspect.stack reads source files, which takes ms
    for _ in range(DEEP):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _is(frame: FrameType, module: str, function: str) -> bool:
    return frame.f_code.co_name == function and frame.f_globals.get("__name__") == module
