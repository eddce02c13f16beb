"""Will a flight out of New York be late? Prepares the flights of 2013, trains a model, and judges it, on Kubeflow.

The three stages of a model's life in one pipeline. Each component's run is an MLflow run below the run of the
pipeline run, and what feeds what is linked by the artifacts that KFP hands from task to task. What the model code logs
through plain ``mlflow`` calls lands in the component's run by itself, and so does what goes into a Metrics artifact.

On this machine::

    python pipelines/flights.py --sample 20000 --max-iter 20

For a cluster, whose image (`IMAGE`) holds ``flights-model``, ``mlflow`` and ``tracklayer-kubeflow``::

    kfp dsl compile --py pipelines/flights.py --output flights.yaml
"""

# KFP reads a component's annotations as they are, not as text: no ``from __future__ import annotations`` here.

import argparse
import tempfile

from kfp import dsl

from tracklayer_kubeflow import tracked_component, tracked_pipeline

IMAGE = "flights-python:3.11"


@tracked_component(stage="data-prep")
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(
    sample: int,
    train_data: dsl.Output[dsl.Dataset],
    test_data: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Join, clean and split the flights; `sample` is about how many of them, 0 for all."""
    import json
    import shutil
    import tempfile

    import tracklayer
    from flights_model import preparation

    run = tracklayer.current_run()
    with tempfile.TemporaryDirectory() as folder:
        prepared = preparation.prepare(folder, sample=sample or None)
        for made, artifact in ((prepared.train, train_data), (prepared.test, test_data)):
            shutil.copyfile(made.path, artifact.path)
            artifact.metadata.update(digest=made.digest, rows=made.rows)
            if run:
                run.produces(artifact.uri, made.digest, name=made.name, schema=json.dumps(dict(made.schema)))
    if run:
        run.log_params(prepared.params())
    for name, value in prepared.metrics().items():
        counts.log_metric(name, value)


@tracked_component(stage="training")
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    train_data: dsl.Input[dsl.Dataset], max_iter: int, learning_rate: float, model: dsl.Output[dsl.Model]
) -> None:
    """Fit the model, and log it to MLflow; the artifact says where it is."""
    from pathlib import Path

    import tracklayer
    from flights_model import training

    if run := tracklayer.current_run():
        run.consumes(train_data.uri, train_data.metadata["digest"], name="flights-train")
    settings = training.TrainingSettings(max_iter=max_iter, learning_rate=learning_rate)
    trained = training.train(train_data.path, settings)
    model.metadata.update(model_uri=trained.model_uri, iterations=trained.iterations)
    Path(model.path).write_text(trained.model_uri, encoding="utf-8")


@tracked_component(stage="evaluation")
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    model: dsl.Input[dsl.Model], train_data: dsl.Input[dsl.Dataset], test_data: dsl.Input[dsl.Dataset]
) -> bool:
    """Judge the model on flights that it has not seen; True if it is better than the baseline."""
    import tracklayer
    from flights_model import evaluation

    if run := tracklayer.current_run():
        run.consumes(test_data.uri, test_data.metadata["digest"], name="flights-test")
    result = evaluation.evaluate(model.metadata["model_uri"], test_data.path, train_data.path)
    return result.better_than_baseline


@tracked_pipeline
@dsl.pipeline(name="flights")
def flights(sample: int = 0, max_iter: int = 100, learning_rate: float = 0.1) -> None:
    """Prepare the flights of 2013, train a model that says which will be late, and judge it."""
    prepared = prepare(sample=sample)
    trained = train(train_data=prepared.outputs["train_data"], max_iter=max_iter, learning_rate=learning_rate)
    evaluate(
        model=trained.outputs["model"],
        train_data=prepared.outputs["train_data"],
        test_data=prepared.outputs["test_data"],
    )


def main() -> None:
    """Run the pipeline on this machine, with KFP's local runner."""
    from kfp import local

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="about how many flights to use; 0 for all")
    parser.add_argument("--max-iter", type=int, default=100, help="iterations of the training")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="shrinkage of each iteration")
    parser.add_argument("--work-dir", help="folder for the data; a new one below the temporary folder")
    options = parser.parse_args()
    work_dir = options.work_dir or tempfile.mkdtemp(prefix="flights-")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=work_dir)
    flights(sample=options.sample, max_iter=options.max_iter, learning_rate=options.learning_rate)


if __name__ == "__main__":
    main()
