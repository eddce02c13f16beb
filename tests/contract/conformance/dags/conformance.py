"""The conformance kit's workflow as an Airflow DAG; the kit's folder is in the variable ``CONFORMANCE_FOLDER``."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import dag, task

FOLDER = os.environ.get("CONFORMANCE_FOLDER", "")


@dag(schedule=None)
def conformance() -> None:
    @task.tracked(stage="data-prep")
    def prepare() -> str:
        from tracklayer.testing import step

        return step("prepare", FOLDER)

    @task.tracked(stage="training", retries=1, retry_delay=timedelta(0))
    def train(prepared: str) -> str:
        from tracklayer.testing import step

        return step("train", FOLDER)

    @task.tracked(stage="evaluation")
    def score(item: str) -> str:
        from tracklayer.testing import step

        return step("score", FOLDER, item)

    @task.tracked
    def broken() -> str:
        from tracklayer.testing import step

        return step("broken", FOLDER)

    train(prepare())  # type: ignore[arg-type]  # what stands for the result, until there is one
    score.expand(item=["a", "b"])
    broken()


conformance()
