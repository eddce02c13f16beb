"""The hook on connections of the type ``mlflow``."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient


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
        """The connection's form, for Airflows that do not read it from the provider's metadata (before 3.2)."""
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

        told = {**self.variables(), **more}
        names = {*more, *(VARIABLES if self.mlflow_conn_id is not None else ())}
        before = {name: os.environ.get(name) for name in names}
        try:
            for name in names:
                _set(name, told.get(name))
            yield
        finally:
            for name, value in before.items():
                _set(name, value)

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

    def get_conn(self) -> Any:
        """Not for MLflow: its client reads credentials from variables, so `client` is a block."""
        raise NotImplementedError("use: with MlflowHook(...).client() as client")

    def test_connection(self) -> tuple[bool, str]:
        """What Airflow's button *Test* asks: whether the server answers and takes the credentials."""
        from tracklayer.exceptions import TracklayerError
        from tracklayer.store.opening import open_store

        try:
            with self.environment():
                uri = os.environ.get("MLFLOW_TRACKING_URI", "")
                return True, f"MLflow {open_store(uri, connect_timeout=5, timeout=10).ping()}"
        except TracklayerError as error:
            return False, str(error)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
