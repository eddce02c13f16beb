# mypy: disable-error-code="untyped-decorator"
"""The conformance kit's workflow as a KFP pipeline; run as a script with the kit's folder as its argument.

KFP's local runner does not retry, runs nothing after a loop, and stops at the first failure: no loop, and what fails
comes last. (The plugin's own tests have loops and retries.) KFP reads annotations as they are: they do not come from
the future.
"""

import sys
from pathlib import Path

from kfp import dsl, local

from tracklayer_kubeflow import tracked_component, tracked_pipeline

component = dsl.component(base_image="python:3.11", install_kfp_package=False)


@tracked_component(stage="data-prep")
@component
def prepare(folder: str) -> str:
    from tracklayer.testing import step

    return step("prepare", folder)


@tracked_component(stage="training")
@component
def train(folder: str, prepared: str) -> str:
    from tracklayer.testing import step

    return step("train", folder)


@tracked_component
@component
def broken(folder: str) -> str:
    from tracklayer.testing import step

    return step("broken", folder)


@tracked_pipeline
@dsl.pipeline(name="conformance")
def conformance(folder: str) -> None:
    trained = train(folder=folder, prepared=prepare(folder=folder).output)
    broken(folder=folder).after(trained)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "outputs"), raise_on_error=False)
    conformance(folder=str(folder))
