"""Who a run is: its key, the names of its index tags, and the token that carries it across a boundary.

A *key* is derived from where code runs, never passed around, so every process at the same place derives the same::

    <orchestrator>:<instance>/<workflow>/<workflow run>[/<task>[<map index>]#<try>]

Parts are percent-encoded, so that a slash in a DAG id cannot make two places look alike. MLflow's tag tables are
indexed by the tag's NAME first and have no index on values, so a key is found by a tag whose name ends with the
key's hash: one indexed look-up, however many runs there are.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final
from urllib.parse import quote, unquote

from tracklayer.context import RunContext, RunRef, TaskRun, Token, WorkflowRun
from tracklayer.exceptions import TokenError
from tracklayer.json_text import decoded

KEY_TAG: Final = "mlflow.tracklayer.key."
ATTEMPT_TAG: Final = "mlflow.tracklayer.task."
MEMBER_TAG: Final = "mlflow.tracklayer.member."
UPSTREAM_TAG: Final = "mlflow.tracklayer.upstream."
PRODUCED_TAG: Final = "mlflow.tracklayer.produced."
ROOT_TAG: Final = "mlflow.tracklayer.root"

PARENT_TAG: Final = "mlflow.parentRunId"
"""MLflow's own tag of a nested run: the id of the run above it."""
SUPERSEDED_TAG: Final = "tracklayer.superseded_by"
"""On a try that is not the last of its task: the id of the run of the next one."""
TAKEN_OVER_TAG: Final = "mlflow.tracklayer.taken_over"
"""On a run with which a later try goes on (``attempts = "reuse"``): when that began, in milliseconds since the epoch."""

TOKEN_PREFIX: Final = "tl1."  # noqa: S105 - not a password: what every token begins with
TOKEN_LIMIT: Final = 16_384
"""Longest token that is read, in characters. A real one has a few hundred; where ids are as long as an orchestrator takes
them (250 characters each in Airflow), and none of them ASCII, thousands."""

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SAFE = "-_.~:+@="
_KEY = re.compile(
    r"(?P<orchestrator>[^/:]+):(?P<instance>[^/]+)/(?P<workflow>[^/]+)/(?P<run_id>[^/]+)"
    r"(?:/(?P<task>[^/\[\]#]+)(?:\[(?P<index>[^/\[\]#]*)\])?#(?P<try_number>[0-9]{1,9}))?"
)


def _part(text: str) -> str:
    return quote(text, safe=_SAFE)


def workflow_run_key(workflow_run: WorkflowRun) -> str:
    """The key of a workflow run, that of its parent run.

    >>> workflow_run_key(WorkflowRun(orchestrator="airflow", workflow="flights", run_id="manual__2026-11-21"))
    'airflow:default/flights/manual__2026-11-21'
    """
    parts = (_part(workflow_run.workflow), _part(workflow_run.run_id))
    return f"{_part(workflow_run.orchestrator)}:{_part(workflow_run.instance)}/{'/'.join(parts)}"


def task_key(workflow_run: WorkflowRun, task_run: TaskRun) -> str:
    """The key of a task in a workflow run, whichever try: what the tries of one task have in common."""
    index = "" if task_run.index is None else f"[{_part(task_run.index)}]"
    return f"{workflow_run_key(workflow_run)}/{_part(task_run.task)}{index}"


def run_key(context: RunContext) -> str:
    """The key of the run that stands for `context`.

    >>> run = WorkflowRun(orchestrator="airflow", workflow="flights", run_id="r1")
    >>> run_key(RunContext(workflow_run=run, task_run=TaskRun(task="train", index="3", try_number=2)))
    'airflow:default/flights/r1/train[3]#2'
    """
    if context.task_run is None:
        return workflow_run_key(context.workflow_run)
    return f"{task_key(context.workflow_run, context.task_run)}#{context.task_run.try_number}"


