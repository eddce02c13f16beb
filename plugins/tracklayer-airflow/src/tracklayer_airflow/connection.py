"""An Airflow connection of the type ``mlflow``, as MLflow's own variables.

===================  =================================================================================================
field                what it is
===================  =================================================================================================
host                 the tracking URI (``https://mlflow.example.com/tracking``), or a host name alone
schema               ``http`` or ``https``, for a host name alone; ``https`` if there is none
port                 of the server, unless the host names one
login, password      of the user; or a token as password, without a login
extra                ``token``; ``insecure_tls`` (true: certificates are not checked); ``ca_file`` (certificate authorities);
                     ``client_cert`` (PEM file with certificate and key); ``workspace``
===================  =================================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from tracklayer.exceptions import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

URI: Final = "MLFLOW_TRACKING_URI"

_EXTRA: Final[Mapping[str, str]] = {
    "token": "MLFLOW_TRACKING_TOKEN",
    "insecure_tls": "MLFLOW_TRACKING_INSECURE_TLS",
    "ca_file": "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "client_cert": "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "workspace": "MLFLOW_WORKSPACE",
}
"""MLflow's variables by the names in ``extra``."""

VARIABLES: Final = (URI, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", *_EXTRA.values())
"""All that a connection decides: one that it does not name is not taken from anywhere else."""


_KINDS: Final = {list: "list", dict: "table", float: "fraction"}
"""What else there is in JSON, by what Python makes of it."""


class Fields(Protocol):
    """What is read of Airflow's ``Connection``."""

    conn_id: str
    host: str | None
    schema: str | None
    port: int | None
    login: str | None
    password: str | None

    @property
    def extra_dejson(self) -> Any:
        """The field ``extra``, read as JSON."""


def variables(connection: Fields) -> dict[str, str]:
    """MLflow's variables for a connection.

    Raises:
        SettingsError: the connection names no server, or contradicts itself; the message names the field.
    """
    told = {URI: _uri(connection)}
    extra = _extra(connection)
    if connection.login:
        told["MLFLOW_TRACKING_USERNAME"] = connection.login
        told["MLFLOW_TRACKING_PASSWORD"] = connection.password or ""
    elif connection.password:
        extra.setdefault("token", connection.password)
    if extra.get("token") and connection.login:
        raise _wrong(connection, "it has a login and a token; MLflow takes one of them")
    for name, variable in _EXTRA.items():
        value = extra.get(name)
        if value is not None and value is not False and value != "":
            told[variable] = "true" if value is True else str(value)
    return told


def _extra(connection: Fields) -> dict[str, Any]:
    try:
        given = connection.extra_dejson or {}
    except RecursionError:  # which Airflow lets through
        given = None
    if not isinstance(given, dict):
        raise _wrong(connection, 'its extra is no table: write it as {"workspace": "team"}')
    if unknown := sorted(set(given) - set(_EXTRA)):
        raise _wrong(connection, f"extra has {', '.join(unknown)}; known are {', '.join(_EXTRA)}")
    for name, value in given.items():  # not shown: it may be the token
        if not isinstance(value, str | int | None):
            raise _wrong(connection, f"{name} in its extra must be text, or true or false, not a {_KINDS[type(value)]}")
    return {**given}


def _uri(connection: Fields) -> str:
    host = (connection.host or "").strip()
    if not host:
        raise _wrong(connection, "it has no host: write the tracking URI there, as https://mlflow.example.com")
    if "://" in host:
        try:
            parts = urlsplit(host)
            port = parts.port
        except ValueError:
            raise _wrong(connection, "its host is no URI") from None
        if parts.username or parts.password:
            raise _wrong(connection, "its host holds credentials: write them into login and password")
        if connection.port and port is None and parts.netloc:
            return parts._replace(netloc=f"{parts.netloc}:{connection.port}").geturl()
        return host
    schema = (connection.schema or "https").lower()
    if schema not in {"http", "https"}:
        raise _wrong(connection, f"its schema is {schema!r}: it is http or https")
    name, slash, path = host.partition("/")
    if name.count(":") > 1 and not name.startswith("["):  # IPv6, as Airflow reads it out of a connection's URI
        name = f"[{name}]"
    return f"{schema}://{name}" + (f":{connection.port}" if connection.port else "") + slash + path


def _wrong(connection: Fields, why: str) -> SettingsError:
    return SettingsError(f"the connection {connection.conn_id!r} cannot be used for MLflow: {why}")
