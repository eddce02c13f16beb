"""The same pipeline, tracked."""

from kfp import dsl

from tracklayer_kubeflow import tracked_component, tracked_pipeline


@tracked_component(stage="data-prep")
@dsl.component(base_image="python:3.11")
def prepare() -> int:
    return 1


@tracked_component(stage="training")
@dsl.component(base_image="python:3.11")
def train(rows: int) -> int:
    return rows


@tracked_pipeline
@dsl.pipeline(name="bench")
def bench() -> int:
    rows = prepare()
    return train(rows=rows.output).output
