"""Prefect flows and tasks as one linked story in MLflow.

::

    from prefect import flow, task
    from tracklayer_prefect import tracked_flow, tracked_task

    @tracked_task(stage="training")
    @task(retries=2)
    def train(rows: list[int]) -> float:
        import mlflow

        mlflow.log_metric("rows", len(rows))
        return sum(rows) / len(rows)

    @tracked_flow
    @flow
    def flights() -> float:
        return train([1, 2, 3])

Each flow run is a parent run in the flow's experiment, each try of a task a run below it. Importing this package
imports neither mlflow nor urllib3, opens no connection, and does not even import Prefect.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracklayer_prefect.carrier import token
    from tracklayer_prefect.decorators import tracked_flow, tracked_task

__version__ = "0.1.0"

__all__ = ["__version__", "token", "tracked_flow", "tracked_task"]

_HOME = {"token": "carrier", "tracked_flow": "decorators", "tracked_task": "decorators"}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"tracklayer_prefect.{_HOME[name]}"), name)
    globals()[name] = value
    return value
