"""Nodes of the graph, made from what a tracking back end tells."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tracklayer.identity import PARENT_TAG, SUPERSEDED_TAG, short_hash
from tracklayer.json_text import decoded
from tracklayer.lineage.graph import DatasetNode, RunNode
from tracklayer.outcome import OUTCOME_TAG

if TYPE_CHECKING:
    from tracklayer.lineage.graph import State
    from tracklayer.store import Dataset, Run


def run_node(run: Run, state: State, experiment: str | None = None, url: str | None = None) -> RunNode:
    """A run as a node.

    Args:
        run: what the tracking back end tells of it.
        state: whether it is active or deleted.
        experiment: name of its experiment, None if that cannot be read.
        url: its page, None if it has none.
    """
    tags = run.tags
    return RunNode(
        id=run.run_id,
        state=state,
        name=run.name or None,
        experiment_id=run.experiment_id,
        experiment=experiment,
        stage=tags.get("tracklayer.stage"),
        status=run.status,
        outcome=tags.get(OUTCOME_TAG),
        orchestrator=tags.get("tracklayer.orchestrator"),
        workflow=tags.get("tracklayer.workflow"),
        workflow_run=tags.get("tracklayer.workflow_run"),
        key=tags.get("tracklayer.key"),
        parent=tags.get(PARENT_TAG),
        superseded_by=tags.get(SUPERSEDED_TAG),
        started_at=_moment(run.start_time),
        ended_at=_moment(run.end_time),
        url=url,
    )


def dataset_node(dataset: Dataset) -> DatasetNode:
    """A dataset as a node; the same version has the same id in every graph."""
    digest = None if dataset.digest == "unversioned" else dataset.digest
    uri = _uri(dataset.source)
    return DatasetNode(
        id=f"dataset:{short_hash(f'{uri or dataset.name}@{digest or str()}')}",
        name=dataset.name,
        uri=uri,
        digest=digest,
    )


def _uri(source: str) -> str | None:
    """Where a dataset is: MLflow's sources call it by different names."""
    try:
        told = decoded(source)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    names = ("uri", "url", "path", "delta_table_name", "table_name")
    return next((told[name] for name in names if isinstance(told.get(name), str) and told[name]), None)


def _moment(milliseconds: int | None) -> datetime | None:
    if milliseconds is None or milliseconds < 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # whatever a foreign client wrote there
        return None
