"""Where an MLflow server is and how to speak to it: its URI, credentials, certificates, proxy and workspace.

Everything comes from the tracking URI and from MLflow's own variables, so a pipeline that reaches its server with
MLflow reaches it with tracklayer too. Nothing secret is ever part of a `repr`, of `Endpoint.url`, or of a message.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from tracklayer.exceptions import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE = frozenset({"true", "1"})
_FALSE = frozenset({"false", "0", ""})
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")
_BROKEN_PORT = re.compile(r":(?!\d*$)[^\]]*$")
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:pass|token|secret|key|credential)[^=&]*=)[^&]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One MLflow server as one process may speak to it. Hashable: equal endpoints may share connections.

    Attributes:
        scheme: ``http`` or ``https``.
        host: host name or address, without brackets.
        port: port number.
        prefix: path below which the server lives (``/mlflow``), empty for none; never ends with a slash.
        authorization: value of the ``Authorization`` header, None for none. Secret.
        credentials_from: where the credentials were found, in words for messages; None if there are none.
        workspace: MLflow's workspace (``MLFLOW_WORKSPACE``), None for the server's default.
        verify: False only if ``MLFLOW_TRACKING_INSECURE_TLS`` says so.
        ca_bundle: file or folder of certificate authorities; None for those of the system (and certifi's).
        client_cert: PEM file with the client's certificate and key, None for none.
        proxy: URL of the proxy to go through, None for none. May hold a password: secret.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""
    authorization: str | None = field(default=None, repr=False)
    credentials_from: str | None = None
    workspace: str | None = None
    verify: bool = True
    ca_bundle: str | None = None
    client_cert: str | None = None
    proxy: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """Scheme, host and port, without prefix: what a request is sent to."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" if self.port == default else f"{self.scheme}://{host}:{self.port}"

    @property
    def url(self) -> str:
        """The server's address without credentials; safe to show, to log and to store."""
        return self.origin + self.prefix

    @classmethod
    def find(cls, uri: str, environ: Mapping[str, str] | None = None) -> Endpoint:
        """The endpoint of a tracking URI.

        Credentials are looked for in this order, which is MLflow's: ``user:password@`` in the URI,
        ``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD`` (each also from ``~/.mlflow/credentials``),
        ``MLFLOW_TRACKING_TOKEN``.

        Args:
            uri: ``http://…`` or ``https://…``, with a path if the server lives below one.
            environ: variables to read; None means the process's own.

        Raises:
            SettingsError: the URI is none, or the variables contradict each other or name a file that is not there.

        >>> Endpoint.find("https://ann:s3cret@mlflow.example/tracking/", {}).url
        'https://mlflow.example/tracking'
        """
        environ = os.environ if environ is None else environ
        try:
            parts = urlsplit(uri.strip())
            port = parts.port
        except ValueError:
            raise SettingsError("the tracking URI cannot be read: is it like http://host:5000?") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SettingsError("the tracking URI of an MLflow server begins with http:// or https:// and a host name")
        authorization, found_in = _authorization(parts, environ)
        workspace = environ.get("MLFLOW_WORKSPACE", "").strip()
        if workspace and not _HEADER_VALUE.fullmatch(workspace):
            raise SettingsError("MLFLOW_WORKSPACE holds a character that no workspace's name has")
        insecure = _flag(environ, "MLFLOW_TRACKING_INSECURE_TLS")
        ca_bundle = _existing(environ, "MLFLOW_TRACKING_SERVER_CERT_PATH")
        if insecure and ca_bundle:
            raise SettingsError(
                "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH are both set; unset one of them"
            )
        if ca_bundle is None and parts.scheme == "https" and not insecure:
            # The names that requests, and so MLflow's own client, reads.
            ca_bundle = _existing(environ, "REQUESTS_CA_BUNDLE") or _existing(environ, "CURL_CA_BUNDLE")
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or (443 if parts.scheme == "https" else 80),
            prefix=parts.path.rstrip("/"),
            authorization=authorization,
            credentials_from=found_in,
            workspace=workspace or None,
            verify=not insecure,
            ca_bundle=ca_bundle,
            client_cert=_existing(environ, "MLFLOW_TRACKING_CLIENT_CERT_PATH"),
            proxy=_proxy(parts, environ),
        )


