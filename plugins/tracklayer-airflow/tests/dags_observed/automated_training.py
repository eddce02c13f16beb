# As people write it: no types, names as they come.
# ruff: noqa: AIR001, AIR311, ANN001, ANN003, ANN201, DTZ001
# mypy: ignore-errors
"""The example of the field, as it stands in tutorials: nothing in it knows of tracklayer."""

from datetime import datetime, timedelta

import mlflow
from airflow import DAG
from airflow.providers.standard.operators.python import PythonOperator


def train_model(ds, **kwargs):
    mlflow.set_experiment(f"automated_training_{ds}")

    with mlflow.start_run(run_name=f"training_run_{ds}"):
        mlflow.log_param("learning_rate", 0.01)
        mlflow.log_param("n_estimators", 100)
        mlflow.log_metric("accuracy", 0.95)
        mlflow.set_tag("model_type", "random_forest")


def evaluate_model(ds, **kwargs):
    mlflow.set_experiment(f"automated_training_{ds}")

    with mlflow.start_run(run_name=f"evaluation_run_{ds}"):
        mlflow.log_metric("test_accuracy", 0.93)


default_args = {
    "owner": "data-science",
    "retries": 1,
    "retry_delay": timedelta(minutes=5),
}

with DAG(
    "automated_training",
    default_args=default_args,
    description="Train and evaluate a model every day",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
) as dag:
    train = PythonOperator(task_id="train_model", python_callable=train_model)
    evaluate = PythonOperator(task_id="evaluate_model", python_callable=evaluate_model)

    train >> evaluate
