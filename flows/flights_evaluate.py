"""Judges a model of late flights that was trained elsewhere.

The last leg of a relay. The token of the run that trained the model comes with it (in the environment variable
TRACKLAYER_PARENT, or as the parameter `tracklayer_token` of a deployment), so that the evaluation run here is linked
to the training run there, across experiments and orchestrators. The data links it to the run that prepared that.

    TRACKLAYER_PARENT=… python flows/flights_evaluate.py --model models:/m-… --train train.parquet --test test.parquet
"""

from __future__ import annotations

import argparse

from prefect import flow, task

import tracklayer
from tracklayer_prefect import tracked_flow, tracked_task


@tracked_task(stage="evaluation")
@task
def evaluate(model: str, train: str, test: str) -> dict[str, float]:
    """Score the model on flights that it has not seen, and compare with what anyone could say without it."""
    from flights_model import dataset, evaluation

    if run := tracklayer.current_run():
        data = dataset.describe("flights-test", test)
        run.consumes(data.uri, data.digest, name=data.name)
    result = evaluation.evaluate(model, test, train)
    if not result.better_than_baseline:
        print(f"{model} is no better than the baseline")
    return dict(result.metrics)


@tracked_flow
@flow(name="flights-evaluate")
def flights_evaluate(
    model: str,
    train: str,
    test: str,
    tracklayer_token: str | None = None,  # noqa: ARG001 - read by tracklayer
) -> dict[str, float]:
    """Judge a model that says which flights will be late.

    Args:
        model: the model, as MLflow calls it (``models:/m-…``, ``models:/flights@champion``).
        train: Parquet file of the training set, from which the baseline is made.
        test: Parquet file of the test set.
        tracklayer_token: token of the run that trained the model; whoever triggers a deployment of this flow gives it.

    Returns:
        The metrics.
    """
    return evaluate(model, train, test)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="the model, as in models:/m-…")
    parser.add_argument("--train", required=True, help="Parquet file of the training set")
    parser.add_argument("--test", required=True, help="Parquet file of the test set")
    for name, value in sorted(flights_evaluate(**vars(parser.parse_args())).items()):
        print(f"{name:25} {value:8.4f}")
