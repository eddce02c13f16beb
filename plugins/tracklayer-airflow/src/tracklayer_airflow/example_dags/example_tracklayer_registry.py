"""From a run to a version of a registered model and its alias; then wait until both are there."""

from __future__ import annotations

from airflow.sdk import dag, task

from tracklayer_airflow import MlflowRunSensor, ModelAliasSensor, RegisterModelOperator, SetModelAliasOperator

MODEL = "example_tracklayer_doubler"


def double(model_input: list[float]) -> list[float]:
    """The model."""
    return [number * 2 for number in model_input]


@dag(schedule=None, tags=["example", "mlflow"])
def example_tracklayer_registry() -> None:
    """Log a model, register it, promote it."""

    @task.tracked(stage="training")
    def train() -> None:
        import mlflow

        mlflow.pyfunc.log_model(name="doubler", python_model=double, pip_requirements=[])

    register = RegisterModelOperator(task_id="register", name=MODEL, from_task="train", alias="challenger")
    promote = SetModelAliasOperator(
        task_id="promote",
        name=MODEL,
        alias="champion",
        version=register.output,  # type: ignore[arg-type]  # a result to come
    )
    trained = MlflowRunSensor(
        task_id="trained", run_id="{{ macros.tracklayer.run_id(ti, 'train') }}", poke_interval=1, timeout=60
    )
    promoted = ModelAliasSensor(task_id="promoted", name=MODEL, alias="champion", since="", poke_interval=1, timeout=60)
    train() >> trained >> register >> promote >> promoted


example_tracklayer_registry()
