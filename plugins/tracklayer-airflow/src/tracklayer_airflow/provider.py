"""What Airflow is told about this provider (entry point ``apache_airflow_provider``)."""

from __future__ import annotations

from typing import Final


def _option(description: str, *, type: str = "string", example: str | None = None) -> dict[str, object]:  # noqa: A002
    """A rule about observed tasks; without a default here, so that what is not said is left to tracklayer's settings."""
    return {"description": description, "version_added": "0.1.0", "type": type, "example": example, "default": None}


_RULES: Final = {
    "observe": _option(
        "Follow tasks whose code calls MLflow by itself: the run that they start becomes the task's. This and the "
        "options below may also stand in tracklayer's own settings (TRACKLAYER_AIRFLOW_OBSERVE, …); what is set here "
        "wins. Default: true.",
        type="boolean",
    ),
    "observe_dags": _option(
        "Patterns for ids of DAGs whose tasks are observed. Default: all.", example="train_*, flights"
    ),
    "skip_dags": _option("Patterns for ids of DAGs whose tasks are not observed.", example="tmp_*"),
    "observe_tags": _option("Patterns for tags, of which a DAG has to have one. Default: all DAGs.", example="ml"),
    "observe_tasks": _option(
        "Patterns for ids of tasks, with or without DAG. Default: all.", example="train*, flights.evaluate"
    ),
    "skip_tasks": _option("Patterns for ids of tasks that are not observed.", example="*.notify"),
    "observe_operators": _option(
        "Patterns for names of operators, with or without module. Default: all.", example="PythonOperator, @task"
    ),
    "observe_owners": _option("Patterns for owners of tasks. Default: all.", example="data-team"),
    "observe_stages": _option(
        "Patterns for stages, which are the ids of tasks unless a plugin names them.", example="train*"
    ),
    "own_runs": _option(
        "Give a run of its own to an observed task that has started none by its end. Default: false.", type="boolean"
    ),
    "pass_tokens": _option(
        "Have an observed task that triggers a DAG run put a token into its conf, under tracklayer, so that what is tracked "
        "there is linked. Default: false, for that conf is somebody else's.",
        type="boolean",
    ),
}


def get_provider_info() -> dict[str, object]:
    """The provider's name and what it brings: decorator, operators, sensors, hook and connection, the link to the run.

    The plugin (macros and listener) has an entry point of its own, because Airflow leaves plugins that are named
    here unloaded unless it is told otherwise (``[core] lazy_load_plugins``).
    """
    return {
        "package-name": "tracklayer-airflow",
        "name": "tracklayer",
        "description": "Shows every tracked DAG run in MLflow: one parent run, one run for each task try, and the "
        "links between them.",
        "operators": [
            {
                "integration-name": "MLflow",
                "python-modules": ["tracklayer_airflow.operators", "tracklayer_airflow.registry"],
            }
        ],
        "sensors": [{"integration-name": "MLflow", "python-modules": ["tracklayer_airflow.sensors"]}],
        "hooks": [{"integration-name": "MLflow", "python-modules": ["tracklayer_airflow.hooks"]}],
        "connection-types": [
            {
                "connection-type": "mlflow",
                "hook-class-name": "tracklayer_airflow.hooks.MlflowHook",
                "hook-name": "MLflow",
                "conn-fields": {
                    "token": {
                        "label": "Token",
                        "schema": {"type": ["string", "null"], "format": "password"},
                        "description": "In place of user and password",
                    },
                    "workspace": {"label": "Workspace", "schema": {"type": ["string", "null"]}},
                    "ca_file": {
                        "label": "Certificate authorities",
                        "schema": {"type": ["string", "null"]},
                        "description": "File or folder on the workers; empty: those of the system",
                    },
                    "client_cert": {
                        "label": "Client certificate",
                        "schema": {"type": ["string", "null"]},
                        "description": "PEM file on the workers, with certificate and key",
                    },
                    "insecure_tls": {
                        "label": "Do not check certificates",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                },
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    "relabeling": {"host": "Tracking URI", "login": "User", "password": "Password or token"},
                    "placeholders": {"host": "https://mlflow.example.com"},
                },
            }
        ],
        "integrations": [
            {
                "integration-name": "MLflow",
                "external-doc-url": "https://mlflow.org/docs/latest/ml/tracking/",
                "tags": ["software"],
            }
        ],
        "config": {
            "tracklayer": {
                "description": "Tracking of DAG runs in MLflow. All else is in tracklayer's own settings: variables that "
                "begin with TRACKLAYER_, or tracklayer.toml.",
                "options": {
                    "enabled": {
                        "description": "Switch tracking off without taking the provider away: tasks run as their "
                        "untracked counterparts, there is no listener, and nothing of tracklayer's core is imported.",
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                    "mlflow_conn_id": {
                        "description": "The connection (of the type mlflow) with the server that tracked tasks are "
                        "tracked at. Empty: MLflow's own variables tell the server.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "mlflow_default",
                        "default": "",
                    },
                    **_RULES,
                },
            }
        },
        "task-decorators": [{"name": "tracked", "class-name": "tracklayer_airflow.decorators.tracked_task"}],
        "extra-links": ["tracklayer_airflow.links.MLflowRunLink", "tracklayer_airflow.links.MLflowParentLink"],
    }
