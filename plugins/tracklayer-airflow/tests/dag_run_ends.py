"""What the listener hears at the end of a DAG run, for the tests of what is done with it."""

from __future__ import annotations

from typing import Any

DAG = "closing"


def end_of(run_id: str, status: str = "FINISHED", error: str | None = None) -> dict[str, Any]:
    """What the listener hears about a DAG run."""
    facts = {
        "dag_id": DAG,
        "run_id": run_id,
        "version": None,
        "started_at": "2026-11-21T10:00:00+00:00",
        "logical_date": None,
        "description": None,
        "source": None,
        "dag_tags": ["flights"],
        "owner": "data-team",
        "params": {"year": 2013},
    }
    return {"facts": facts, "status": status, "error": error}
