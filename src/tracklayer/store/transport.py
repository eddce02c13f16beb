"""Requests to an MLflow server: keep-alive connections, time-outs, and repeats where repeating is harmless."""

from __future__ import annotations

import io
import logging
import os
import ssl
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote, urlencode

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from tracklayer.exceptions import Refused, StoreError, StoreUnavailable
from tracklayer.jitter import spread
from tracklayer.store.answer import GATEWAY, Answer, error_of, is_conflict, not_json
from tracklayer.store.breaker import PAUSE, Breaker
from tracklayer.store.connection import Pool, TlsPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracklayer.store.endpoint import Endpoint

log = logging.getLogger(__name__)

DELAYS: Final = (0.1, 0.3, 0.6)
"""Seconds before the first, second and third repeat of a request (each ±25 %)."""

_UPLOAD_RATE: Final = 250_000
"""Bytes a second that a connection is expected to carry: a large body has longer than a small one."""

T = TypeVar("T")

_BLOCK: Final = 131_072
"""Bytes of a body that are sent at once: a full request of metric points (up to 100 KB) leaves without our thread having
to get the interpreter back, from whoever logs meanwhile, for each part of it."""

_CONNECTIONS: Final = 16


class Transport:
    """Requests to one server. Safe to use from several threads, and in a process forked from one that used it.

    One call lasts at most the connect time-out plus the time-out (plus what a large body takes to go over the wire),
    repeats included. After the server could not be reached, calls fail at once for `tracklayer.store.breaker.PAUSE`
    seconds, so that a dead server costs its user one connect time-out in all.
    """

    def __init__(self, endpoint: Endpoint, *, connect_timeout: float, timeout: float) -> None:
        """Open no connection yet.

        Args:
            endpoint: the server and the credentials for it.
            connect_timeout: seconds for name look-up, connection and proxy.
            timeout: seconds for an answer, repeats included.
        """
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._breaker = Breaker(probe=connect_timeout + timeout)
        self._manager: urllib3.PoolManager | None = None
        self._pid = 0
        self.renew(endpoint)

    def renew(self, endpoint: Endpoint) -> None:
        """Speak to the server with what `endpoint` says from now on: other credentials, certificates, proxy."""
        self.endpoint = endpoint
        headers = {"User-Agent": "tracklayer", "Accept": "application/json"}
        if endpoint.authorization:
            headers["Authorization"] = endpoint.authorization
        if endpoint.workspace:
            headers["X-MLFLOW-WORKSPACE"] = endpoint.workspace
        self._headers = headers
        self._manager = None

    def try_again(self) -> None:
        """Let the next request through, even if the server is being left alone after a failure."""
        self._breaker.half_open()

    def close(self) -> None:
        """Close all connections and forget failures. The next request opens a new one."""
        manager, self._manager = self._manager, None
        if manager is not None and self._pid == os.getpid():
            manager.clear()
        self._breaker.reached()

    def send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        repeat: bool,
        read: Callable[[bytes], T],
        query: Mapping[str, str] | None = None,
        body: bytes | Path | None = None,
        content_type: str = "application/json",
    ) -> T:
        """Send a request and return what `read` makes of the body of a successful answer.

        Args:
            method: HTTP method.
            path: path below the server's prefix, beginning with a slash, already escaped.
            what: what this asks for, in words that go on from "could not …", for messages.
            repeat: whether sending it twice is harmless. A request that is not is repeated only if the server can
                not have seen it (no connection, or refused by 429).
            read: reads the body; a ValueError of it means that the answer is not what MLflow sends, or half of that.
            query: parameters of the query, not yet escaped.
            body: what to send; a path for the content of that file, None for nothing.
            content_type: media type of `body`.

        Raises:
            StoreError: or one of its subclasses; see `tracklayer.store.answer`.
        """
        if left := self._breaker.left():
            raise StoreUnavailable(
                f"the MLflow server at {self.endpoint.url} could not be reached a moment ago; "
                f"it is left alone for another {left:.0f} s"
            )
        url = self.endpoint.url + path + (f"?{urlencode(query)}" if query else "")
        headers = dict(self._headers)
        size = _size(body)
        if body is not None:
            headers["Content-Type"] = content_type
            headers["Content-Length"] = str(size)
        deadline = time.monotonic() + self._timeout + size / _UPLOAD_RATE
        for delay in (*DELAYS, None):
            left = max(deadline - time.monotonic(), 0.05)
            try:
                answer = self._exchange(method, url, headers, body, left)
            except (HTTPError, OSError) as error:
                failure = self._failure(error, what)
                wait = delay if _repeatable(error, repeat) else None
                if wait is None or time.monotonic() + wait >= deadline:
                    self._judge_silence(error)
                    raise failure from error
            else:
                refused = error_of(answer, self.endpoint, what)
                if refused is None:
                    self._breaker.reached()
                    try:
                        return read(answer.body)
                    except ValueError:
                        refused = not_json(answer, self.endpoint)
                failure = refused
                later = isinstance(failure, StoreUnavailable) and (repeat or answer.status == 429)
                wait = max(delay, answer.retry_after or 0.0) if later and delay is not None else None
                if wait is None or time.monotonic() + wait >= deadline:
                    self._judge(answer, failure)
                    raise Refused(str(failure)) if later and is_conflict(failure) else failure
            log.debug("%s: repeated in %.1f s", failure, wait)
            time.sleep(wait * spread(0.75, 1.25))
        raise AssertionError("the last round raises")  # pragma: no cover

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Path | None, read_timeout: float
    ) -> Answer:
        # Sent in blocks: the time-out then holds for each of them, not for a large body as a whole.
        if isinstance(body, Path):
            with body.open("rb") as file:
                return self._exchanged(method, url, headers, file, read_timeout)
        content = body if body is None or len(body) <= _BLOCK else io.BytesIO(body)
        return self._exchanged(method, url, headers, content, read_timeout)

    def _exchanged(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | IO[bytes] | None, read_timeout: float
    ) -> Answer:
        response = self._connections().urlopen(
            method,
            url,
            body=content,
            headers=headers,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=self._connect_timeout, read=read_timeout),
        )
        lower = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status, headers=lower, body=response.data)

    def _judge_silence(self, error: Exception) -> None:
        if _never_sent(error):
            self._breaker.failed()
        elif isinstance(error, ReadTimeoutError):
            self._breaker.timed_out()

    def _judge(self, answer: Answer, failure: StoreError) -> None:
        asked = answer.retry_after
        if isinstance(failure, StoreUnavailable):
            failure.retry_after = asked
            failure.internal = failure.internal and asked is None
        if isinstance(failure, StoreUnavailable) and (answer.status in GATEWAY or (answer.status == 429 and asked)):
            self._breaker.failed(min(PAUSE, asked or PAUSE))
        else:
            self._breaker.reached()

    def _connections(self) -> urllib3.PoolManager:
        manager = self._manager
        if manager is None or self._pid != os.getpid():
            # A forked process must not speak over its parent's sockets.
            manager = self._manager = self._new_manager()
            self._pid = os.getpid()
        return manager

    def _new_manager(self) -> urllib3.PoolManager:
        endpoint = self.endpoint
        secure: dict[str, object] = {}
        if endpoint.scheme == "https" or (endpoint.proxy or "").startswith("https:"):
            secure["ssl_context"] = _tls(endpoint)
            if not endpoint.verify:
                secure["cert_reqs"] = "CERT_NONE"
        manager: urllib3.PoolManager
        if endpoint.proxy:
            proxy = urllib3.util.parse_url(endpoint.proxy)
            login = urllib3.make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy.auth else None
            plain = proxy._replace(auth=None).url
            if "ssl_context" in secure and proxy.scheme == "https":
                secure["proxy_ssl_context"] = secure["ssl_context"]
            manager = urllib3.ProxyManager(plain, proxy_headers=login, maxsize=_CONNECTIONS, **secure)  # type: ignore[arg-type]
        else:
            manager = urllib3.PoolManager(maxsize=_CONNECTIONS, **secure)  # type: ignore[arg-type]
        manager.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}
        return manager

    def _failure(self, error: BaseException, what: str) -> StoreError:
        endpoint = self.endpoint
        reason = error.original_error if isinstance(error, ProxyError) else error
        if isinstance(reason, SSLError | ssl.SSLError):
            return StoreUnavailable(_tls_trouble(reason, endpoint))
        if isinstance(error, ProxyError):
            return StoreUnavailable(
                f"the MLflow server at {endpoint.url} cannot be reached through the proxy of the *_proxy variables: "
                "check them, or name the server's host in NO_PROXY"
            )
        if isinstance(error, ConnectTimeoutError | NewConnectionError):
            return StoreUnavailable(
                f"cannot reach the MLflow server at {endpoint.url} ({_reason(error)}): is it running, and is the "
                "tracking URI right?"
            )
        if isinstance(error, ReadTimeoutError):
            return StoreUnavailable(f"the MLflow server at {endpoint.url} did not {what} within {self._timeout:g} s")
        return StoreUnavailable(
            f"the connection to the MLflow server at {endpoint.url} broke before it could {what} ({_kind(error)})"
        )


