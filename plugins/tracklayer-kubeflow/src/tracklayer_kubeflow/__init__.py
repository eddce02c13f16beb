"""tracklayer for Kubeflow Pipelines: pipeline runs, tasks and tries as linked MLflow runs.

::

    from kfp import dsl
    from tracklayer_kubeflow import tracked_component, tracked_pipeline

    @tracked_component(stage="training")
    @dsl.component(base_image="registry.example.com/ml/train:1")
    def train(data: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model], learning_rate: float): ...

    @tracked_pipeline
    @dsl.pipeline(name="churn")
    def churn(learning_rate: float = 0.1): ...

Importing this package imports neither kfp nor mlflow nor urllib3: containers import it too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracklayer_kubeflow.component import tracked_component
    from tracklayer_kubeflow.exit_task import finish_component
    from tracklayer_kubeflow.pipeline import TrackedPipeline, tracked_pipeline

__version__ = "0.1.0"

__all__ = ["TrackedPipeline", "finish_component", "tracked_component", "tracked_pipeline"]

_HOME = {
    "TrackedPipeline": "pipeline",
    "finish_component": "exit_task",
    "tracked_component": "component",
    "tracked_pipeline": "pipeline",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"tracklayer_kubeflow.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
