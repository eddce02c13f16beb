# mypy: disable-error-code="no-untyped-call"
"""The tracking store that MLflow gets for the schemes that it serves itself.

MLflow keeps one store for each tracking URI as long as the process lives, so whether a stage is open is asked at each
call. In a process of the MLflow server it is the stock store, as if tracklayer were not installed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tracklayer.context import Status

SERVER_VARIABLE: Final = "_MLFLOW_SERVER_FILE_STORE"
"""Set in every process of the MLflow server: it is how they are told their back end."""


def stage_store(store_uri: str, artifact_uri: str | None = None, **_: object) -> Any:
    """Build the store for `store_uri`; what the entry points of ``mlflow.tracking_store`` name.

    Args:
        store_uri: the tracking URI.
        artifact_uri: the root of artifacts, for stores that are databases.

    Returns:
        An instance of MLflow's own class for this scheme, or of a class below it that watches what is called inside
        stages.
    """
    stock = _stock_store(store_uri, artifact_uri)
    if SERVER_VARIABLE in os.environ:
        return stock
    from tracklayer.mlflow_plugins.active_runs import install
    from tracklayer.mlflow_plugins.stages import current_stage, guard

    with guard("watching MLflow's store"):
        from tracklayer.mlflow_plugins import waiting
        from tracklayer.mlflow_plugins.refusals import Refusals

        waiting.install()
        stock.__class__ = _watching(type(stock))
        stock.tracklayer_uri = store_uri
        stock.tracklayer_refusals = Refusals(rest=store_uri.startswith(("http:", "https:")))
        if current_stage() is not None:
            install()
    return stock


def stage_entered() -> None:
    """Give the stage a stack of active runs of its own; called when a stage begins in a process that has mlflow."""
    from tracklayer.mlflow_plugins.active_runs import install
    from tracklayer.mlflow_plugins.stages import guard

    with guard("giving a stage active runs of its own"):
        install()


def end_left_open(run_id: str, status: Status) -> None:
    """End the runs that user code started below a stage and left open; called when the stage has ended.

    Args:
        run_id: run id of the stage.
        status: how the stage ended; so end they.
    """
    from tracklayer.mlflow_plugins.ending import end_left_open as end

    end(run_id, status)


def _stock_store(store_uri: str, artifact_uri: str | None) -> Any:
    """The store that MLflow would have built; a server's has its read replica."""
    from mlflow.tracking._tracking_service import utils

    if store_uri.startswith(("http:", "https:")):
        return utils._get_rest_store(store_uri)  # noqa: SLF001 - MLflow has no public name for its builders
    if "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE" in os.environ:
        from mlflow.server.handlers import TrackingStoreRegistryWrapper

        return TrackingStoreRegistryWrapper._get_sqlalchemy_store(store_uri, artifact_uri)  # noqa: SLF001 - the same
    return utils._get_sqlalchemy_store(store_uri, artifact_uri)  # noqa: SLF001 - the same


def _watching(stock: type) -> type:
    """A class below the stock one, so that MLflow's isinstance checks hold, with `StageCalls` before it."""
    from tracklayer.mlflow_plugins.stage_calls import StageCalls

    return type(f"Stage{stock.__name__}", (StageCalls, stock), {"__module__": __name__, "__doc__": stock.__doc__})
