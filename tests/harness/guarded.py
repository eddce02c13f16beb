"""A real MLflow server that wants credentials: MLflow's own basic authentication."""

from __future__ import annotations

import base64
import json
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from harness.mlflow import MlflowServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADMIN: Final = "admin"
PASSWORD: Final = "S3cret/pass:word"


@contextmanager
def guarded_server(folder: Path) -> Iterator[MlflowServer]:
    """The server, with the administrator `ADMIN` and the user ``reader`` (``r34der-password``), who may only read."""
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\nadmin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\nauth_cache_ttl_seconds = 60\n"
    )
    environ = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
    }
    backend = f"sqlite:///{folder / 'mlflow.db'}"
    with MlflowServer(backend, folder, arguments=("--app-name", "basic-auth"), environ=environ) as server:
        login = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"{server.uri}/api/2.0/mlflow/users/create",
            data=json.dumps({"username": "reader", "password": "r34der-password"}).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Basic {login}"},
        )
        urllib.request.urlopen(request, timeout=20).close()
        yield server
