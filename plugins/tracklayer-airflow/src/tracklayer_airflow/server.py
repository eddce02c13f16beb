"""The MLflow server that tasks are tracked at, where an Airflow connection names it (setting ``mlflow_conn_id``).

A task may ask Airflow for any connection. Elsewhere only what needs no metadata database is looked at: variables
``AIRFLOW_CONN_…`` and the secrets backend of Airflow's configuration.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")


def connection_id(settings: Settings | None = None) -> str | None:
    """The connection that is named: by ``[tracklayer] mlflow_conn_id`` in Airflow's configuration, else by the settings.

    Args:
        settings: tracklayer's settings; None loads them.

    Returns:
        None if none is named: then MLflow's own variables tell the server.

    Raises:
        tracklayer.exceptions.SettingsError: the settings are wrong.
    """
    from airflow.configuration import conf

    from tracklayer import settings as settings_module
    from tracklayer_airflow.settings import airflow_settings

    named = conf.get("tracklayer", "mlflow_conn_id", fallback=None)
    return named or airflow_settings(settings or settings_module.load()).mlflow_conn_id or None


@contextmanager
def of_task(conn_id: str) -> Iterator[None]:
    """Have tracking, MLflow, and what this process starts speak to the connection's server, from within a task.

    Raises:
        Exception: Airflow has no such connection, or it cannot be asked for it.
        tracklayer.exceptions.SettingsError: the connection cannot be used for MLflow.
    """
    from tracklayer_airflow.hooks import MlflowHook

    hook = MlflowHook(conn_id)
    with hook.environment(**_also(hook.variables())):
        yield


def connection_here() -> str | None:
    """As `connection_id`; None where Airflow is not loaded: it is not loaded for asking."""
    return connection_id() if "airflow.configuration" in sys.modules else None


def outside_of_tasks(conn_id: str | None) -> dict[str, str | None]:
    """The variables that lead to the connection's server, as far as that is known without the database.

    Args:
        conn_id: the connection; None if there is none.

    Returns:
        All that have to be set, or (None) taken away; empty if nothing is to change. The values may be secret.

    Raises:
        tracklayer.exceptions.SettingsError: the connection cannot be used for MLflow.
    """
    told = _without_database(conn_id) if conn_id else None
    if told is None:
        return {}
    from tracklayer_airflow.connection import VARIABLES

    return {**dict.fromkeys(VARIABLES), **told, **_also(told)}


@contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """These variables in this process within the block, and what they were afterwards; None is one that is not set."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        put(variables)
        yield
    finally:
        put(before)


def put(variables: Mapping[str, str | None]) -> None:
    """Set these variables in this process, and take those away that are None."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _also(told: dict[str, str]) -> dict[str, str]:
    """Tracklayer's own variable, that no setting leads elsewhere than the connection does."""
    from tracklayer_airflow.connection import URI

    return {"TRACKLAYER_TRACKING_URI": told[URI]}


@lru_cache(maxsize=4)
def _without_database(conn_id: str) -> dict[str, str] | None:
    """MLflow's variables for a connection; None if it is neither in a variable nor in the secrets backend."""
    from airflow.configuration import conf
    from airflow.sdk import Connection
    from airflow.secrets.environment_variables import EnvironmentVariablesBackend

    from tracklayer_airflow.connection import variables

    custom: Any = conf.get("secrets", "backend", fallback="") and _secrets_backend()
    for backend in filter(None, (custom, EnvironmentVariablesBackend())):
        if hasattr(backend, "_set_connection_class"):  # since Airflow 3.2
            backend._set_connection_class(Connection)  # noqa: SLF001  # what Airflow itself calls, too
        found = backend.get_connection(conn_id)
        if found is not None:
            return variables(found)
    log.warning(
        "tracking: the connection %r is not among the variables AIRFLOW_CONN_… nor in the secrets backend, so here, where "
        "the metadata database is not asked, MLflow's own variables tell where the parents of DAG runs are to be ended",
        conn_id,
    )
    return None


def _secrets_backend() -> Any:
    from airflow.configuration import get_custom_secret_backend

    return get_custom_secret_backend()
