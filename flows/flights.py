"""Will a flight out of New York be late? Prepares the flights of 2013, trains a model, and judges it.

The three stages of a model's life in one flow. Each task is an MLflow run below the run of the flow run; what feeds
what is linked because Prefect knows it. The only tracklayer here are the two decorators and saying which datasets come
and go; what the model code logs through plain `mlflow` calls lands in the task's run by itself.

    python flows/flights.py --sample 20000 --max-iter 20
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import TYPE_CHECKING

from prefect import flow, task

import tracklayer
from tracklayer_prefect import tracked_flow, tracked_task

if TYPE_CHECKING:
    from flights_model.evaluation import Evaluation
    from flights_model.preparation import Prepared
    from flights_model.training import Trained


@tracked_task(stage="data-prep")
@task
def prepare(sample: int | None, data_dir: str | None) -> Prepared:
    """Join flights and weather, clean, add features, split by time."""
    from flights_model import preparation

    prepared = preparation.prepare(data_dir or tempfile.mkdtemp(prefix="flights-"), sample=sample)
    if run := tracklayer.current_run():
        run.log_params(prepared.params())
        run.log_metrics(prepared.metrics())
        for dataset in (prepared.train, prepared.test):
            run.produces(dataset.uri, dataset.digest, name=dataset.name, schema=json.dumps(dict(dataset.schema)))
    return prepared


@tracked_task(stage="training")
@task(retries=1)
def train(prepared: Prepared, max_iter: int, learning_rate: float) -> Trained:
    """Fit gradient boosted trees."""
    from flights_model import training

    data = prepared.train
    if run := tracklayer.current_run():
        run.consumes(data.uri, data.digest, name=data.name)
    return training.train(data.path, training.TrainingSettings(max_iter=max_iter, learning_rate=learning_rate))


@tracked_task(stage="evaluation")
@task
def evaluate(prepared: Prepared, trained: Trained) -> Evaluation:
    """Compare with what anyone could say without a model."""
    from flights_model import evaluation

    data = prepared.test
    if run := tracklayer.current_run():
        run.consumes(data.uri, data.digest, name=data.name)
    return evaluation.evaluate(trained.model_uri, data.path, prepared.train.path)


@tracked_flow
@flow(name="flights")
def flights(
    sample: int | None = None, max_iter: int = 100, learning_rate: float = 0.1, data_dir: str | None = None
) -> dict[str, float]:
    """Prepare the flights of 2013, train a model that says which will be late, and judge it.

    Args:
        sample: about how many flights; None: all.
        max_iter: boosting iterations.
        learning_rate: shrinkage of each iteration.
        data_dir: folder for the prepared data; None: a new one.

    Returns:
        The evaluation's metrics.
    """
    prepared = prepare(sample, data_dir)
    trained = train(prepared, max_iter, learning_rate)
    return dict(evaluate(prepared, trained).metrics)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sample", type=int, help="about how many flights; all if it is not given")
    parser.add_argument("--max-iter", type=int, default=100, help="boosting iterations")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="shrinkage of each iteration")
    parser.add_argument("--data-dir", help="folder for the prepared data; a new one if it is not given")
    for name, value in sorted(flights(**vars(parser.parse_args())).items()):
        print(f"{name:25} {value:8.4f}")
