"""A DAG with a task that its trigger ends: Airflow takes it only where there is no listener."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG

with DAG("from_trigger", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
    TimeDeltaSensor(task_id="wait", delta=timedelta(0), deferrable=True, end_from_trigger=True)
