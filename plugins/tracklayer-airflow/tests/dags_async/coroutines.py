"""Tasks that are coroutines, and ask Airflow for something at every moment in which other code of theirs can run."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from airflow.sdk import dag, task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def reporting() -> AsyncIterator[None]:
    """Ask for a variable, and once more, and so on, until the block is left: as `aget_connection` and its kin do."""
    from airflow.sdk.execution_time import comms, task_runner

    over = asyncio.Event()

    async def report() -> None:
        while not over.is_set():
            await task_runner.SUPERVISOR_COMMS.asend(comms.GetVariable(key="none"))

    reports = asyncio.create_task(report())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        over.set()
        await reports


@dag(schedule=None)
def coroutines() -> None:
    @task
    def prepare() -> None:
        import mlflow

        mlflow.log_metric("rows", 1.0)

    @task
    async def train() -> None:
        import mlflow

        async with reporting():
            with mlflow.start_run(run_name="trained"):
                mlflow.log_metric("auc", 0.9)

    @task
    async def threads() -> None:
        import mlflow

        async with reporting():
            other = asyncio.create_task(asyncio.to_thread(mlflow.log_metric, "of_thread", 1.0))
            await asyncio.sleep(0.01)
            mlflow.log_metric("of_loop", 1.0)
            await other

    @task
    async def block() -> None:
        import tracklayer

        async with reporting():
            with tracklayer.track("training") as run:
                run.log_metrics({"auc": 0.9})

    @task
    def evaluate() -> None:
        import mlflow

        mlflow.log_metric("auc", 0.9)

    prepare() >> [train(), threads(), block()] >> evaluate()


coroutines()
