"""Looking up what a tracking server holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracklayer.store import Run, Store


def get(store: Store, run_id: str | None) -> Run:
    """A run whose id must have been given out."""
    assert run_id is not None
    return store.get_run(run_id)


def client(uri: str) -> Any:
    """MLflow's own client: what other people's tools see, and what the protocol has no method for."""
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)
