"""The tags that core itself gives to runs and experiments.

Tags for people begin with ``tracklayer.`` and are few, because MLflow's page offers a column for each of them; index
tags begin with ``mlflow.``, which it hides, and are in `tracklayer.identity`.
"""

from __future__ import annotations

import getpass
from functools import lru_cache
from typing import TYPE_CHECKING

from tracklayer.context import SCRIPT
from tracklayer.description import NOTE_TAG
from tracklayer.identity import run_key
from tracklayer.params import valid_key
from tracklayer.redaction import Redaction

if TYPE_CHECKING:
    from tracklayer.context import RunContext
    from tracklayer.settings import Settings

EXPERIMENT_TAG_LIMIT = 5_000
"""MLflow's limit for the value of an experiment's tag, in characters."""

KIND_TAG = "mlflow.experimentKind"
MODEL_TRAINING = "custom_model_development"
"""What MLflow's page calls "Model training": the experiment opens on its runs rather than on traces of agents. Only
set where nobody has chosen, as with the selector on that page."""


def run_tags(context: RunContext) -> dict[str, str]:
    """The orchestrator's tags of the run of `context`, core's tags for people, and MLflow's own user and source."""
    tags = _place(context)
    tags["tracklayer.workflow_run"] = context.workflow_run.run_id
    tags["tracklayer.key"] = run_key(context)
    if context.stage:
        tags["tracklayer.stage"] = context.stage
    user = _user()
    if user:
        tags["mlflow.user"] = user
    tags["mlflow.source.name"] = context.workflow_run.source or context.workflow_run.workflow
    tags["mlflow.source.type"] = "LOCAL" if context.workflow_run.orchestrator == SCRIPT else "JOB"
    told = (context.task_run or context.workflow_run).tags
    return {**{str(name): str(value) for name, value in told.items()}, **tags}


def experiment_tags(context: RunContext, settings: Settings) -> dict[str, str]:
    """Tags of the experiment of `context`: the workflow's description and tags, its team and project."""
    tags = {KIND_TAG: MODEL_TRAINING, **_place(context)}
    if settings.team:
        tags["tracklayer.team"] = settings.team
    if settings.project:
        tags["tracklayer.project"] = settings.project
    if context.workflow_run.description:
        tags[NOTE_TAG] = context.workflow_run.description
    redaction = Redaction(settings.redact)
    for name, value in context.workflow_run.tags.items():
        tags.setdefault(valid_key(str(name)), str(redaction.mask(str(name), str(value))))
    return {name: value[:EXPERIMENT_TAG_LIMIT] for name, value in tags.items()}


def _place(context: RunContext) -> dict[str, str]:
    workflow_run = context.workflow_run
    tags = {"tracklayer.orchestrator": workflow_run.orchestrator, "tracklayer.workflow": workflow_run.workflow}
    if workflow_run.version:
        tags["tracklayer.workflow_version"] = workflow_run.version
    return tags


@lru_cache(maxsize=1)
def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user id without a name
        return None
