"""A forwarder in front of a server that records every request and injures those that a test names; and dead ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from harness.process import hold_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

API = "/api/2.0/mlflow/"

HTML = b"<!doctype html><html><head><title>Sign in</title></head><body><h1>Please sign in</h1></body></html>"
"""What a login page or a gateway's error page looks like."""


@dataclass(frozen=True)
class Request:
    """One request as it came in.

    Attributes:
        method: HTTP method.
        path: path without the query, and without MLflow's ``/api/2.0/mlflow/`` before it.
        query: parameters of the query.
        headers: headers, with lower-case names.
        body: its body.
        connection: number of the connection that it came over.
        status: what it was answered with; 0 for no answer.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    connection: int
    status: int

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Answer:
    """What the server behind answered, or what a fault says instead."""

    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@dataclass
class Fault:
    """What happens to a request instead of being forwarded and answered; see `RecordingProxy.fault`.

    Attributes:
        action: what answers instead.
        path: how the path begins of the requests that it hits.
        times: how many of them it still hits.
        part: how much of the request's body is read before.
    """

    action: Callable[[_Handler], Answer | None]
    path: str
    times: int
    part: float = 1.0


class RecordingProxy:
    """Stands in front of a server, on a loopback port of its own, until it is closed.

    >>> with RecordingProxy("http://127.0.0.1:5000") as proxy:  # doctest: +SKIP
    ...     proxy.lost("runs/create")
    ...     RestStore(Endpoint.find(proxy.uri)).create_run("0", name="a", start_time=1, tags={})
    ...     [str(request) for request in proxy.requests]
    ['POST runs/create']
    """

    def __init__(self, target: str, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen.

        Args:
            target: ``http://host:port`` of the server behind.
            tls: speak TLS with this certificate; None for plain HTTP.
        """
        self.target = target
        self.requests: list[Request] = []
        self._tls = tls
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._connections = 0
        self._open: set[socket.socket] = set()
        self._released = threading.Event()
        self._held = hold_port()  # its own, also while nobody listens there
        self.port = int(self._held.getsockname()[1])
        self._server = self._listen()
        self.uri = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    # What was seen

    @property
    def calls(self) -> list[str]:
        """Method and path of every request so far, as in ``POST runs/log-batch``."""
        return [str(request) for request in self.requests]

    def of(self, path: str) -> list[Request]:
        """The requests to a path."""
        return [request for request in self.requests if request.path == path]

    def forget(self) -> None:
        """Forget all requests and faults."""
        self.requests.clear()
        self._faults.clear()

    # Faults. Each hits the next `times` requests whose path begins with `path`.

    def fault(self, action: Callable[[_Handler], Answer | None], path: str = "", times: int = 1) -> None:
        """Let `action` answer instead; None closes the connection without an answer."""
        self._faults.append(Fault(action, path, times))

    def answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        path: str = "",
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with this instead of asking the server: a 503, a 429 with ``Retry-After``, a web page."""
        self.fault(lambda _: Answer(status, body, headers or {"Content-Type": "text/html"}), path, times)

    def lost(self, path: str = "", times: int = 1) -> None:
        """Let the server do what is asked, and lose its answer: the connection is reset."""

        def lose(handler: _Handler) -> None:
            handler.forwarded()
            handler.reset()

        self.fault(lose, path, times)

    def late(self, seconds: float, path: str = "", times: int = 1) -> None:
        """Reset the connection when the request has come, and let the server do what is asked so much later."""

        def put_off(handler: _Handler) -> None:
            handler.reset()
            handler.rfile.close()  # the last that holds the connection open
            time.sleep(seconds)
            handler.forwarded()

        self.fault(put_off, path, times)

    def long(self, seconds: float, path: str = "", times: int = 1) -> None:
        """Let the server do what is asked, and hold its answer back so long."""

        def hold(handler: _Handler) -> Answer:
            answer = handler.forwarded()
            time.sleep(seconds)
            return answer

        self.fault(hold, path, times)

    def slow(self, seconds: float, path: str = "", times: int = 1) -> None:
        """Answer so much later."""

        def wait(handler: _Handler) -> Answer:
            time.sleep(seconds)
            return handler.forwarded()

        self.fault(wait, path, times)

    def reset(self, path: str = "", times: int = 1) -> None:
        """Reset the connection when the request has come, without asking the server."""
        self.fault(lambda handler: handler.reset(), path, times)

    def half(self, path: str = "", times: int = 1) -> None:
        """Send half of the answer's body, then reset the connection."""

        def cut(handler: _Handler) -> None:
            handler.send(handler.forwarded(), part=0.5)
            handler.reset()

        self.fault(cut, path, times)

    def truncated(self, path: str = "", times: int = 1) -> None:
        """Send half of the answer's body as if it were all of it."""

        def cut(handler: _Handler) -> Answer:
            whole = handler.forwarded()
            return Answer(whole.status, whole.body[: len(whole.body) // 2], whole.headers)

        self.fault(cut, path, times)

    def silence(self, path: str = "", times: int = 1) -> None:
        """Take the request and never answer; `close` ends the wait."""

        def wait(_: _Handler) -> None:
            self._released.wait()

        self.fault(wait, path, times)

    def hang_up(self) -> None:
        """Close all connections, as a server does with idle ones."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Refuse connections meanwhile: nobody listens at the port."""
        self._server.shutdown()
        self._server.server_close()
        self.hang_up()
        try:
            yield
        finally:
            self._server = self._listen()

    def close(self) -> None:
        """Stop listening and close everything."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._held.close()
        self.hang_up()
        for thread in threading.enumerate():
            if thread.name == f"proxy-{id(self)}":
                thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # Inside

    def _listen(self) -> ThreadingHTTPServer:
        proxy = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True
            request_queue_size = 128

            def get_request(self) -> tuple[Any, Any]:
                connection, address = super().get_request()
                if proxy._tls is not None:
                    # The handshake is left to the connection's own thread: a client that stalls stalls only itself.
                    connection = proxy._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                return connection, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Broken connections are what this proxy is for."""

        handler = type("Handler", (_Handler,), {"proxy": self})
        server = Server(("127.0.0.1", self.port), handler)
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True, name=f"proxy-{id(self)}"
        ).start()
        return server

    def _connected(self, connection: socket.socket) -> int:
        with self._lock:
            self._open.add(connection)
            self._connections += 1
            return self._connections

    def _disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def _next_fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120
    proxy: RecordingProxy

    def setup(self) -> None:
        self.number = self.proxy._connected(self.request)
        self.upstream: http.client.HTTPConnection | None = None
        if self.proxy._tls is not None:
            self.request.do_handshake()
        super().setup()

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        self.proxy._disconnected(self.request)
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        self.noted = False
        self.asked_for = self.path  # which a fault may change
        fault = self.proxy._next_fault(urlsplit(self.path).path.removeprefix(API))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length if fault is None else int(length * fault.part))
        answer: Answer | None = None
        try:
            answer = self.forwarded() if fault is None else fault.action(self)
        finally:
            self.note(0 if answer is None else answer.status)
        if answer is None:
            self.close_connection = True
        else:
            self.send(answer)

    def note(self, status: int = 0) -> None:
        """Record the request, once: before the client can see what became of it."""
        if self.noted:
            return
        self.noted = True
        parts = urlsplit(self.asked_for)
        self.proxy.requests.append(
            Request(
                method=self.command,
                path=parts.path.removeprefix(API),
                query=parse_qs(parts.query),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.body,
                connection=self.number,
                status=status,
            )
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every method is handled alike
            return self.handle_any
        raise AttributeError(name)

    def forwarded(self) -> Answer:
        """What the server behind answers."""
        target = urlsplit(self.proxy.target)
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(target.hostname or "", target.port, timeout=120)
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in {"connection", "content-length", "accept-encoding"}
        }
        headers["Content-Length"] = str(len(self.body))
        for last in (False, True):
            try:
                self.upstream.request(self.command, self.path, body=self.body, headers=headers)
                response = self.upstream.getresponse()
            except (http.client.RemoteDisconnected, ConnectionError):
                # The server drops idle connections after a while; that is not what is being tested.
                self.upstream.close()
                if last:
                    raise
            else:
                body = response.read()
                dropped = {"connection", "content-length", "transfer-encoding", "date", "server"}
                kept = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
                return Answer(response.status, body, kept)
        raise AssertionError("the last round raises")

    def send(self, answer: Answer, part: float = 1.0) -> None:
        """Send an answer, or the first part of its body."""
        self.note()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: int(len(answer.body) * part)])
        self.wfile.flush()

    def reset(self) -> None:
        """Reset the connection (RST instead of FIN)."""
        self.note()
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()
        self.close_connection = True


@contextmanager
def black_hole() -> Iterator[str]:
    """A loopback address at which connections are neither taken nor refused, as behind a firewall; its URI."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(3):  # fills the queue of connections that nobody takes; the kernel then drops what else comes
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield f"http://127.0.0.1:{address[1]}"


@contextmanager
def refused_port(port: int = 0) -> Iterator[str]:
    """A loopback address that refuses connections and that nobody else gets meanwhile; its URI.

    Args:
        port: the one that is to be refused from now on; 0 for any.
    """
    with hold_port(port) as sock:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
