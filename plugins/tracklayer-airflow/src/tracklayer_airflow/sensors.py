"""Sensors that wait for something to happen in MLflow. While the server is away they wait on."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from tracklayer_airflow.hooks import MlflowHook
from tracklayer_airflow.registry import version_of

try:
    from airflow.sdk.exceptions import AirflowFailException
except ImportError:  # Airflow 3.1
    from airflow.exceptions import AirflowFailException  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context
    from mlflow import MlflowClient

AWAY: Final = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED"})
"""MLflow's codes of an error that says nothing about what was asked for."""


NONE: Final = frozenset({"", "None"})
"""What stands for no version, and for no run: an empty text, or None after a template has made text of it."""


class _NotTold(Enum):
    """The default of an argument of which None says something."""

    SINCE = "not told"


class MlflowSensor(BaseSensorOperator):
    """A sensor that asks MLflow.

    Args:
        mlflow_conn_id: the connection; None: MLflow's own variables.
        kwargs: what every sensor takes (``mode``, ``poke_interval``, ``timeout``, ``soft_fail``).
    """

    def __init__(self, *, mlflow_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002  # Airflow's signature
        """Ask once."""
        from mlflow.exceptions import MlflowException

        from tracklayer.exceptions import StoreUnavailable

        with MlflowHook(self.mlflow_conn_id).client(retries=1, timeout=10) as client:
            try:
                return self.ask(client)
            except (MlflowException, StoreUnavailable) as error:
                if isinstance(error, MlflowException) and error.error_code not in AWAY:
                    raise
                self.log.warning("MLflow did not answer, it is asked again: %s", error)
                return PokeReturnValue(is_done=False)

    @abstractmethod
    def ask(self, client: MlflowClient) -> PokeReturnValue:
        """What a sensor asks."""


class MlflowRunSensor(MlflowSensor):
    """Wait until a run has ended.

    ::

        MlflowRunSensor(task_id="trained", run_id="{{ dag_run.conf['run_id'] }}", mode="reschedule")

    The XCom is the run's status.

    Args:
        run_id: the run; one whose id was given out while the server was away is waited for until it is delivered.
            Templated.
        expected: statuses with which the sensor succeeds. With another one it fails at once, without retries.
        kwargs: see `MlflowSensor`.
    """

    template_fields: Sequence[str] = ("run_id", "mlflow_conn_id")

    def __init__(self, *, run_id: str, expected: Sequence[str] = ("FINISHED",), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.expected = expected

    def ask(self, client: MlflowClient) -> PokeReturnValue:
        """Whether it has."""
        run_id = self._delivered()
        if run_id is None:
            return PokeReturnValue(is_done=False)
        status = client.get_run(run_id).info.status
        if status in {"RUNNING", "SCHEDULED"}:
            return PokeReturnValue(is_done=False)
        if status not in self.expected:
            raise AirflowFailException(f"the run {self.run_id} is {status}, and not {' or '.join(self.expected)}")
        return PokeReturnValue(is_done=True, xcom_value=status)

    def _delivered(self) -> str | None:
        """What the server calls the run; None if its id was given out while the server was away, and it is not there yet."""
        from tracklayer.provisional import id_tag, is_provisional

        if str(self.run_id).strip() in NONE:
            raise AirflowFailException(f"there is no run to wait for: run_id is {self.run_id!r}")
        if not is_provisional(self.run_id):
            return self.run_id
        with MlflowHook(self.mlflow_conn_id).store() as store:
            found = store.search_runs([], f"tags.`{id_tag(self.run_id)}` != ''", limit=1)
        return found[0].run_id if found else None


class ModelAliasSensor(MlflowSensor):
    """Wait until an alias of a registered model stands for another version than before.

    ::

        ModelAliasSensor(task_id="promoted", name="flights", alias="champion", since="{{ params.deployed }}")

    The XCom is the new version.

    Args:
        name: the registered model. Templated.
        alias: the alias. Templated.
        since: the version that is known already; an empty text or None (also what `SetModelAliasOperator` returns
            where the alias stood for none before, ``since=promote.output``): any version will do. Templated. If it
            is not given: that for which the alias stands when the sensor asks for the first time, which asks for
            ``mode="poke"``: in the mode ``reschedule`` each time is the first one.
        kwargs: see `MlflowSensor`.

    Raises:
        ValueError: there is no `since`, and the mode is ``reschedule``.
    """

    template_fields: Sequence[str] = ("name", "alias", "since", "mlflow_conn_id")

    def __init__(
        self, *, name: str, alias: str, since: str | int | _NotTold | None = _NotTold.SINCE, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if since is _NotTold.SINCE and self.reschedule:
            raise ValueError(f"{self.task_id}: in the mode 'reschedule' the sensor has to be told since which version")
        self.name = name
        self.alias = alias
        # The field is rendered, serialized and shown: what says that nothing was told is not for it.
        self.since = None if since is _NotTold.SINCE else since
        self._told = since is not _NotTold.SINCE
        self._asked = False
        self._before: str | None = None

    def ask(self, client: MlflowClient) -> PokeReturnValue:
        """Whether it does."""
        version = version_of(client, self.name, self.alias)
        if not self._asked and not self._told:
            self._before = version
        self._asked = True
        before = _version(self.since) if self._told else self._before
        moved = version is not None and version != before
        return PokeReturnValue(is_done=moved, xcom_value=version if moved else None)


def _version(told: object) -> str | None:
    """The version that is told; None for none."""
    text = "" if told is None else str(told).strip()
    return None if text in NONE else text
