"""The Airflow plugin (entry point ``airflow.plugins``): macros, listeners on DAG runs and tasks, a tab, documentation."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from tracklayer_airflow import macros as _macros

log = logging.getLogger("tracklayer")


class TracklayerPlugin(AirflowPlugin):
    """Makes ``{{ macros.tracklayer.token(ti) }}`` known, and ends parents when their DAG runs end."""

    name = "tracklayer"
    macros = [_macros.token, _macros.run_id, _macros.parent_id, _macros.experiment_id]  # noqa: RUF012  # Airflow's own

    @property
    def listeners(self) -> list[object]:  # type: ignore[override]  # asked for once, where listeners are gathered
        """The listeners on DAG runs and on observed tasks.

        None where tracking is off or the setting ``[airflow] listener`` is false; that on observed tasks is there if
        the rules have any tasks observed.
        """
        try:
            return _listeners()
        except Exception as error:  # wrong settings, a broken installation: the pipelines run on
            log.error("tracking: DAG runs are not listened to: %s", error)  # noqa: TRY400  # it explains itself
            return []

    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]  # asked for in the API server alone
        """What is mounted in Airflow's API server: the documentation, and the file of the tab where there is one."""
        try:
            from tracklayer_airflow.application import application
            from tracklayer_airflow.tab import PREFIX

            app = application(is_on=bool(self.react_apps))
        except Exception as error:  # a broken installation: Airflow's own pages are there all the same
            log.error("tracking: Airflow's pages have no tab and no documentation: %s", error)  # noqa: TRY400  # it explains itself
            return []
        return [{"name": self.name, "app": app, "url_prefix": PREFIX}]

    @cached_property
    def react_apps(self) -> list[Any]:  # type: ignore[override]  # Airflow takes out of it what it does not show
        """The tab "MLflow" on a DAG run's page; none where tracking is switched off."""
        from tracklayer_airflow.switch import is_on
        from tracklayer_airflow.tab import REACT_APP

        try:
            return [dict(REACT_APP)] if is_on() else []
        except Exception:  # a wrong switch, of which the listeners have told; Airflow's pages are there without the tab
            return []


def _listeners() -> list[object]:
    from tracklayer_airflow.switch import is_listening

    if not is_listening():
        return []
    from tracklayer_airflow.afterwards import AfterwardsListener
    from tracklayer_airflow.listener import DagRunListener
    from tracklayer_airflow.rules import rules_here

    rules = rules_here()
    if rules is None:
        return [DagRunListener(), AfterwardsListener()]
    from tracklayer import settings
    from tracklayer_airflow.observing import TaskListener

    return [DagRunListener(rules), AfterwardsListener(), TaskListener(rules, settings.load())]
