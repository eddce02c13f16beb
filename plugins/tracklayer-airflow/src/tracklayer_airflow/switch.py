"""The switch in Airflow's own configuration: ``[tracklayer] enabled``, or ``AIRFLOW__TRACKLAYER__ENABLED``."""

from __future__ import annotations

import os
from pathlib import Path


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

    MLflow's variable, any variable of tracklayer's, a file that may have its settings, or Airflow's option.
    """
    names = (name for name, value in os.environ.items() if value)
    if any(name == "MLFLOW_TRACKING_URI" or name.startswith("TRACKLAYER_") for name in names):
        return True
    from airflow.configuration import conf

    return bool(conf.get("tracklayer", "mlflow_conn_id", fallback=None)) or _is_there_a_file()


def _is_there_a_file() -> bool:
    """Whether there is a file in the working folder or above it that tracklayer would look into for its settings."""
    try:
        folder = Path().absolute()
        projects = [place / "pyproject.toml" for place in (folder, *folder.parents)]
        return any(
            path.with_name("tracklayer.toml").exists() or (path.exists() and b"tracklayer" in path.read_bytes())
            for path in projects
        )
    except OSError:  # what cannot be read, the settings tell of
        return True
