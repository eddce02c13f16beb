"""Connections that never take longer than they were given: name look-up and all addresses of a host included.

urllib3 gives each address of a host the whole connect time-out, and looking up its name no limit at all; a host
with four addresses behind a firewall, or a dead name server, would hold a task up for many times what was asked.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Sequence

Address: TypeAlias = tuple[Any, ...]
Option: TypeAlias = tuple[int, int, int | bytes]

IDLE_LIMIT: Final = 1.5
"""Seconds after which an idle connection is not used again. Servers drop theirs after 2 s (gunicorn) or 5 s
(uvicorn), and a request sent just then has an answer that may be lost: a `create_run` could not be repeated."""


def dial(host: str, port: int, seconds: float, options: Sequence[Option] = ()) -> socket.socket:
    """Connect to the first address of `host` that takes the connection, within `seconds` in all.

    Raises:
        TimeoutError: none did in time, or the name could not be looked up in time.
        socket.gaierror: there is no such host.
        OSError: every address refused; the last one's error.
    """
    deadline = time.monotonic() + seconds
    addresses = _addresses(host, port, seconds)
    failure: OSError = OSError(f"the name {host} has no address")
    for number, (family, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no connection to {host} within {seconds:g} s") from failure
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.settimeout(left / (len(addresses) - number))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            sock.settimeout(seconds)
            return sock
    raise failure


def _addresses(host: str, port: int, seconds: float) -> list[tuple[int, Address]]:
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    found: list[tuple[int, Address]] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(_look_up(host, port))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    # The C library's resolver takes no time-out, so it works on a thread of its own that nobody waits for longer.
    resolver = threading.Thread(target=look_up, name="tracklayer-resolver", daemon=True)
    resolver.start()
    resolver.join(seconds)
    if found:
        return found
    if failed:
        raise failed[0] if isinstance(failed[0], OSError) else OSError(f"{host} is not a valid host name")
    raise TimeoutError(f"the name {host} could not be looked up within {seconds:g} s")


def _look_up(host: str, port: int, flags: int = 0) -> list[tuple[int, Address]]:
    return [
        (int(family), address)
        for family, _, _, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, flags)
    ]


class _Timely:
    """What makes a connection of urllib3 keep to its time-outs."""

    last_used: float = 0.0

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        seconds = connection.timeout or 0.001
        try:
            # With the trailing dot that a full name may have, unlike `host`.
            sock = dial(connection._dns_host, connection.port, seconds, connection.socket_options or ())  # noqa: SLF001
        except socket.gaierror as error:
            raise NameResolutionError(connection.host, connection, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, str(error)) from error
        except OSError as error:
            raise NewConnectionError(connection, str(error)) from error
        sys.audit("http.client.connect", self, connection.host, connection.port)
        return sock


class _Whole:
    """What makes a connection of urllib3 send head and body of a request at once, where the body is small enough to be bytes.

    In two parts a request takes two system calls, and after each our thread has to get the interpreter back from whoever
    logs meanwhile; the server is woken twice, too.
    """

    _waits: bool = False
    _head: bytes = b""

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **more: Any) -> None:
        """Send a request. Raises OSError."""
        self._waits, self._head = isinstance(body, bytes) and body != b"", b""
        super().request(method, url, body, headers, **more)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send a part of a request: of one with a body the head waits for that. Raises OSError."""
        if self._waits:
            self._waits, self._head = False, data
            return
        head, self._head = self._head, b""
        super().send(head + data if head else data)  # type: ignore[misc]


class Connection(_Timely, _Whole, HTTPConnection):
    """A plain connection."""


class TlsConnection(_Timely, _Whole, HTTPSConnection):
    """A connection over TLS."""


class _Fresh:
    """What makes a pool of urllib3 hand out no connection that has been idle for long."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)  # type: ignore[misc]
        if not connection.is_closed and time.monotonic() - connection.last_used > IDLE_LIMIT:
            connection.close()
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.last_used = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]


class Pool(_Fresh, HTTPConnectionPool):
    """Plain connections to one server."""

    ConnectionCls = Connection


class TlsPool(_Fresh, HTTPSConnectionPool):
    """TLS connections to one server."""

    ConnectionCls = TlsConnection

    def _validate_conn(self, conn: Any) -> None:
        # urllib3 would warn at every request that nothing is verified; who set MLFLOW_TRACKING_INSECURE_TLS knows it.
        if conn.is_closed:
            conn.connect()
