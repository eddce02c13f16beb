"""Tasks that call MLflow by themselves and know nothing of tracklayer: the runs that they start become their tasks' runs."""

from __future__ import annotations

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG


def train() -> None:
    """Log to a run in an experiment of one's own, as everywhere."""
    import mlflow

    mlflow.set_experiment("example_tracklayer_models")
    with mlflow.start_run(run_name="training"):
        mlflow.log_param("learning_rate", 0.1)
        mlflow.log_metric("accuracy", 0.95)


def evaluate() -> None:
    """The same, downstream: this run is linked to that of the training."""
    import mlflow

    mlflow.set_experiment("example_tracklayer_models")
    with mlflow.start_run(run_name="evaluation"):
        mlflow.log_metric("test_accuracy", 0.93)


with DAG("example_tracklayer_observed", schedule=None, tags=["example", "mlflow"]):
    PythonOperator(task_id="train", python_callable=train) >> PythonOperator(
        task_id="evaluate", python_callable=evaluate
    )
