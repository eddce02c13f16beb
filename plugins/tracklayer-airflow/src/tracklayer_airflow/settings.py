"""The plugin's own settings: the table ``[tool.tracklayer.airflow]``, or ``TRACKLAYER_AIRFLOW_<FIELD>``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

if TYPE_CHECKING:
    from tracklayer.settings import Settings


class AirflowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Airflow is tracked.

    Attributes:
        listener: end the parent run when the DAG run ends, by a listener in the scheduler; without it parents stay RUNNING
            until they are reconciled.
        arguments: log the arguments of tracked Python functions as params.
        mlflow_conn_id: the Airflow connection (of the type ``mlflow``) with the server that tracked tasks are tracked at;
            Airflow's own option ``[tracklayer] mlflow_conn_id`` goes before it. If there is neither, MLflow's
            variables.
        observe: follow tasks whose code calls MLflow by itself, see `tracklayer_airflow.rules`. Every setting from here
            to `pass_tokens` may stand in Airflow's configuration instead, by the same name in its section
            ``[tracklayer]``, which wins.
        observe_dags: patterns (``train_*``) for ids of DAGs whose tasks are observed; none: all.
        skip_dags: patterns for ids of DAGs whose tasks are not.
        observe_tags: patterns for tags of DAGs; none: all DAGs.
        observe_tasks: patterns for ids of tasks, with or without DAG (``flights.train``); none: all.
        skip_tasks: patterns for ids of tasks that are not observed.
        observe_operators: patterns for names of operators, with or without module; none: all.
        observe_owners: patterns for owners of tasks; none: all.
        observe_stages: patterns for stages; none: all.
        own_runs: give a run of its own to an observed task that has started none by its end.
        pass_tokens: have an observed task that triggers a DAG run (``TriggerDagRunOperator``) put a token into its conf.
        api_url: address of Airflow's API server (``https://airflow.example.com``), for ``tracklayer reconcile``; None
            takes that of Airflow's own variable ``AIRFLOW__API__BASE_URL``, if it is set where that runs.
        api_username: who asks the API; None asks without a name, which some Airflows allow.
        api_password: that user's password.
        api_token: a token of the API in place of user name and password.
        api_timeout: longest wait for an answer of the API, in seconds; an hour at most.
    """

    listener: bool = True
    arguments: bool = True
    mlflow_conn_id: str | None = None
    observe: bool = True
    observe_dags: tuple[str, ...] = ()
    skip_dags: tuple[str, ...] = ()
    observe_tags: tuple[str, ...] = ()
    observe_tasks: tuple[str, ...] = ()
    skip_tasks: tuple[str, ...] = ()
    observe_operators: tuple[str, ...] = ()
    observe_owners: tuple[str, ...] = ()
    observe_stages: tuple[str, ...] = ()
    own_runs: bool = False
    pass_tokens: bool = False
    api_url: str | None = None
    api_username: str | None = None
    api_password: str | None = None
    api_token: str | None = None
    api_timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0

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
