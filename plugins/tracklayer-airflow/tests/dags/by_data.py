"""Two DAGs that nothing joins but the data: one writes it, the other reads it, and something that nobody wrote."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, task

import tracklayer

BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)
FLIGHTS = "s3://warehouse/by-data/flights"

with DAG("writes_data", schedule=None, start_date=BEGINNING):

    @task.tracked(stage="data-prep")
    def write() -> None:
        run = tracklayer.current_run()
        assert run is not None
        run.produces(FLIGHTS, digest="v1")

    write()

with DAG("reads_data", schedule=None, start_date=BEGINNING):

    @task.tracked(stage="training")
    def read() -> None:
        run = tracklayer.current_run()
        assert run is not None
        run.consumes(FLIGHTS)

    @task.tracked(stage="evaluation")
    def read_what_nobody_wrote() -> None:
        run = tracklayer.current_run()
        assert run is not None
        run.consumes(f"{FLIGHTS}/of-nobody")

    read(), read_what_nobody_wrote()
