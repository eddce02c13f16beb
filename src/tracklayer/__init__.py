"""tracklayer: workflow runs of Airflow, Prefect and Kubeflow Pipelines as one linked story in MLflow.

The shortest way that works, in any script::

    import tracklayer

    with tracklayer.track(stage="training") as run:
        run.log_params({"model": {"lr": 0.1}})
        run.log_metrics({"auc": 0.91})

Importing this package imports neither mlflow nor urllib3, and opens no connection: names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracklayer.context import Link, RunContext, RunRef, State, TaskRun, Token, Upstream, WorkflowRun
    from tracklayer.hookspecs import hookimpl
    from tracklayer.outcome import Outcome
    from tracklayer.stage import StageRun
    from tracklayer.tracking import track
    from tracklayer.untracked import current_run

__version__ = "0.1.0"

__all__ = [
    "Link",
    "Outcome",
    "RunContext",
    "RunRef",
    "StageRun",
    "State",
    "TaskRun",
    "Token",
    "Upstream",
    "WorkflowRun",
    "__version__",
    "current_run",
    "hookimpl",
    "track",
]

_HOME = {
    "Link": "context",
    "Outcome": "outcome",
    "RunContext": "context",
    "RunRef": "context",
    "StageRun": "stage",
    "State": "context",
    "TaskRun": "context",
    "Token": "context",
    "Upstream": "context",
    "WorkflowRun": "context",
    "current_run": "untracked",
    "hookimpl": "hookspecs",
    "track": "tracking",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"tracklayer.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
