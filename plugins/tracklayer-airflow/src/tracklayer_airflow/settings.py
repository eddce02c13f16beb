"""The plugin's own settings: the table ``[tool.tracklayer.airflow]``, or ``TRACKLAYER_AIRFLOW_<FIELD>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tracklayer.settings import Settings


class AirflowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Airflow is tracked.

    Attributes:
        listener: end the parent run when the DAG run ends, by a listener in the scheduler. Airflow (seen in 3.3)
            refuses to load DAGs with a task that has ``end_from_trigger=True`` while any listener is registered: set
            this to false if you have such DAGs; parents then stay RUNNING.
        arguments: log the arguments of tracked Python functions as params.
        api_url: address of Airflow's API server (``https://airflow.example.com``), for ``tracklayer reconcile``; None
            takes that of Airflow's own variable ``AIRFLOW__API__BASE_URL``, if it is set where that runs.
        api_username: who asks the API; None asks without a name, which some Airflows allow.
        api_password: that user's password.
        api_token: a token of the API in place of user name and password.
        api_timeout: longest wait for an answer of the API, in seconds.
    """

    listener: bool = True
    arguments: bool = True
    api_url: str | None = None
    api_username: str | None = None
    api_password: str | None = None
    api_token: str | None = None
    api_timeout: float = 10.0

    def __repr__(self) -> str:
        from tracklayer.redaction import Redaction

        redaction = Redaction()
        shown = ((name, redaction.mask(name, getattr(self, name))) for name in self.__struct_fields__)
        return f"AirflowSettings({', '.join(f'{name}={value!r}' for name, value in shown)})"


def airflow_settings(settings: Settings) -> AirflowSettings:
    """The plugin's table of these settings.

    Raises:
        tracklayer.exceptions.SettingsError: the table has an unknown key or a value of the wrong type.
    """
    from tracklayer.settings import table

    return table(settings, "airflow", AirflowSettings)
