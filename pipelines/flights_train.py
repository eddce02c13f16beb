"""Trains a model on flights that were prepared elsewhere, and has it judged elsewhere: the middle of the relay.

`dags/flights_prepare.py` prepares the data in Airflow and starts this pipeline with the token of its run in the
environment, so the training run is linked to the run that made its data; the training's own token is in the metadata of
the model artifact, and goes on to `flows/flights_evaluate.py` in Prefect. Without a token it runs as well, only without
that link.

    python pipelines/flights_train.py --train train.parquet --test test.parquet --max-iter 20

On a cluster a DAG starts it with ``kfp.Client().create_run_from_pipeline_func(flights_train.with_token(token), …)``.
"""

# KFP reads a component's annotations as they are, not as text: no ``from __future__ import annotations`` here.

import argparse
import tempfile
from pathlib import Path

from kfp import dsl

from tracklayer_kubeflow import tracked_component, tracked_pipeline

IMAGE = "flights-python:3.11"
FLOW = Path(__file__).resolve().parents[1] / "flows" / "flights_evaluate.py"


@tracked_component(stage="training")
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(train_data: dsl.Input[dsl.Dataset], max_iter: int, model: dsl.Output[dsl.Model]) -> None:
    """Fit the model, and log it to MLflow; the artifact says where it is."""
    from pathlib import Path

    import tracklayer
    from flights_model import dataset, training

    if run := tracklayer.current_run():
        data = dataset.describe("flights-train", train_data.path)
        run.consumes(data.uri, data.digest, name=data.name)
    trained = training.train(train_data.path, training.TrainingSettings(max_iter=max_iter))
    model.metadata.update(model_uri=trained.model_uri, iterations=trained.iterations)
    Path(model.path).write_text(trained.model_uri, encoding="utf-8")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def start_evaluation(
    model: dsl.Input[dsl.Model], train_data: dsl.Input[dsl.Dataset], test_data: dsl.Input[dsl.Dataset], flow: str
) -> None:
    """Start the evaluation flow, and wait for it; the training run's token goes with it."""
    import os
    import subprocess
    import sys

    handed_over = {"TRACKLAYER_PARENT": model.metadata.get("tracklayer_token", "")}
    uri = model.metadata["model_uri"]
    command = [sys.executable, flow, "--model", uri, "--train", train_data.path, "--test", test_data.path]
    subprocess.run(command, env={**os.environ, **handed_over}, check=True)


@tracked_pipeline
@dsl.pipeline(name="flights-train")
def flights_train(train_uri: str, test_uri: str, max_iter: int = 100, flow: str = "flows/flights_evaluate.py") -> None:
    """Train a model that says which flights will be late, and have it judged."""
    train_data = dsl.importer(artifact_uri=train_uri, artifact_class=dsl.Dataset).output
    test_data = dsl.importer(artifact_uri=test_uri, artifact_class=dsl.Dataset).output
    trained = train(train_data=train_data, max_iter=max_iter)
    start_evaluation(model=trained.outputs["model"], train_data=train_data, test_data=test_data, flow=flow)


def main() -> None:
    """Run the pipeline on this machine, with KFP's local runner."""
    from kfp import local

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="Parquet file to train on")
    parser.add_argument("--test", type=Path, required=True, help="Parquet file to judge by")
    parser.add_argument("--max-iter", type=int, default=100, help="iterations of the training")
    parser.add_argument("--work-dir", help="folder for what KFP keeps; nothing is kept if it is left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flights-") as folder:
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=options.work_dir or folder)
        flights_train(
            train_uri=str(options.train.resolve()),
            test_uri=str(options.test.resolve()),
            max_iter=options.max_iter,
            flow=str(FLOW),
        )


if __name__ == "__main__":
    main()
