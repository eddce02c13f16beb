"""Beside KFP's own MLflow integration (in its back end since 2.17): its runs are adopted, never doubled or closed.

An administrator switches it on. It then makes a run for the pipeline run and one for each task, and closes them. What
it leaves to a task's container: ``MLFLOW_RUN_ID``, the task's own run, if it is told to; and
``KFP_MLFLOW_CONFIG``, which names the pipeline run's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracklayer.json_text import decoded

if TYPE_CHECKING:
    from collections.abc import Mapping

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """What KFP's own integration has made for this task.

    Attributes:
        run_id: the task's own run; None if the container is not told of it.
        parent_id: the pipeline run's run; None if it is not told.
        experiment_id: the experiment of both; None if it is not told.
        tracking_uri: where they are; None if it is not told.
    """

    run_id: str | None = None
    parent_id: str | None = None
    experiment_id: str | None = None
    tracking_uri: str | None = None


def native_of(environ: Mapping[str, str]) -> Native | None:
    """What the environment of a container says; None if the integration is off."""
    config = _config(environ.get("KFP_MLFLOW_CONFIG"))
    run_id = _id(environ.get("MLFLOW_RUN_ID"))
    parent_id, experiment_id = _id(config.get("parentRunId")), _id(config.get("experimentId"))
    if run_id is None and (parent_id is None or experiment_id is None):
        return None
    endpoint = config.get("endpoint")
    return Native(
        run_id=run_id,
        parent_id=parent_id,
        experiment_id=_id(environ.get("MLFLOW_EXPERIMENT_ID")) or experiment_id,
        tracking_uri=environ.get("MLFLOW_TRACKING_URI") or (endpoint if isinstance(endpoint, str) else None),
    )


def _config(text: str | None) -> dict[str, object]:
    try:
        told = decoded(text or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None
