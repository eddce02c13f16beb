"""Whether anything is tracked here, found out without importing anything of tracklayer's core.

By the switch in Airflow's own configuration, ``[tracklayer] enabled`` or ``AIRFLOW__TRACKLAYER__ENABLED``, and by whether
anything says where MLflow's server may be.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLES: Final = ("MLFLOW_TRACKING_URI", "TRACKLAYER_TRACKING_URI", "TRACKLAYER_AIRFLOW_MLFLOW_CONN_ID")
"""Those that say where the server is, or which connection does. No other variable of tracklayer's leads to one."""

SETTINGS: Final = (b"tracking_uri", b"mlflow_conn_id")
"""The same in a file."""


def is_on() -> bool:
    """Whether DAGs are tracked. Where they are not, nothing of tracklayer's core is imported and no process is started.

    Raises:
        airflow.exceptions.AirflowConfigException: the option is neither true nor false.
    """
    from airflow.configuration import conf

    return bool(conf.getboolean("tracklayer", "enabled", fallback=True))


def is_listening() -> bool:
    """Whether somebody is to hear of ends here: tracking and the listener are on, and a server is known.

    Raises:
        airflow.exceptions.AirflowConfigException: the switch is neither true nor false.
        tracklayer.exceptions.TracklayerError: a setting is wrong.
    """
    # Every task's process asks: nothing is imported here that only a tracked one needs.
    if not is_on() or not is_spoken_of():
        return False
    from tracklayer import settings as settings_module
    from tracklayer_airflow.server import connection_id
    from tracklayer_airflow.settings import airflow_settings

    settings = settings_module.load()
    if not settings.enabled or not airflow_settings(settings).listener:
        return False
    return bool(settings.tracking_uri or connection_id(settings))


def is_spoken_of() -> bool:
    """Whether anything says where MLflow's server may be, so that settings are worth reading; nothing is imported here.

    One of `VARIABLES`, Airflow's option ``mlflow_conn_id``, or a file with settings that names one of the two.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return True
    from airflow.configuration import conf

    return bool(conf.get("tracklayer", "mlflow_conn_id", fallback=None)) or any(map(_names_a_server, _files()))


def is_spoken_of_in_task() -> bool:
    """As `is_spoken_of`, in the process of a task, where its code may have called ``mlflow.set_tracking_uri``."""
    mlflow: Any = sys.modules.get("mlflow")
    return is_spoken_of() or bool(mlflow is not None and getattr(mlflow, "is_tracking_uri_set", bool)())


def _files() -> Iterator[Path]:
    """The files that tracklayer may take its settings from: that of its variable, else what is here or above."""
    if named := os.environ.get("TRACKLAYER_CONFIG"):
        yield Path(named).expanduser()
        return
    try:
        folder = Path().absolute()
    except OSError:  # the working folder is gone
        return
    for place in (folder, *folder.parents):
        yield place / "tracklayer.toml"
        yield place / "pyproject.toml"


def _names_a_server(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError:  # what cannot be read, the settings tell of
        return os.path.lexists(path)
    return any(name in content for name in SETTINGS)
