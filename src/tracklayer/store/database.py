"""Databases behind the mlflow library: opened so that a dead or closed one fails at once, and safe after a fork.

MLflow retries for the better part of an hour to open a database that does not let it in, makes the tables of a new
one without a lock, and keeps its connections across a fork.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tracklayer.exceptions import AccessDenied, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "mssql": 1433, "http": 80, "https": 443}
_DATABASES: Final = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
_PATIENT_DRIVERS: Final = frozenset({"psycopg2", "psycopg", "pymysql", "mysqldb"})
"""Drivers that take the argument ``connect_timeout``."""
_LOCK_SECONDS: Final = 30.0
_SHUT: Final = ("authentication failed", "access denied", "no password supplied", "role ", "login failed")


def address(uri: str) -> tuple[str, int] | None:
    """Host and port that a tracking URI names; None if it names none, or one that is behind a proxy."""
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    except ValueError:
        return None
    proxied = parts.scheme in {"http", "https"} and any(name.lower().endswith("_proxy") for name in os.environ)
    return None if not parts.hostname or port is None or proxied else (parts.hostname, port)


def enter(uri: str, timeout: float) -> None:
    """See whether a database lets us in; no question for other URIs.

    Args:
        uri: a tracking URI.
        timeout: seconds for the connection, where the driver takes one.

    Raises:
        AccessDenied: it refuses user or password.
        StoreUnavailable: it cannot be opened for another reason.
        StoreError: a driver is missing.
    """
    scheme, _, driver = urlsplit(uri).scheme.partition("+")
    if scheme not in _DATABASES:
        return
    try:
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
        driver = driver or str(engine.dialect.driver)
        if driver in _PATIENT_DRIVERS:
            waits = {"connect_timeout": max(1, math.ceil(timeout))}
            engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool, connect_args=waits)
    except ImportError as error:
        raise StoreError(f"a {scheme} database needs a library that is not installed: {error.name or error}") from None
    try:
        engine.connect().close()
    except Exception as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        kind = AccessDenied if any(sign in reason.lower() for sign in _SHUT) else StoreUnavailable
        raise kind(f"the {scheme} database does not open: {reason}") from None


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Let one process of this machine at a time open a SQLite file."""
    scheme, _, path = uri.partition(":///")
    if not scheme.startswith("sqlite") or os.name != "posix" or not path or path.startswith(":"):
        yield
        return
    import fcntl

    folder = Path(path.partition("?")[0]).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


def engines(client: Any) -> Iterator[Any]:
    """The SQLAlchemy engines behind an MLflow client, if there are some; MLflow has no public name for them."""
    stores = [getattr(getattr(client, "_tracking_client", None), "store", None)]
    if hasattr(stores[0], "engine") and hasattr(client, "_get_registry_client"):
        stores.append(getattr(client._get_registry_client(), "store", None))  # noqa: SLF001 - no public name
    for store in stores:
        for name in ("engine", "read_engine"):
            if (engine := getattr(store, name, None)) is not None:
                yield engine


def take_over(client: Any) -> None:
    """Make a client's connections this process's own.

    MLflow keeps its engines for good, so a fork finds those of its parent, whose connections it must neither use
    nor close.
    """
    for engine in engines(client):
        owner = getattr(engine, "tracklayer_owner", None)
        if owner is not None and owner != os.getpid():
            engine.dispose(close=False)
        engine.tracklayer_owner = os.getpid()
