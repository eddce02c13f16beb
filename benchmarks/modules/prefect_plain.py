"""A flow as Prefect's users write it."""

from __future__ import annotations

from prefect import flow, task


@task
def prepare() -> int:
    return 1


@task
def train(rows: int) -> int:
    return rows


@flow(name="bench")
def bench() -> int:
    return train(prepare())
