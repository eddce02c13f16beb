"""Operators on MLflow's model registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from tracklayer_airflow.hooks import MlflowHook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context
    from mlflow import MlflowClient


class RegisterModelOperator(BaseOperator):
    """Make the model of a run a version of a registered model.

    ::

        RegisterModelOperator(task_id="register", name="flights", from_task="train", alias="challenger")

    Repeating it (a retry, a cleared task) finds the version that is there. The XCom is the version, as text.

    Args:
        name: the registered model; it is created if there is none. Templated.
        run_id: the run that made the model. Templated; if nothing comes of the template, the task fails. Without it: that
            of the tracked task `from_task`.
        from_task: a tracked task of the same DAG run; None: the nearest tracked task upstream.
        model: which of the run's models, by the name that it was logged with; None if the run made one. Templated.
        alias: set this alias to the version. Templated.
        version_tags: tags of the version. Templated.
        mlflow_conn_id: the connection; None: MLflow's own variables.
        kwargs: what every operator takes.
    """

    template_fields: Sequence[str] = ("name", "run_id", "model", "alias", "version_tags", "mlflow_conn_id")

    def __init__(
        self,
        *,
        name: str,
        run_id: str | None = None,
        from_task: str | None = None,
        model: str | None = None,
        alias: str | None = None,
        version_tags: Mapping[str, str] | None = None,
        mlflow_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.run_id = run_id
        self._told_run = run_id is not None  # before templates are filled in
        self.from_task = from_task
        self.model = model
        self.alias = alias
        self.version_tags = version_tags
        self.mlflow_conn_id = mlflow_conn_id

    def execute(self, context: Context) -> str:
        """Register it; returns the version."""
        run_id = self._run_told() if self._told_run else self._run_upstream(context)
        tags = {str(key): str(value) for key, value in (self.version_tags or {}).items()}
        hook = MlflowHook(self.mlflow_conn_id)
        with hook.client() as client:
            model_id = self._model_of(client, run_id)
            with hook.store() as store:
                version = store.register_model(model_id, self.name, tags)
            if self.alias:
                client.set_registered_model_alias(self.name, self.alias, version)
        self.log.info("%s of run %s is version %s of %s", model_id, run_id, version, self.name)
        return version

    def _run_told(self) -> str:
        """The run that was given; not another one in its place if nothing came of the template."""
        told = "" if self.run_id is None else str(self.run_id).strip()
        if told in {"", "None"}:
            raise RuntimeError(f"the run that made the model is not known: run_id is {self.run_id!r}")
        return told

    def _run_upstream(self, context: Context) -> str:
        from tracklayer_airflow import macros

        found = macros.run_id(context["ti"], self.from_task)
        if not found:
            where = f"the task {self.from_task!r}" if self.from_task else "a task upstream"
            raise RuntimeError(f"there is no MLflow run of {where}: is it tracked, and did it run?")
        return found

    def _model_of(self, client: MlflowClient, run_id: str) -> str:
        outputs = client.get_run(run_id).outputs
        made = [client.get_logged_model(one.model_id) for one in (outputs.model_outputs if outputs else ())]
        fitting = [model for model in made if self.model in {None, model.name}]
        if len(fitting) != 1:
            names = ", ".join(sorted(model.name for model in made)) or "none"
            asked = "a model" if self.model is None else f"the model {self.model!r}"
            raise RuntimeError(f"the run {run_id} did not make {asked}, or more than one; its models: {names}")
        return str(fitting[0].model_id)


class SetModelAliasOperator(BaseOperator):
    """Let an alias of a registered model stand for a version: what promotes it.

    ::

        SetModelAliasOperator(task_id="promote", name="flights", alias="champion", version=register.output)

    The XCom is the version that the alias stood for before, None if it stood for none.

    Args:
        name: the registered model. Templated.
        alias: the alias. Templated.
        version: the version. Templated.
        mlflow_conn_id: the connection; None: MLflow's own variables.
        kwargs: what every operator takes.
    """

    template_fields: Sequence[str] = ("name", "alias", "version", "mlflow_conn_id")

    def __init__(
        self, *, name: str, alias: str, version: str | int, mlflow_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.alias = alias
        self.version = version
        self.mlflow_conn_id = mlflow_conn_id

    def execute(self, context: Context) -> str | None:  # noqa: ARG002  # Airflow's signature
        """Set it; returns the version before."""
        with MlflowHook(self.mlflow_conn_id).client() as client:
            before = version_of(client, self.name, self.alias)
            if before != str(self.version):
                client.set_registered_model_alias(self.name, self.alias, str(self.version))
        self.log.info("%s@%s is version %s; it was %s", self.name, self.alias, self.version, before or "none")
        return before


def version_of(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that an alias stands for; None if there is no such alias, or no such model."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        # MLflow calls a missing alias a wrong value.
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise
