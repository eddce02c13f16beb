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
        """The connection's form, for Airflow 3.1, which does not read it from the provider's metadata."""
        told = _declared()["ui-field-behaviour"]
        extra = '{"ca_file": "/etc/ssl/company.pem", "workspace": "team"}'
        return {
            "hidden_fields": told["hidden-fields"],
            "relabeling": told["relabeling"],
            "placeholders": {**told["placeholders"], "extra": extra},
        }

    @staticmethod
    def get_connection_form_widgets() -> dict[str, Any]:
        """The form's fields beside the usual ones, for Airflow 3.1; by the names of their keys in Extra."""
        # Airflow's own form needs neither of the two libraries: it puts classes of its own in the place of theirs.
        from flask_appbuilder.fieldwidgets import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            BS3PasswordFieldWidget,
            BS3TextFieldWidget,
        )
        from wtforms import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            BooleanField,
            PasswordField,
            StringField,
        )
        from wtforms.validators import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            Optional as MayBeEmpty,
        )

        made = {}
        for name, field in _declared()["conn-fields"].items():
            schema, description = field["schema"], field.get("description", "")
            if "boolean" in schema["type"]:
                made[name] = BooleanField(field["label"], description=description, default=schema["default"])
                continue
            secret = schema.get("format") == "password"
            kind, widget = (PasswordField, BS3PasswordFieldWidget) if secret else (StringField, BS3TextFieldWidget)
            made[name] = kind(field["label"], validators=[MayBeEmpty()], description=description, widget=widget())
        return made

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


def _declared() -> dict[str, Any]:
    """What the provider's metadata say of the connection."""
    from tracklayer_airflow.provider import get_provider_info

    info: dict[str, Any] = get_provider_info()
    declared: dict[str, Any] = info["connection-types"][0]
    return declared
