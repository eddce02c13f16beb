"""The switch in Airflow's own configuration: ``[tracklayer] enabled``, or ``AIRFLOW__TRACKLAYER__ENABLED``."""

from __future__ import annotations


def is_on() -> bool:
    """Whether DAGs are tracked. Where they are not, nothing of tracklayer is imported and no process is started.

    Raises:
        airflow.exceptions.AirflowConfigException: the option is neither true nor false.
    """
    from airflow.configuration import conf

    return bool(conf.getboolean("tracklayer", "enabled", fallback=True))
