"""A plugin for Airflow's plugins' folder: the scheduler imports MLflow, and so its tasks have it, which it forks.

Twenty tasks that import it at once, each in its own process as in life, would take all of the machine for half a minute.
In ``test_observing.py`` they do.
"""

from __future__ import annotations

import sys
from typing import Any

import pluggy
from airflow.plugins_manager import AirflowPlugin

hookimpl = pluggy.HookimplMarker("airflow")


class Ahead:
    """Heard before the executor forks."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """A component starts."""
        if sys.argv[1:2] == ["scheduler"]:
            import mlflow  # noqa: F401


class AheadPlugin(AirflowPlugin):
    """Has Airflow call it."""

    name = "ahead"
    listeners = [Ahead()]  # noqa: RUF012  # Airflow's own