def without_credentials(uri: str) -> str:
    """The URI as it may be shown: without the user name and password that it may hold.

    >>> without_credentials("postgresql://ann:s3cret@db:5432/mlflow")
    'postgresql://db:5432/mlflow'
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = rest.partition("/")
    if "@" in path and _BROKEN_PORT.search(authority):  # an unescaped slash in the password cut the authority short
        authority, slash, path = rest, "", ""
    # The last @ ends the credentials: a password may hold one that nobody escaped.
    shown = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    return _SECRET_QUERY.sub(r"\1***", shown)


def is_loopback(host: str) -> bool:
    """Whether a host name or address without brackets is this machine's own, never looked up or proxied."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _authorization(parts: SplitResult, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    if parts.username is not None and parts.password is not None:
        return _basic(unquote(parts.username), unquote(parts.password)), "the tracking URI"
    stored = _stored_credentials(environ)
    user = environ.get("MLFLOW_TRACKING_USERNAME") or stored.get("mlflow_tracking_username")
    password = environ.get("MLFLOW_TRACKING_PASSWORD") or stored.get("mlflow_tracking_password")
    if user and password:
        in_environment = environ.get("MLFLOW_TRACKING_USERNAME") and environ.get("MLFLOW_TRACKING_PASSWORD")
        names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return _basic(user, password), names if in_environment else "~/.mlflow/credentials"
    if token := environ.get("MLFLOW_TRACKING_TOKEN"):
        if not _HEADER_VALUE.fullmatch(token):
            raise SettingsError("MLFLOW_TRACKING_TOKEN holds a line break or a character that no header can carry")
        return f"Bearer {token}", "MLFLOW_TRACKING_TOKEN"
    return None, None


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _stored_credentials(environ: Mapping[str, str]) -> Mapping[str, str]:
    home = environ.get("HOME") or environ.get("USERPROFILE")
    if not home or not (path := Path(home, ".mlflow", "credentials")).is_file():
        return {}
    import configparser  # only for those who keep their credentials in a file

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        # Its text is not shown: a line that cannot be parsed may be the password.
        raise SettingsError("~/.mlflow/credentials cannot be read: it needs a [mlflow] section") from None
    return dict(parser["mlflow"]) if parser.has_section("mlflow") else {}


def _flag(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").strip().lower()
    if value not in _TRUE | _FALSE:
        raise SettingsError(f"{name} must be true or false (1 or 0)")
    return value in _TRUE


def _existing(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name)
    if not value:
        return None
    if not Path(value).exists():
        raise SettingsError(f"{name} names {value}, which does not exist")
    return value


def _proxy(parts: SplitResult, environ: Mapping[str, str]) -> str | None:
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    lower = {name.lower(): value for name, value in environ.items() if name.lower().endswith("_proxy") and value}
    # A lower-case variable wins over its upper-case twin, as in curl.
    lower |= {name: value for name, value in environ.items() if name.endswith("_proxy") and value}
    proxy = lower.get(f"{parts.scheme}_proxy") or lower.get("all_proxy")
    if not proxy or _bypasses(host, parts.port, lower.get("no_proxy", "")):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme not in {"http", "https"}:
        raise SettingsError(
            f"the proxy for {parts.scheme}:// (variables *_proxy) is not an HTTP proxy; "
            "use one, or name the MLflow server's host in NO_PROXY"
        )
    return proxy


def _bypasses(host: str, port: int | None, no_proxy: str) -> bool:
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        if not entry:
            continue
        if entry == "*":
            return True
        name, _, entry_port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        if entry_port and entry_port != str(port or ""):
            continue
        try:
            if ip_address(host) in ip_network(name, strict=False):
                return True
        except ValueError:
            suffix = name.lstrip("*").lstrip(".")
            if suffix and (host == suffix or host.endswith(f".{suffix}")):
                return True
    return False
