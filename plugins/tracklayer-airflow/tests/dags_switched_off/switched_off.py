"""Tasks that would be tracked or observed: what of tracklayer's core is imported in their process, and what they are told."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

from tracklayer_airflow import TrackedPythonOperator


def of_core() -> list[str]:
    """The modules of core, or of what it brings along, that are imported by now."""
    return sorted(name for name in sys.modules if name.partition(".")[0] == "tracklayer")


with DAG("switched_off", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task.tracked(stage="training")
    def managed() -> list[str]:
        return of_core()

    by_operator = TrackedPythonOperator(task_id="by_operator", python_callable=of_core)

    templated = BashOperator(
        task_id="templated",
        bash_command='echo \'{{ macros.tracklayer.token(ti) }}{{ macros.tracklayer.run_id(ti, "managed") }}'
        "{{ macros.tracklayer.parent_id(ti) }}{{ macros.tracklayer.experiment_id(ti) }}.'",
    )

    @task
    def plain() -> list[str]:
        """Would be observed."""
        return of_core()

    @task.tracked
    def asking() -> list[str | None]:
        """Now its code imports core, as users' code does."""
        import tracklayer

        run = tracklayer.current_run()
        assert run is not None
        run.log_metrics({"auc": 0.9})
        run.produces("s3://warehouse/flights")
        other = [sys.executable, "-c", "import tracklayer; print(tracklayer.current_run())"]
        return [run.run_id, run.token, subprocess.run(other, check=True, capture_output=True, text=True).stdout]

    @task
    def afterwards() -> bool:
        import tracklayer

        return tracklayer.current_run() is None

    managed() >> by_operator >> templated >> plain() >> asking() >> afterwards()
