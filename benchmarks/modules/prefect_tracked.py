"""The same flow, tracked."""

from __future__ import annotations

from prefect import flow, task

from tracklayer_prefect import tracked_flow, tracked_task


@tracked_task(stage="data-prep")
@task
def prepare() -> int:
    return 1


@tracked_task(stage="training")
@task
def train(rows: int) -> int:
    return rows


@tracked_flow
@flow(name="bench")
def bench() -> int:
    return train(prepare())
