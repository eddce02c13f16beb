"""How requests leave."""

from __future__ import annotations

import io
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer.store.connection import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Counting(socket.socket):
    """A socket that knows what it was told to send, a part at a time."""

    sent: list[bytes]

    def sendall(self, data: Any, *flags: int) -> None:
        self.sent.append(bytes(data))
        super().sendall(data, *flags)


class CountedPool(Pool):
    """Connections whose sockets count."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.sent: list[bytes] = []

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connect = connection._new_conn

        def counted() -> Counting:
            made = connect()
            counting = Counting(fileno=made.detach())
            counting.sent = self.sent
            return counting

        connection._new_conn = counted
        return connection


@pytest.fixture
def pool() -> Iterator[CountedPool]:
    """Connections to a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as request:
                length = 0
                while line := request.readline():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                    elif line == b"\r\n":
                        request.read(length)
                        connection.sendall(ANSWER)
                        length = 0

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        made = CountedPool(server.getsockname()[1])
        yield made
        made.close()
        thread.join(10)


def test_a_request_with_a_body_leaves_at_once(pool: CountedPool) -> None:
    ours = [pool.urlopen(method, "/x", body=body).data for method, body in (("POST", b"the end"), ("GET", None))]
    assert ours == [b"ok", b"ok"]
    assert [data.endswith(b"the end") for data in pool.sent] == [True, False]
    assert pool.sent[0].startswith(b"POST /x HTTP/1.1\r\n")
    large = io.BytesIO(b"the " * 10_000 + b"end")  # sent in blocks, so that the time-out holds for each
    assert pool.urlopen("POST", "/x", body=large, headers={"Content-Length": "40003"}).data == b"ok"
    assert pool.sent[2].endswith(b"\r\n\r\n")
    assert b"".join(pool.sent[3:]) == large.getvalue()
