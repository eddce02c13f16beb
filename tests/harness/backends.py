"""Which databases and other means this machine offers to the tests, and databases of a test's own."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REQUIRE = "TRACKLAYER_REQUIRE_BACKENDS"
"""Variable with the names of the back ends and means that must be there: without them tests fail instead of being skipped."""

MEANS: Final = ("mounts", "namespaces", "compiler", "postgresql-programs")
"""What some faults are made with: small disks, machines of their own, a clock that can be turned, a PostgreSQL to kill."""

MISSING = "back end missing: "
"""How the reason of a skipped test begins if the machine lacks what it needs."""


def lacking(name: str, why: str) -> NoReturn:
    """The end of a test that needs one of `MEANS`: skipped, or failed if `REQUIRE` names it."""
    _end(f"{MISSING}{name} ({why})", required=name in _required(os.environ))


def _end(told: str, *, required: bool) -> NoReturn:
    if required:
        pytest.fail(f"{told} ({REQUIRE} asks for it)", pytrace=False)
    pytest.skip(told)


def _required(environ: Mapping[str, str]) -> set[str]:
    return {name.strip() for name in environ.get(REQUIRE, "").split(",") if name.strip()}


@dataclass(frozen=True)
class Backend:
    """A database server.

    Attributes:
        name: ``postgresql``, ``mysql`` or ``redis``.
        variable: the variable that says where it is.
        uri: where it is, with user and password if it wants them.
        required: whether a test that needs it fails where it is missing.
    """

    name: str
    variable: str
    uri: str
    required: bool = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.uri)
        ports = {"postgresql": 5432, "mysql": 3306, "redis": 6379}
        return parts.hostname or "127.0.0.1", parts.port or ports[self.name]

    def trouble(self) -> str | None:
        """Why it cannot be used; None if it can."""
        host, port = self.address
        try:
            socket.create_connection((host, port), timeout=2).close()
            self._log_in()
        except Exception as error:
            return f"{self.name} at {host}:{port} ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        return None

    def need(self) -> Backend:
        """This back end, or the end of the test: skipped, or failed if `REQUIRE` names it."""
        if trouble := self.trouble():
            _end(f"{MISSING}{trouble}; {self.variable} may say where it is", required=self.required)
        return self

    @contextmanager
    def database(self) -> Iterator[str]:
        """A new, empty database; its SQLAlchemy URI. Dropped at the end."""
        name = f"tracklayer_{uuid.uuid4().hex[:12]}"
        drivers = {"postgresql": "postgresql+psycopg2", "mysql": "mysql+pymysql"}
        parts = urlsplit(self.uri)
        self._administer(f"CREATE DATABASE {name}")
        try:
            yield f"{drivers[self.name]}://{parts.netloc}/{name}"
        finally:
            # Servers that were killed may still be logged in.
            self._administer(f"DROP DATABASE IF EXISTS {name}{' WITH (FORCE)' if self.name == 'postgresql' else ''}")

    def _log_in(self) -> None:
        if self.name == "redis":
            import redis

            with closing(redis.Redis.from_url(self.uri, socket_timeout=2)) as client:
                client.ping()
        else:
            self._connect().close()

    def _administer(self, statement: str) -> None:
        with closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement)

    def _connect(self) -> Any:
        host, port = self.address
        parts = urlsplit(self.uri)
        password = unquote(parts.password or "")
        if self.name == "mysql":
            import pymysql

            return pymysql.connect(
                host=host,
                port=port,
                user=parts.username or "root",
                password=password,
                connect_timeout=5,
                autocommit=True,
            )
        import psycopg2

        connection = psycopg2.connect(
            host=host,
            port=port,
            user=parts.username or "postgres",
            password=password or None,
            dbname=parts.path.strip("/") or "postgres",
            connect_timeout=5,
        )
        connection.autocommit = True
        return connection


def backends(environ: Mapping[str, str] | None = None) -> Mapping[str, Backend]:
    """The back ends that tests may ask for, by name.

    Raises:
        ValueError: `REQUIRE` names one that no test knows.
    """
    environ = os.environ if environ is None else environ
    required = _required(environ)
    places = {
        "postgresql": ("TRACKLAYER_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/postgres"),
        "mysql": ("TRACKLAYER_TEST_MYSQL", "mysql://root@127.0.0.1:3306"),
        "redis": ("TRACKLAYER_TEST_REDIS", "redis://127.0.0.1:6379/15"),
    }
    if unknown := required - {*places, *MEANS}:
        raise ValueError(f"{REQUIRE} names {', '.join(sorted(unknown))}; it may name {', '.join((*places, *MEANS))}")
    return {
        name: Backend(name, variable, environ.get(variable) or default, name in required)
        for name, (variable, default) in places.items()
    }
