"""The switch in Airflow's own configuration: ``[tracklayer] enabled``, or ``AIRFLOW__TRACKLAYER__ENABLED``."""

from __future__ import annotations


def is_on() -> bool:
    """Whether DAGs are tracked. Where they are not, nothing of tracklayer is imported and no process is started.

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
    if not is_on():
        return False
    from tracklayer import settings as settings_module
    from tracklayer_airflow.server import connection_id
    from tracklayer_airflow.settings import airflow_settings

    settings = settings_module.load()
    if not settings.enabled or not airflow_settings(settings).listener:
        return False
    return bool(settings.tracking_uri or connection_id(settings))
