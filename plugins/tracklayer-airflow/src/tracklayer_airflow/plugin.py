"""The Airflow plugin (entry point ``airflow.plugins``): macros for templates, and the listener on DAG runs."""

from __future__ import annotations

import logging

from airflow.plugins_manager import AirflowPlugin

from tracklayer_airflow import macros as _macros

log = logging.getLogger("tracklayer")


class TracklayerPlugin(AirflowPlugin):
    """Makes ``{{ macros.tracklayer.token(ti) }}`` known, and ends parents when their DAG runs end."""

    name = "tracklayer"
    macros = [_macros.token, _macros.run_id]  # noqa: RUF012  # Airflow declares it as an attribute

    @property
    def listeners(self) -> list[object]:  # type: ignore[override]  # asked for once, where listeners are gathered
        """The listener on DAG runs; none where tracking is off or the setting ``[airflow] listener`` is false."""
        try:
            return _listeners()
        except Exception as error:  # wrong settings, a broken installation: the pipelines run on
            log.error("tracking: DAG runs are not listened to: %s", error)  # noqa: TRY400  # it explains itself
            return []


def _listeners() -> list[object]:
    # Every task's process asks: nothing is imported here that only a tracked one needs.
    from tracklayer_airflow.switch import is_on

    if not is_on():
        return []
    from tracklayer import settings as settings_module
    from tracklayer_airflow.settings import airflow_settings

    settings = settings_module.load()
    if not settings.enabled or not settings.tracking_uri or not airflow_settings(settings).listener:
        return []
    from tracklayer_airflow.listener import DagRunListener

    return [DagRunListener()]
