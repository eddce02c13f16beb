"""Airflow in MLflow: the provider that tracks tasks as runs and links them across DAGs.

The shortest way that works::

    from airflow.sdk import dag, task

    @dag
    def flights():
        @task.tracked(stage="training")
        def train(): ...

        train()

Importing this package imports the standard library only, so that it costs nothing to parse a DAG file: names are
loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracklayer_airflow.hooks import MlflowHook
    from tracklayer_airflow.macros import experiment_id, parent_id, run_id, token
    from tracklayer_airflow.operator_class import tracked
    from tracklayer_airflow.operators import Tracked, TrackedPythonOperator
    from tracklayer_airflow.registry import RegisterModelOperator, SetModelAliasOperator
    from tracklayer_airflow.sensors import MlflowRunSensor, ModelAliasSensor

__version__ = "0.1.0"

__all__ = [
    "MlflowHook",
    "MlflowRunSensor",
    "ModelAliasSensor",
    "RegisterModelOperator",
    "SetModelAliasOperator",
    "Tracked",
    "TrackedPythonOperator",
    "__version__",
    "experiment_id",
    "parent_id",
    "run_id",
    "token",
    "tracked",
]

_HOME = {
    "MlflowHook": "hooks",
    "MlflowRunSensor": "sensors",
    "ModelAliasSensor": "sensors",
    "RegisterModelOperator": "registry",
    "SetModelAliasOperator": "registry",
    "Tracked": "operators",
    "TrackedPythonOperator": "operators",
    "experiment_id": "macros",
    "parent_id": "macros",
    "run_id": "macros",
    "token": "macros",
    "tracked": "operator_class",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
