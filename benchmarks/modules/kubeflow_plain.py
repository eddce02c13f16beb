"""A pipeline as Kubeflow's users write it."""

from kfp import dsl


@dsl.component(base_image="python:3.11")
def prepare() -> int:
    return 1


@dsl.component(base_image="python:3.11")
def train(rows: int) -> int:
    return rows


@dsl.pipeline(name="bench")
def bench() -> int:
    rows = prepare()
    return train(rows=rows.output).output
