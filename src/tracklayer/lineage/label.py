"""What nodes are called in pictures: short, and harmless whoever chose the names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracklayer.lineage.graph import DatasetNode, Edge, RunNode

_KINDS = {
    "hand-over": "handed over",
    "token": "by token",
    "data": "by data",
    "reused": "its cached result was used again",
    "nested": "within",
    "input": "read",
    "output": "made",
}


def printable(text: str, limit: int = 120) -> str:
    r"""`text` on one line, without characters that steer a terminal, and shortened in its middle.

    >>> printable("two\nlines and \x1b[31mred")
    'two lines and ?[31mred'
    """
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "?" for character in line) or "?"
    if len(line) <= limit:
        return line
    tail = limit // 3
    return f"{line[: limit - tail - 1]}…{line[-tail:]}"


def run_title(run: RunNode) -> str:
    """Its name, else its stage, else the beginning of its id."""
    return printable(run.name or run.stage or run.id[:8])


def run_facts(run: RunNode) -> list[str]:
    """What is worth a word about a run, beside its name: stage, status, how long it took."""
    if run.state == "missing":
        return ["not in this tracking server"]
    if run.state == "hidden":
        return ["not readable with these credentials"]
    facts = [run.stage if run.stage and run.stage != run.name else None, run.status, run.outcome, duration(run)]
    if run.state == "deleted":
        facts.append("DELETED")
    if run.superseded_by:
        facts.append("superseded by a later try")
    return [printable(fact) for fact in facts if fact]


def group_title(run: RunNode) -> str | None:
    """The workflow run to which `run` belongs; None if tracklayer did not make it."""
    if run.workflow is None and run.orchestrator is None:
        return None
    place = " / ".join(printable(part) for part in (run.workflow, run.workflow_run) if part)
    return " ".join(part for part in (printable(run.orchestrator or ""), place) if part)


def dataset_title(dataset: DatasetNode) -> str:
    """Where it is, else its name."""
    return printable(dataset.uri or dataset.name)


def edge_label(edge: Edge) -> str:
    """How one came from the other: ``by data s3://bucket/flights/ @1f2e3d4c``."""
    parts = [_KINDS[edge.kind]]
    if edge.dataset:
        parts.append(printable(edge.dataset))
    if edge.digest:
        parts.append(digest(edge.digest))
    return " ".join(parts)


def digest(text: str) -> str:
    """The beginning of a dataset's digest, enough to compare."""
    return f"@{printable(text)[:12]}"


def duration(run: RunNode) -> str | None:
    """How long it took; None if it has not ended.

    >>> from datetime import UTC, datetime
    >>> from tracklayer.lineage.graph import RunNode
    >>> noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    >>> duration(RunNode(id="1", started_at=noon, ended_at=noon.replace(minute=1, second=3)))
    '1 min 3 s'
    """
    if run.started_at is None or run.ended_at is None:
        return None
    seconds = max((run.ended_at - run.started_at).total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
