"""The graph as JSON, for scripts: a stable schema, documented in ``docs/reference/cli.md``.

Fields are only ever added within one version of the schema; every field is always there, and null where it is not
known. Names are as they are in MLflow, unshortened.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tracklayer.lineage.graph import Graph

SCHEMA: Final = "tracklayer.lineage/1"


def render(graph: Graph) -> str:
    """JSON text, ending with a newline."""
    return json.dumps(as_dict(graph), indent=2, ensure_ascii=False) + "\n"


def as_dict(graph: Graph) -> dict[str, Any]:
    """The document as plain dictionaries and lists; moments are ISO 8601 in UTC."""
    runs = [{"type": "run", **_plain(asdict(run)), "group": run.group} for run in graph.runs]
    datasets = [{"type": "dataset", **_plain(asdict(dataset))} for dataset in graph.datasets]
    return {
        "schema": SCHEMA,
        "root": graph.root,
        "members": list(graph.members),
        "nodes": [*runs, *datasets],
        "edges": [_plain(asdict(edge)) for edge in graph.edges],
        "notices": list(graph.notices),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
