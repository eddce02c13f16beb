"""One tracking back end as this process uses it: its store, its experiments, the parents that are already known."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tracklayer import dispatch, registry
from tracklayer.experiments import Experiments
from tracklayer.forking import ProcessLock
from tracklayer.singleton import singleton
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tracklayer.context import RunRef
    from tracklayer.settings import Settings
    from tracklayer.store import Store

REMEMBERED = 1_000
"""So many parents are remembered in a process; a long-lived worker serves many workflow runs."""


class Backend:
    """A store with what this process has learned from it.

    Attributes:
        store: the store; its ``uri`` has no credentials.
        address: the tracking URI as it was configured, for other processes; never logged or shown.
        experiments: experiments by name.
    """

    def __init__(self, store: Store, address: str) -> None:
        self.store = store
        self.address = address
        self.experiments = Experiments(store)
        self._lock = ProcessLock()
        self._parents: dict[str, RunRef] = {}
        self.electing = ProcessLock()
        """Held while a parent is looked for, so that threads of one process do not compete for it."""

    def parent(self, key: str) -> RunRef | None:
        """The parent of the workflow run with this key, if this process has met it."""
        with self._lock:
            return self._parents.get(key)

    def remember(self, key: str, parent: RunRef) -> None:
        """Keep the parent of the workflow run with this key."""
        with self._lock:
            self._parents[key] = parent
            while len(self._parents) > REMEMBERED:
                del self._parents[next(iter(self._parents))]

    def forget(self, key: str) -> None:
        """Ask again next time: the workflow run has ended, or its parent is gone."""
        with self._lock:
            self._parents.pop(key, None)


def tracking_uri(settings: Settings) -> str | None:
    """Where runs are tracked; None means nowhere: tracking is off.

    Settings and MLflow's own variable come first. A process that has already called ``mlflow.set_tracking_uri``
    means that URI; mlflow is not imported to find out.
    """
    if settings.tracking_uri:
        return settings.tracking_uri
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and getattr(mlflow, "is_tracking_uri_set", bool)():
        return str(mlflow.get_tracking_uri())
    return None


def open_backend(settings: Settings) -> Backend | None:
    """The back end that the settings name; None if tracking is off (``enabled = false``, or no tracking URI).

    Raises:
        StoreError: there is no store for this URI, or the library for it is missing.
    """
    uri = tracking_uri(settings) if settings.enabled else None
    if uri is None:
        return None
    key = (os.getpid(), uri, settings.connect_timeout, settings.timeout, settings.plugins, settings.disabled_plugins)
    backend = _opened().get(key)
    if backend is None:
        strict = settings.on_error == "raise"
        store = dispatch.store(registry.load(settings), uri, strict=strict)
        if store is None:
            store = open_store(uri, connect_timeout=settings.connect_timeout, timeout=settings.timeout)
        backend = _opened().setdefault(key, Backend(store, uri))
    return backend


@singleton
def _opened() -> dict[Hashable, Backend]:
    """The back ends of this process by all that makes one; a fork, whose process id is another, opens its own."""
    return {}


def page_url(settings: Settings, store_uri: str, run: RunRef) -> str | None:
    """The run's page on the MLflow server; None where nobody serves one (a database URI without ``ui_url``)."""
    base = settings.ui_url or (store_uri if store_uri.startswith(("http://", "https://")) else None)
    if base is None:
        return None
    parts = urlsplit(base)
    host = parts.netloc.rpartition("@")[2]  # credentials are not for pages
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
