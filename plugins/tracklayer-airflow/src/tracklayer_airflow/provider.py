"""What Airflow is told about this provider (entry point ``apache_airflow_provider``)."""

from __future__ import annotations


def get_provider_info() -> dict[str, object]:
    """The provider's name and what it brings: the decorator ``@task.tracked``, the operators, the link to the run.

    The plugin (macros and listener) has an entry point of its own, because Airflow leaves plugins that are named
    here unloaded unless it is told otherwise (``[core] lazy_load_plugins``).
    """
    return {
        "package-name": "tracklayer-airflow",
        "name": "tracklayer",
        "description": "Shows every tracked DAG run in MLflow: one parent run, one run for each task try, and the "
        "links between them.",
        "operators": [{"integration-name": "MLflow", "python-modules": ["tracklayer_airflow.operators"]}],
        "integrations": [
            {
                "integration-name": "MLflow",
                "external-doc-url": "https://mlflow.org/docs/latest/ml/tracking/",
                "tags": ["software"],
            }
        ],
        "task-decorators": [{"name": "tracked", "class-name": "tracklayer_airflow.decorators.tracked_task"}],
        "extra-links": ["tracklayer_airflow.links.MLflowRunLink"],
    }
