"""A model goes from its run through the registry, by operators and sensors on a connection."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, PokeReturnValue, task

from tracklayer_airflow import (
    MlflowHook,
    MlflowRunSensor,
    ModelAliasSensor,
    RegisterModelOperator,
    SetModelAliasOperator,
)

CONNECTION = "mlflow_default"
QUICK: dict[str, Any] = {"poke_interval": 1, "timeout": 30, "mlflow_conn_id": CONNECTION}


def double(model_input: list[float]) -> list[float]:
    return [number * 2 for number in model_input]


@task.tracked(stage="training")
def train(count: int = 1) -> None:
    import mlflow

    for number in range(count):
        mlflow.pyfunc.log_model(name=f"doubler-{number}", python_model=double, pip_requirements=[])


@task
def untracked_run(status: str) -> str:
    """A run of somebody else's, which has ended so."""
    with MlflowHook(CONNECTION).client() as client:
        run = client.create_run("0")
        client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


with DAG("registry", schedule=None, params={"model": "doubler"}):
    register = RegisterModelOperator(
        task_id="register",
        name="{{ params.model }}",
        from_task="train",
        alias="challenger",
        version_tags={"checked": "yes"},
        mlflow_conn_id=CONNECTION,
    )
    again = RegisterModelOperator(task_id="again", name="{{ params.model }}", from_task="train")
    promote = SetModelAliasOperator(
        task_id="promote",
        name="{{ params.model }}",
        alias="champion",
        version=register.output,  # type: ignore[arg-type]  # a result to come
        mlflow_conn_id=CONNECTION,
    )
    moved = ModelAliasSensor(
        task_id="moved", name="{{ params.model }}", alias="champion", since="", mode="reschedule", **QUICK
    )
    ended = MlflowRunSensor(task_id="ended", run_id="{{ macros.tracklayer.run_id(ti, 'train') }}", **QUICK)
    train() >> register >> again >> promote >> moved >> ended


class Moving(ModelAliasSensor):
    """Somebody moves the alias to version 2 each time that the sensor has asked and goes on waiting."""

    def poke(self, context: Any) -> PokeReturnValue:
        answer = super().poke(context)
        if not answer.is_done:
            with MlflowHook(CONNECTION).client() as client:
                client.set_registered_model_alias(self.name, self.alias, "2")
        return answer


@task
def versions(name: str) -> None:
    """A model with two versions, for the first of which each alias stands."""
    with MlflowHook(CONNECTION).client() as client:
        client.create_registered_model(name)
        for number in ("1", "2"):
            client.create_model_version(name, f"s3://models/{number}")
        for alias in ("remembered", "told", "champion"):
            client.set_registered_model_alias(name, alias, "1")


with DAG("alias_moves", schedule=None, params={"model": "mover"}):
    begun = versions("mover")
    of_model: dict[str, Any] = {**QUICK, "name": "{{ params.model }}", "poke_interval": 0.1}
    remembered = Moving(task_id="remembered", alias="remembered", **of_model)
    told_since = Moving(task_id="told", alias="told", since="{{ 0 + 1 }}", mode="reschedule", **of_model)
    known_already = ModelAliasSensor(task_id="known_already", alias="told", since=2, **{**of_model, "timeout": 1})
    swap: dict[str, Any] = {"name": "{{ params.model }}", "alias": "champion", "mlflow_conn_id": CONNECTION}
    up, again_up, down = (
        SetModelAliasOperator(task_id=task_id, version=version, **swap)
        for task_id, version in (("up", 2), ("again_up", "2"), ("down", 1))
    )
    begun >> [remembered, told_since, up]
    told_since >> known_already
    up >> again_up >> down

with DAG("registry_troubles", schedule=None):
    two = train.override(task_id="two")(2)
    RegisterModelOperator(task_id="which_of_two", name="which", from_task="two").set_upstream(two)
    one_of_two = RegisterModelOperator(task_id="one_of_two", name="which", from_task="two", model="doubler-1")
    one_of_two.set_upstream(two)
    RegisterModelOperator(task_id="of_nobody", name="which")
    ended_so: Any = untracked_run("KILLED")  # a result to come
    MlflowRunSensor(task_id="killed", run_id=ended_so, retries=2, **QUICK)
    MlflowRunSensor(task_id="killed_as_expected", run_id=ended_so, expected=["KILLED"], **QUICK)
    MlflowRunSensor(task_id="unknown", run_id="0" * 32, **QUICK)
    ModelAliasSensor(task_id="never", name="nothing", alias="champion", **{**QUICK, "timeout": 2})