def parse_key(key: str) -> tuple[WorkflowRun, TaskRun | None]:
    """The place that a key names: the inverse of `run_key`, as far as a key tells.

    Args:
        key: that of a stage run or of a workflow run's parent; an orchestrator's name must not have a colon in it.

    Returns:
        The workflow run and the try; None in place of the try for the key of a workflow run.

    Raises:
        ValueError: no run has this key.

    >>> workflow_run, task_run = parse_key("airflow:default/flights/r%2F1/train[3]#2")
    >>> workflow_run.run_id, task_run.task, task_run.index, task_run.try_number
    ('r/1', 'train', '3', 2)
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"not a key: {key[:200]!r}")
    parts = {name: None if text is None else unquote(text, errors="strict") for name, text in found.groupdict().items()}
    workflow_run = WorkflowRun(
        orchestrator=parts["orchestrator"] or "",
        instance=parts["instance"] or "",
        workflow=parts["workflow"] or "",
        run_id=parts["run_id"] or "",
    )
    task_run = None
    if parts["task"] is not None:
        task_run = TaskRun(task=parts["task"], index=parts["index"], try_number=int(parts["try_number"] or 1))
    if run_key(RunContext(workflow_run=workflow_run, task_run=task_run)) != key:
        raise ValueError(f"not a key, as parts of it are not escaped as in one: {key[:200]!r}")
    return workflow_run, task_run


def short_hash(text: str) -> str:
    """The first 32 hexadecimal digits (128 bits) of the SHA-256 of `text`: what index tags end with."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def key_tag(key: str) -> str:
    """Name of the tag by which the run with this key is found."""
    return KEY_TAG + short_hash(key)


def attempt_tag(key: str) -> str:
    """Name of the tag that all tries of one task share; `key` is that of `task_key`. Its value is the try."""
    return ATTEMPT_TAG + short_hash(key)


def member_tag(key: str) -> str:
    """Name of the tag that all stage runs of one workflow run share; `key` is that of `workflow_run_key`."""
    return MEMBER_TAG + short_hash(key)


def upstream_tag(run_id: str) -> str:
    """Name of the tag, on a consumer, that links it to the run `run_id`."""
    return UPSTREAM_TAG + run_id


def produced_tag(uri: str, digest: str | None = None) -> str:
    """Name of the tag by which the producers of a dataset are found, of exactly one digest if that is given."""
    return PRODUCED_TAG + short_hash(uri if digest is None else f"{uri}@{digest}")


def format_token(token: Token) -> str:
    """Write a token as one short string of printable ASCII, free of spaces and quotes.

    Returns:
        ``tl1.`` and URL-safe base64 of a JSON array; parse it with `parse_token`.
    """
    from base64 import urlsafe_b64encode

    run, parent = token.run, token.parent
    fields = [
        run.run_id,
        run.experiment_id,
        run.key or "",
        run.stage or "",
        *((parent.run_id, parent.experiment_id, parent.key or "") if parent else ("", "", "")),
        token.root or "",
    ]
    text = json.dumps(fields, separators=(",", ":"))
    return TOKEN_PREFIX + urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_token(text: object) -> Token:
    """Read a token that came from outside.

    Raises:
        TokenError: it is not a token, longer than `TOKEN_LIMIT`, or holds anything but well-formed ids.
    """
    from base64 import b64decode

    if not isinstance(text, str) or not text.startswith(TOKEN_PREFIX):
        raise TokenError(f"not a tracklayer token (it must begin with {TOKEN_PREFIX!r}): {str(text)[:40]!r}")
    if len(text) > TOKEN_LIMIT:
        raise TokenError(f"a token of {len(text)} characters is over the limit of {TOKEN_LIMIT}")
    body = text[len(TOKEN_PREFIX) :]
    try:
        fields = decoded(b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
    except ValueError as error:
        raise TokenError(f"a damaged token, {text[:40]!r}…: {error}") from None
    if not (isinstance(fields, list) and len(fields) == 8 and all(isinstance(field, str) for field in fields)):
        raise TokenError(f"a damaged token, {text[:40]!r}…: it must hold eight strings")
    run_id, experiment_id, key, stage, parent_id, parent_experiment, parent_key, root = fields
    ids = (run_id, experiment_id, parent_id or run_id, parent_experiment or experiment_id, root or run_id)
    for value in ids:
        if not _RUN_ID.fullmatch(value):
            raise TokenError(f"a token with a malformed id {value[:80]!r}")
    if any(not part.isprintable() for part in (key, stage, parent_key)):
        raise TokenError("a token with unprintable characters")
    parent = RunRef(run_id=parent_id, experiment_id=parent_experiment, key=parent_key or None) if parent_id else None
    run = RunRef(run_id=run_id, experiment_id=experiment_id, key=key or None, stage=stage or None)
    return Token(run=run, parent=parent, root=root or None)
