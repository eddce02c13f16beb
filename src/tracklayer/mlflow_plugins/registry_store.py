# mypy: disable-error-code="no-untyped-call"
"""The model registry's store that MLflow gets for the schemes that it serves itself; see `tracklayer.mlflow_plugins.store`."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from tracklayer.mlflow_plugins.store import SERVER_VARIABLE


def stage_registry(store_uri: str, tracking_uri: str | None = None) -> Any:
    """Build the store for `store_uri`; what the entry points of ``mlflow.model_registry_store`` name.

    Args:
        store_uri: the registry's URI.
        tracking_uri: the tracking URI.

    Returns:
        An instance of MLflow's own class for this scheme, or of a class below it that watches what is registered
        inside stages.
    """
    from mlflow.tracking._model_registry import utils

    rest = store_uri.startswith(("http:", "https:"))
    build = utils._get_rest_store if rest else utils._get_sqlalchemy_store  # noqa: SLF001 - they have no public name
    stock = build(store_uri)
    if SERVER_VARIABLE in os.environ:
        return stock
    from tracklayer.mlflow_plugins.stages import guard

    with guard("watching MLflow's model registry"):
        stock.__class__ = _watching(stock.__class__)
        stock.tracklayer_uri = store_uri
        stock.tracklayer_later = set()
        stock.tracklayer_tracking_uri = tracking_uri or store_uri
    return stock


@lru_cache(maxsize=8)
def _watching(stock: type) -> type:
    """A class below the stock one, so that MLflow's isinstance checks hold, with `RegistryCalls` before it."""
    from tracklayer.mlflow_plugins.registry import RegistryCalls

    return type(f"Stage{stock.__name__}", (RegistryCalls, stock), {"__module__": __name__, "__doc__": stock.__doc__})
