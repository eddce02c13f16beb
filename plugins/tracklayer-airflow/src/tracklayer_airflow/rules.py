"""Which tasks are observed: by DAG, tag, task, operator, owner and stage.

The rules stand in tracklayer's own settings (the table ``[tool.tracklayer.airflow]``, or ``TRACKLAYER_AIRFLOW_…``), or
by the same names in the section ``[tracklayer]`` of Airflow's configuration, which wins: there whoever runs the
installation has the last word.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracklayer.settings import Settings
    from tracklayer_airflow.settings import AirflowSettings

log = logging.getLogger("tracklayer")

SECTION: Final = "tracklayer"
"""Of Airflow's configuration."""

OPTIONS: Final = (
    "observe",
    "observe_dags",
    "skip_dags",
    "observe_tags",
    "observe_tasks",
    "skip_tasks",
    "observe_operators",
    "observe_owners",
    "observe_stages",
    "own_runs",
    "pass_tokens",
)
"""The settings that Airflow's configuration has, too."""

_AIRFLOWS: Final = {"t": "true", "f": "false"}
"""What Airflow takes for booleans, beyond what tracklayer does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which tasks are observed. Patterns are as in a shell (``train_*``), upper and lower case differ.

    A task is observed if every kind of pattern that is there matches, and none of those that leave out does. It is not
    if its operator is a tracked one: that opens its run itself.

    Attributes:
        dags: for DAG ids; none: all.
        skip_dags: for DAG ids that are left out.
        tags: for tags of DAGs, of which one has to match; none: all.
        tasks: for task ids, with groups, and with or without DAG (``train``, ``flights.train``); none: all.
        skip_tasks: for task ids that are left out.
        operators: for the names of operators (``PythonOperator``, ``@task``), with or without module; none: all.
        owners: for owners of tasks; none: all.
        stages: for stages, as plugins name them, else the task's id; none: all.
        own_runs: True if a task that has started no run by its end gets one.
        pass_tokens: True if a task that triggers a DAG run puts a token into its conf.
    """

    dags: tuple[str, ...] = ()
    skip_dags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    skip_tasks: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    own_runs: bool = False
    pass_tokens: bool = False

    def observe_task(self, task: Any, dag: Any) -> bool:
        """Whether a task is observed; its stage does not count yet.

        Args:
            task: the operator, as it stands in the DAG, mapped, serialized or about to be executed.
            dag: its DAG, parsed or serialized.
        """
        from tracklayer_airflow.workflow import is_tracked_operator

        return self._observe_dag(dag) and not is_tracked_operator(task) and self._observe_operator(task, dag.dag_id)

    def observe_any(self, dag: Any) -> bool:
        """Whether any task of a DAG is observed; False if it is not at hand."""
        tasks = getattr(dag, "task_dict", None) or {}
        return bool(tasks) and self._observe_dag(dag) and any(self.observe_task(task, dag) for task in tasks.values())

    def observe_stage(self, stage: str) -> bool:
        """Whether tasks of a stage are observed.

        >>> Rules(stages=("train*",)).observe_stage("training"), Rules(stages=("train*",)).observe_stage("report")
        (True, False)
        """
        return _among(self.stages, [stage])

    def _observe_dag(self, dag: Any) -> bool:
        return (
            _among(self.dags, [dag.dag_id])
            and not _matches(self.skip_dags, [dag.dag_id])
            and _among(self.tags, [str(tag) for tag in getattr(dag, "tags", None) or ()])
        )

    def _observe_operator(self, task: Any, dag_id: str) -> bool:
        ids = [task.task_id, f"{dag_id}.{task.task_id}"]
        return (
            _among(self.tasks, ids)
            and not _matches(self.skip_tasks, ids)
            and _among(self.operators, _operator_names(task))
            and _among(self.owners, [owner.strip() for owner in str(getattr(task, "owner", "")).split(",")])
        )


def rules(settings: Settings) -> Rules | None:
    """The rules by these settings and Airflow's configuration; None if no task is observed.

    Raises:
        tracklayer.exceptions.SettingsError: a value is wrong; the message names it and where it stands.
    """
    from tracklayer_airflow.settings import airflow_settings

    told = airflow_settings(settings)
    values = {name: getattr(told, name) for name in OPTIONS} | _in_airflow(type(told))
    if not values["observe"]:
        return None
    return Rules(
        dags=values["observe_dags"],
        skip_dags=values["skip_dags"],
        tags=values["observe_tags"],
        tasks=values["observe_tasks"],
        skip_tasks=values["skip_tasks"],
        operators=values["observe_operators"],
        owners=values["observe_owners"],
        stages=values["observe_stages"],
        own_runs=values["own_runs"],
        pass_tokens=values["pass_tokens"],
    )


@lru_cache(maxsize=1)
def rules_here() -> Rules | None:
    """The rules of this installation, read once in a process; None if no task is observed.

    That is also so where tracking is off, where listeners are, or if a setting is wrong: the log then says which.
    """
    try:
        from tracklayer_airflow.switch import is_on, is_spoken_of

        if not is_on() or not is_spoken_of():
            return None
        from tracklayer import settings as settings_module
        from tracklayer_airflow.settings import airflow_settings

        settings = settings_module.load()
        if not settings.enabled or not settings.tracking_uri or not airflow_settings(settings).listener:
            return None
        return rules(settings)
    except Exception as error:  # wrong settings, a broken installation: the pipelines run on
        log.error("tracking: no task is observed: %s", error)  # noqa: TRY400  # it explains itself
        return None


def _in_airflow(type: type[AirflowSettings]) -> dict[str, Any]:  # noqa: A002  # reads as what it is
    """What Airflow's configuration says, by the names of the settings."""
    import msgspec
    from airflow.configuration import conf

    from tracklayer.conversion import Found, convert

    kinds = {field.name: field.type for field in msgspec.structs.fields(type)}
    found = {name: conf.get(SECTION, name, fallback=None) for name in OPTIONS}
    where = f"in the section [{SECTION}] of Airflow's configuration"
    return {
        name: convert(
            Found(name, _as_airflow_reads(text) if kinds[name] is bool else text, where, is_text=True), kinds[name]
        )
        for name, text in found.items()
        if text is not None and text.strip()
    }


def _as_airflow_reads(text: str) -> str:
    """A boolean of Airflow's configuration, as its ``getboolean`` reads it: ``t`` and ``f``, and what is behind a ``#`` is a remark."""
    word = text.partition("#")[0].strip()
    return _AIRFLOWS.get(word.lower(), word)


def _operator_names(task: Any) -> list[str]:
    kind = getattr(task, "task_type", type(task).__name__)
    module = getattr(task, "_task_module", None) or type(task).__module__
    return [kind, f"{module}.{kind}", str(getattr(task, "operator_name", None) or kind)]


def _among(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    """Whether one of the names matches, or there is nothing to match."""
    return not patterns or _matches(patterns, names)


def _matches(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
