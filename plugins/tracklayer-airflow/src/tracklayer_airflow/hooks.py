"""The hook on connections of the type ``mlflow``."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

    from tracklayer.store import Store


class MlflowHook(BaseHook):
    """MLflow, as an Airflow connection describes it.

    ::

        with MlflowHook("mlflow_default").client() as client:
            client.set_registered_model_alias("flights", "champion", "3")

    Args:
        mlflow_conn_id: the connection, see `tracklayer_airflow.connection` for its fields; None is MLflow's own
            variables (``MLFLOW_TRACKING_URI`` and the rest), as they are where the task runs.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str | None = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    @staticmethod
    def get_ui_field_behaviour() -> dict[str, Any]:
        """The connection's form, for an Airflow that does not read it from the provider's metadata."""
        return {
            "hidden_fields": [],
            "relabeling": {"host": "Tracking URI", "login": "User", "password": "Password or token"},
            "placeholders": {
                "host": "https://mlflow.example.com",
                "extra": '{"ca_file": "/etc/ssl/company.pem", "workspace": "team"}',
            },
        }

    def variables(self) -> dict[str, str]:
        """MLflow's variables for the connection; empty without one. The values may be secret.

        Raises:
            tracklayer.exceptions.SettingsError: the connection cannot be used for MLflow.
        """
        from tracklayer_airflow.connection import variables

        return {} if self.mlflow_conn_id is None else variables(self.get_connection(self.mlflow_conn_id))

    @contextmanager
    def environment(self, **more: str) -> Iterator[None]:
        """MLflow in this process, and what it starts, speaks to the connection's server meanwhile.

        Variables are a process's own, not a thread's: a task that does other things with MLflow in other threads
        opens a process for one of them.

        Args:
            more: further variables.
        """
        from tracklayer_airflow.connection import VARIABLES
        from tracklayer_airflow.server import environment

        names = VARIABLES if self.mlflow_conn_id is not None else ()
        with environment({**dict.fromkeys(names), **self.variables(), **more}):
            yield

    @contextmanager
    def client(self, *, retries: int | None = None, timeout: float | None = None) -> Iterator[MlflowClient]:
        """MLflow's client for the connection's server, which works within the block.

        Args:
            retries: how often MLflow repeats a request that got no answer; None is MLflow's default (7).
            timeout: seconds for each of them; None is MLflow's default (120).

        Raises:
            RuntimeError: mlflow is not installed where the task runs.
            tracklayer.exceptions.SettingsError: the connection cannot be used for MLflow.
        """
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise RuntimeError("mlflow is not installed where this task runs: pip install mlflow-skinny") from error
        more = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": retries, "MLFLOW_HTTP_REQUEST_TIMEOUT": timeout}
        with self.environment(**{name: f"{value:g}" for name, value in more.items() if value is not None}):
            # Told, because user code of this process may have called mlflow.set_tracking_uri.
            uri = self.variables().get("MLFLOW_TRACKING_URI")
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)

    @contextmanager
    def store(self, *, connect_timeout: float = 5, timeout: float = 60) -> Iterator[Store]:
        """The connection's server, as tracklayer itself speaks to it: without importing mlflow.

        Args:
            connect_timeout: seconds in which the server has to be reached.
            timeout: seconds for each answer.

        Raises:
            tracklayer.exceptions.SettingsError: the connection cannot be used for MLflow.
        """
        from tracklayer.store.opening import open_store

        with self.environment():
            uri = os.environ.get("MLFLOW_TRACKING_URI", "")
            with closing(open_store(uri, connect_timeout=connect_timeout, timeout=timeout)) as store:
                yield store

    def test_connection(self) -> tuple[bool, str]:
        """What Airflow's button *Test* asks: whether the server answers and takes the credentials."""
        from tracklayer.exceptions import TracklayerError

        try:
            with self.store(timeout=10) as store:
                return True, f"MLflow {store.ping()}"
        except TracklayerError as error:
            return False, str(error)
