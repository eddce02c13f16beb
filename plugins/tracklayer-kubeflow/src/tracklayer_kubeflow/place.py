"""Where a task runs: which pipeline run, which task, which iteration, which try.

Three sources, the first that knows wins: what a local run of a tracked pipeline left for its tasks; what was baked into the
environment and what Kubernetes put there; and the path at which KFP wants the outputs, which names pipeline, run and
task on a cluster as well as in a local run::

    …/<pipeline>/<run: a UUID>/<task>/<salt: a UUID>/output_metadata.json          cluster
    …/<pipeline>-<time stamp>[/for-loop-2-iteration-0]/<component>/executor_output.json   local runner
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from tracklayer_kubeflow.variables import NODE, RETRY_INDEX, RUN_ID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_LOCAL_RUN: Final = re.compile(r"(?P<pipeline>.+)-(?P<time>\d{4}(?:-\d\d){5}-\d{6})")
_ITERATION: Final = re.compile(r".+-iteration-(\d+)")
_NODE_ITERATION: Final = re.compile(r"\((\d+):[^)]*\)")
_NODE_TRY: Final = re.compile(r"\((\d+)\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """As much as is known of where a task runs; None for what is not known.

    Attributes:
        pipeline: the pipeline's name.
        run_id: KFP's id of the pipeline run, or what the local runner calls it.
        task: the task's name on a cluster, the component's in a local run.
        index: the iterations of the loops around the task, outermost first (``1-0``).
        try_number: 1 for the first try.
        salt: what tells two executions of one task apart on a cluster.
        node: Argo's name of the task's node; empty if it is not known.
        local: True if KFP's local runner runs it.
        started_at: when the local run started, aware.
    """

    pipeline: str | None = None
    run_id: str | None = None
    task: str | None = None
    index: str | None = None
    try_number: int | None = None
    salt: str | None = None
    node: str = ""
    local: bool = False
    started_at: datetime | None = None


def place_of(paths: Sequence[str], environ: Mapping[str, str]) -> Place:
    """Where the task with these output paths runs, by the paths and the environment.

    >>> place_of(["/minio/mlpipeline/v2/artifacts/flights/0b1e0a50-2d4b-4b52-9c0f-6a2a4f0f5c11/train/"
    ...           "7d0f9d3c-9b0e-4f3a-8a7c-1f0d2c3b4a59/output_metadata.json"], {}).task
    'train'
    """
    found = next((place for path in paths if (place := _of_path(path)) is not None), Place())
    if found.local:
        return found
    node = environ.get(NODE, "")
    return Place(
        pipeline=found.pipeline,
        run_id=environ.get(RUN_ID) or found.run_id,
        task=found.task,
        index="-".join(_NODE_ITERATION.findall(node)) or None,
        try_number=_try_number(environ.get(RETRY_INDEX, ""), node),
        salt=found.salt,
        node=node,
    )


def is_cluster_run(run_id: str) -> bool:
    """True if this is how a cluster calls a pipeline run, and not how the local runner does.

    >>> is_cluster_run("0b1e0a50-2d4b-4b52-9c0f-6a2a4f0f5c11"), is_cluster_run("flights-2026-11-21-10-00-00-123456")
    (True, False)
    """
    return _UUID.fullmatch(run_id) is not None


def _of_path(path: str) -> Place | None:
    parts = PurePosixPath(path).parts
    return _of_local_path(parts) or _of_cluster_path(parts)


def _of_local_path(parts: Sequence[str]) -> Place | None:
    for position in reversed(range(len(parts) - 2)):  # the run's folder, at least a task's folder, and the file
        run = _LOCAL_RUN.fullmatch(parts[position])
        if run is None:
            continue
        groups = parts[position + 1 : -2]
        iterations = [found[1] for found in map(_ITERATION.fullmatch, groups) if found]
        return Place(
            pipeline=run["pipeline"],
            run_id=parts[position],
            task=parts[-2],
            index="-".join(iterations) or None,
            local=True,
            started_at=datetime.strptime(run["time"], "%Y-%m-%d-%H-%M-%S-%f").astimezone(),
        )
    return None


def _of_cluster_path(parts: Sequence[str]) -> Place | None:
    for position in range(1, len(parts) - 1):
        if _UUID.fullmatch(parts[position]):
            after = parts[position + 1 :]
            salt = after[1] if len(after) > 1 and _UUID.fullmatch(after[1]) else None
            task = after[0] if len(after) > 1 else None
            return Place(pipeline=parts[position - 1], run_id=parts[position], task=task, salt=salt)
    return None


def _try_number(retry_index: str, node: str) -> int | None:
    """Kubernetes' and Argo's count from 0; None where neither tells, which is also so for tasks without retries."""
    found = _NODE_TRY.search(node)
    text = retry_index or (found[1] if found else "")
    return int(text) + 1 if text.isdecimal() else None
