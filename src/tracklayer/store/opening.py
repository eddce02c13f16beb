"""How a tracking URI becomes a store: one for each process, URI and set of credentials."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import SettingsError
from tracklayer.store.endpoint import Endpoint

if TYPE_CHECKING:
    from tracklayer.store import Store

_OPEN: Final = 16
"""Stores that are kept open; a process that speaks to more than one is rare."""


def open_store(uri: str, *, connect_timeout: float = 1.0, timeout: float = 5.0) -> Store:
    """The store of a tracking URI. Opens no connection, and imports mlflow only for a URI that needs it.

    The same URI, credentials and time-outs give the same store again, in the same process. A forked process gets
    one of its own. Variables with credentials are read anew each time, so a changed password is noticed.

    Args:
        uri: what MLflow takes as a tracking URI: ``http(s)://…`` goes over the REST API; anything else
            (``sqlite:///…``, ``postgresql://…``, ``databricks``, a path, …) through the mlflow library. A relative
            SQLite path or folder is meant relative to the present working directory.
        connect_timeout: seconds for a connection.
        timeout: seconds for an answer, repeats included.

    Raises:
        SettingsError: the URI or one of MLflow's own variables is wrong.
    """
    if not uri.strip():
        raise SettingsError("the tracking URI is empty")
    uri = uri.strip()
    if uri.lower().startswith(("http://", "https://")):
        endpoint = Endpoint.find(uri)
        if not needs_library(os.environ):
            return _rest(os.getpid(), endpoint, uri.rstrip("/"), connect_timeout, timeout)
    return _library(os.getpid(), absolute(uri), connect_timeout, timeout)


def forget() -> None:
    """Forget every store that was opened; its connections close when nobody uses it any more.

    The next `open_store` starts anew, without memory of servers that could not be reached.
    """
    for kept in (_rest, _library):
        kept.cache_clear()


def needs_library(environ: os._Environ[str] | dict[str, str]) -> bool:
    """Whether MLflow's variables ask for a way to log in that only MLflow's own client has (AWS SigV4, a plugin)."""
    return bool(environ.get("MLFLOW_TRACKING_AUTH")) or (
        environ.get("MLFLOW_TRACKING_AWS_SIGV4", "").strip().lower() in {"true", "1"}
    )


def absolute(uri: str) -> str:
    """The URI with its relative path, if it has one, made absolute, so that it means the same in every process.

    >>> absolute("sqlite:////srv/mlflow.db")
    'sqlite:////srv/mlflow.db'
    >>> absolute("databricks")
    'databricks'
    """
    scheme, separator, path = uri.partition(":///")
    if separator and (scheme == "sqlite" or scheme.startswith("sqlite+")) and path and not path.startswith(("/", ":")):
        return f"{scheme}:///{Path(path).absolute()}"
    if uri.startswith((".", "~")) or "/" in uri.partition(":")[0]:
        return str(Path(uri).expanduser().absolute())
    return uri


# The process id is part of the key: sockets and locks of a parent process are of no use to its fork.
@lru_cache(maxsize=_OPEN)
def _rest(pid: int, endpoint: Endpoint, uri: str, connect_timeout: float, timeout: float) -> Store:
    del pid
    from tracklayer.store.rest import RestStore

    return RestStore(endpoint, connect_timeout=connect_timeout, timeout=timeout, address=uri)


@lru_cache(maxsize=_OPEN)
def _library(pid: int, uri: str, connect_timeout: float, timeout: float) -> Store:
    del pid
    from tracklayer.store.library import LibraryStore

    return LibraryStore(uri, connect_timeout=connect_timeout, timeout=timeout)