def _size(body: bytes | Path | None) -> int:
    return body.stat().st_size if isinstance(body, Path) else len(body or b"")


def _repeatable(error: Exception, harmless: bool) -> bool:
    # Neither is worth a second try within the same call: what cannot be reached in a second is behind a wall, and
    # where nobody listens now nobody will in a moment. Whoever can wait longer asks again later.
    if isinstance(error, ConnectTimeoutError | NewConnectionError) or _untrusted(error):
        return False
    return harmless or _never_sent(error)


def _never_sent(error: BaseException) -> bool:
    if isinstance(error, ProxyError):
        return isinstance(error.original_error, ConnectTimeoutError | NewConnectionError | OSError)
    return isinstance(error, ConnectTimeoutError | NewConnectionError) or _untrusted(error)


def _untrusted(error: BaseException) -> bool:
    return isinstance(error, SSLError) and ("CERTIFICATE" in str(error) or "WRONG_VERSION" in str(error))


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause)


def _kind(error: BaseException) -> str:
    inner = next((part for part in error.args if isinstance(part, Exception)), error)
    return str(inner) or type(inner).__name__


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if not endpoint.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif endpoint.ca_bundle:
            context = ssl.create_default_context(**{_kind_of_path(endpoint.ca_bundle): endpoint.ca_bundle})  # type: ignore[arg-type]
        else:
            _add_certifi(context)
        if endpoint.client_cert:
            context.load_cert_chain(endpoint.client_cert)
    except (ssl.SSLError, OSError) as error:
        raise StoreError(
            "a certificate file cannot be read (MLFLOW_TRACKING_SERVER_CERT_PATH, MLFLOW_TRACKING_CLIENT_CERT_PATH, "
            f"REQUESTS_CA_BUNDLE): {error}"
        ) from error
    return context


def _kind_of_path(path: str) -> str:
    return "capath" if Path(path).is_dir() else "cafile"


def _add_certifi(context: ssl.SSLContext) -> None:
    # MLflow's own client trusts certifi's list; what it can reach must be reachable from here too.
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def _tls_trouble(error: BaseException, endpoint: Endpoint) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
        return (
            f"the certificate of the MLflow server at {endpoint.url} cannot be verified: set "
            "MLFLOW_TRACKING_SERVER_CERT_PATH to the file of the authority that signed it"
        )
    if "WRONG_VERSION_NUMBER" in text:
        return f"what answers at {endpoint.url} does not speak TLS: should the tracking URI begin with http:// ?"
    return f"no TLS connection to the MLflow server at {endpoint.url}: {text}"
