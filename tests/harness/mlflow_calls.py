"""MLflow's calls on a run, right and wrong ones, for tests that compare what they do in a stage and untracked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

NOW = 1_700_000_000_000
"""A time stamp, so that metric points can be compared."""

OURS = re.compile(r"tracklayer|mlflow\.(parentRunId|user|source|note\.content$)")
"""Tags that belong to a run's place in a pipeline, not to what was called."""


@dataclass
class Told:
    """How a call ended, and what the run had then."""

    error: str | None
    code: str | None
    message: str | None
    data: dict[str, Any]


def _point(key: str, value: Any, step: Any = 0, timestamp: Any = NOW) -> Metric:
    return Metric(key, value, timestamp, step)


def _dataset(name: str = "flights", digest: str = "1a2b", **tags: str) -> DatasetInput:
    dataset = Dataset(name=name, digest=digest, source_type="local", source='{"uri": "/data"}', schema="{}")
    return DatasetInput(dataset, [InputTag(key, value) for key, value in tags.items()])


def two(first: Callable[[], object], second: Callable[[], object]) -> None:
    """One call, and another one."""
    first()
    second()


def _model(client: MlflowClient, run: str, step: Any) -> LoggedModelOutput:
    model = client.create_logged_model(client.get_run(run).info.experiment_id, source_run_id=run)
    return LoggedModelOutput(model.model_id, step)


def _twice(model: LoggedModelOutput, call: Callable[[LoggedModelOutput], object]) -> None:
    call(model)
    call(model)


def _deleted(client: MlflowClient, run: str, then: Callable[[], object]) -> None:
    client.delete_run(run)
    try:
        then()
    finally:
        client.restore_run(run)


def _ended(client: MlflowClient, run: str, then: Callable[[], object]) -> None:
    client.set_terminated(run, "FINISHED", NOW)
    then()


def _fails(call: Callable[[], object]) -> None:
    """A call that is refused, after which the run goes on."""
    try:
        call()
    except MlflowException:
        return
    raise AssertionError("it was not refused")


CALLS: dict[str, Callable[[MlflowClient, str], object]] = {
    # Params
    "param": lambda client, run: client.log_param(run, "lr", 0.1),
    "param None": lambda client, run: client.log_param(run, "lr", None),
    "param of 6,001 characters is cut": lambda client, run: client.log_param(run, "long", "x" * 6_001),
    "param with an empty value": lambda client, run: client.log_param(run, "empty", ""),
    "param without a name": lambda client, run: client.log_param(run, "", 1),
    "param with no name": lambda client, run: client.log_param(run, None, 1),  # type: ignore[arg-type]
    "param with a number for a name": lambda client, run: client.log_param(run, 7, 1),  # type: ignore[arg-type]
    "param with a name that is a path": lambda client, run: client.log_param(run, "a/../b", 1),
    "param with a double slash": lambda client, run: client.log_param(run, "no//path", 1),
    "param with a character that is not allowed": lambda client, run: client.log_param(run, "what?", 1),
    "param with umlauts": lambda client, run: client.log_param(run, "größe", "süß"),
    "param with a name of 250": lambda client, run: client.log_param(run, "k" * 250, 1),
    "param with a name of 251": lambda client, run: client.log_param(run, "k" * 251, 1),
    "param with half a character": lambda client, run: client.log_param(run, "half", "\ud800"),
    "tag with half a character": lambda client, run: client.set_tag(run, "half", "\ud800"),
    "param again": lambda client, run: two(
        lambda: client.log_param(run, "lr", 0.1), lambda: client.log_param(run, "lr", 0.1)
    ),
    "param changed": lambda client, run: two(
        lambda: client.log_param(run, "lr", 0.1), lambda: client.log_param(run, "lr", 0.2)
    ),
    "param changed behind the cut": lambda client, run: two(
        lambda: client.log_param(run, "long", "x" * 6_000 + "a"),
        lambda: client.log_param(run, "long", "x" * 6_000 + "b"),
    ),
    "params changed in a batch": lambda client, run: two(
        lambda: client.log_batch(run, params=[Param("a", "1"), Param("b", "2")]),
        lambda: client.log_batch(run, params=[Param("a", "1"), Param("b", "3"), Param("c", "4")]),
    ),
    "param of a batch changed": lambda client, run: two(
        lambda: client.log_batch(run, params=[Param("a", "1")]), lambda: client.log_param(run, "a", 2)
    ),
    "param after one that was refused": lambda client, run: two(
        lambda: _fails(lambda: client.log_param(run, "no//path", 1)), lambda: client.log_param(run, "good", 1)
    ),
    # Metrics
    "metric": lambda client, run: client.log_metric(run, "auc", 0.9, NOW, 3),
    "metric of an int": lambda client, run: client.log_metric(run, "count", 7, NOW),
    "metric of numpy's": lambda client, run: client.log_metric(run, "auc", np.float32(0.5), NOW, 3),  # type: ignore[arg-type]
    "metric with a name of numpy's": lambda client, run: client.log_metric(run, np.str_("auc"), np.float64(0.5), NOW),
    "metric at a step of numpy's": lambda client, run: client.log_metric(run, "auc", 0.5, NOW, np.int64(3)),  # type: ignore[arg-type]
    "metric at half a step": lambda client, run: client.log_metric(run, "auc", 0.5, NOW, 1.5),  # type: ignore[arg-type]
    "metric of a bool": lambda client, run: client.log_metric(run, "flag", True, NOW),
    "metric of a number in a string": lambda client, run: client.log_metric(run, "auc", "0.9", NOW),  # type: ignore[arg-type]
    "metric of a word": lambda client, run: client.log_metric(run, "auc", "high", NOW),  # type: ignore[arg-type]
    "metric of None": lambda client, run: client.log_metric(run, "auc", None, NOW),  # type: ignore[arg-type]
    "metric of a list": lambda client, run: client.log_metric(run, "auc", [0.9], NOW),  # type: ignore[arg-type]
    "metric NaN": lambda client, run: client.log_metric(run, "auc", math.nan, NOW),
    "metric infinite": lambda client, run: client.log_metric(run, "auc", math.inf, NOW),
    "metric infinitely small": lambda client, run: client.log_metric(run, "auc", -math.inf, NOW),
    "metric at a negative step": lambda client, run: client.log_metric(run, "auc", 0.9, NOW, -1),
    "metric at a step of 64 bits": lambda client, run: client.log_metric(run, "auc", 0.9, NOW, 2**62),
    "metric before 1970": lambda client, run: client.log_metric(run, "auc", 0.9, -1),
    "metric without a name": lambda client, run: client.log_metric(run, "", 0.9, NOW),
    "metric with no name": lambda client, run: client.log_metric(run, None, 0.9, NOW),  # type: ignore[arg-type]
    "metric with a bad name": lambda client, run: client.log_metric(run, "a//b", 0.9, NOW),
    "metric with a name of 251": lambda client, run: client.log_metric(run, "m" * 251, 0.9, NOW),
    "metric twice the same": lambda client, run: two(
        lambda: client.log_metric(run, "auc", 0.9, NOW, 1), lambda: client.log_metric(run, "auc", 0.9, NOW, 1)
    ),
    "metric with a later point of an earlier step": lambda client, run: two(
        lambda: client.log_metric(run, "auc", 0.9, NOW, 2), lambda: client.log_metric(run, "auc", 0.8, NOW + 9, 1)
    ),
    "metric of a new type after a usual one": lambda client, run: two(
        lambda: client.log_metric(run, "auc", 0.9, NOW),
        lambda: client.log_metric(run, "auc", "low", NOW + 1),  # type: ignore[arg-type]
    ),
    "metrics in a batch": lambda client, run: client.log_batch(run, metrics=[_point("a", 1.0), _point("a", 2.0, 1)]),
    "metrics in a batch, one with a bad name": lambda client, run: client.log_batch(
        run, metrics=[_point("good", 1.0), _point("bad//", 2.0)]
    ),
    "metrics of 1,001 points": lambda client, run: client.log_batch(
        run, metrics=[_point("a", float(step), step) for step in range(1_001)]
    ),
    # Tags
    "tag": lambda client, run: client.set_tag(run, "team", "risk"),
    "tag of a number": lambda client, run: client.set_tag(run, "team", 7),
    "tag that is set again": lambda client, run: two(
        lambda: client.set_tag(run, "team", "risk"), lambda: client.set_tag(run, "team", "growth")
    ),
    "tag of 8,001 characters is cut": lambda client, run: client.set_tag(run, "long", "x" * 8_001),
    "tag without a name": lambda client, run: client.set_tag(run, "", "risk"),
    "tag with a bad name": lambda client, run: client.set_tag(run, "a//b", "risk"),
    "tag with a name of 251": lambda client, run: client.set_tag(run, "t" * 251, "risk"),
    "tag with the run's name": lambda client, run: client.set_tag(run, "mlflow.runName", "another name"),
    "tags in a batch": lambda client, run: client.log_batch(run, tags=[RunTag("a", "1"), RunTag("a", "2")]),
    "tag taken away": lambda client, run: two(
        lambda: client.set_tag(run, "team", "risk"), lambda: client.delete_tag(run, "team")
    ),
    "tag taken away that is not there": lambda client, run: client.delete_tag(run, "team"),
    "tag taken away without a name": lambda client, run: client.delete_tag(run, ""),
    # Batches
    "batch of everything": lambda client, run: client.log_batch(
        run, [_point("auc", 0.9)], [Param("lr", "0.1")], [RunTag("team", "risk")]
    ),
    "batch of nothing": lambda client, run: client.log_batch(run),
    "batch with one param twice": lambda client, run: client.log_batch(run, params=[Param("a", "1"), Param("a", "1")]),
    "batch with a bad tag, of which nothing lands": lambda client, run: client.log_batch(
        run, [_point("auc", 0.9)], [Param("lr", "0.1")], [RunTag("a//b", "risk")]
    ),
    "batch of 101 params": lambda client, run: client.log_batch(
        run, params=[Param(f"p{number}", "1") for number in range(101)]
    ),
    "batch without a param's name": lambda client, run: client.log_batch(run, params=[Param("", "1")]),
    # Runs
    "end": lambda client, run: client.set_terminated(run, "FAILED", NOW),
    "end as nothing that there is": lambda client, run: client.set_terminated(run, "DONE", NOW),
    "end at half a millisecond": lambda client, run: client.set_terminated(run, "FINISHED", NOW + 0.5),  # type: ignore[arg-type]
    "end and log more": lambda client, run: _ended(client, run, lambda: client.log_metric(run, "late", 1.0, NOW)),
    "end and begin again": lambda client, run: _ended(client, run, lambda: client.update_run(run, status="RUNNING")),
    "scheduled": lambda client, run: client.update_run(run, status="SCHEDULED"),
    "rename": lambda client, run: client.update_run(run, name="another name"),
    "rename and end": lambda client, run: client.update_run(run, status="KILLED", name="another name"),
    "log to a deleted run": lambda client, run: _deleted(client, run, lambda: client.log_metric(run, "auc", 0.9, NOW)),
    "set a tag of a deleted run": lambda client, run: _deleted(client, run, lambda: client.set_tag(run, "a", "b")),
    "log a param to a deleted run": lambda client, run: _deleted(client, run, lambda: client.log_param(run, "a", "b")),
    "end a deleted run": lambda client, run: _deleted(client, run, lambda: client.set_terminated(run)),
    "log to a run that is not there": lambda client, run: client.log_metric("0" * 32, "auc", 0.9, NOW),
    "set a tag of a run that is not there": lambda client, run: client.set_tag("0" * 32, "a", "b"),
    "end a run that is not there": lambda client, run: client.set_terminated("0" * 32),
    "log to a run that nobody could have given out": lambda client, run: client.log_param("no run", "a", "b"),
    "history of a run that is not there": lambda client, run: client.get_metric_history("0" * 32, "auc"),
    "read a run that is not there": lambda client, run: client.get_run("0" * 32),
    # Inputs
    "input": lambda client, run: client.log_inputs(run, [_dataset(**{"mlflow.data.context": "training", "site": "a"})]),
    "input twice": lambda client, run: two(
        lambda: client.log_inputs(run, [_dataset()]), lambda: client.log_inputs(run, [_dataset()])
    ),
    "input again in another context": lambda client, run: two(
        lambda: client.log_inputs(run, [_dataset(**{"mlflow.data.context": "training"})]),
        lambda: client.log_inputs(run, [_dataset(**{"mlflow.data.context": "eval"})]),
    ),
    "input again with another tag": lambda client, run: two(
        lambda: client.log_inputs(run, [_dataset(site="a")]), lambda: client.log_inputs(run, [_dataset(site="b")])
    ),
    "input with a digest of 37": lambda client, run: client.log_inputs(run, [_dataset(digest="d" * 37)]),
    "input with a name of 501": lambda client, run: client.log_inputs(run, [_dataset(name="n" * 501)]),
    # Models
    "output": lambda client, run: client.log_outputs(run, [_model(client, run, 3)]),
    "output at no step": lambda client, run: client.log_outputs(run, [_model(client, run, None)]),
    "outputs of nothing": lambda client, run: client.log_outputs(run, []),
    "output at a step that is a word": lambda client, run: client.log_outputs(run, [_model(client, run, "first")]),
    "output of a deleted run": lambda client, run: _deleted(
        client, run, lambda: client.log_outputs(run, [_model(client, run, 1)])
    ),
    "output twice": lambda client, run: _twice(_model(client, run, 1), lambda model: client.log_outputs(run, [model])),
    "model of a type that is a number": lambda client, run: client.create_logged_model(
        client.get_run(run).info.experiment_id,
        source_run_id=run,
        model_type=7,  # type: ignore[arg-type]
    ),
    # New runs
    "create a run in an experiment by its number": lambda client, run: client.create_run(
        int(client.get_run(run).info.experiment_id),  # type: ignore[arg-type]
    ),
    "create a run in no experiment": lambda client, run: client.create_run("987654321"),
    "create a run with two names": lambda client, run: client.create_run(
        client.get_run(run).info.experiment_id, tags={"mlflow.runName": "one"}, run_name="two"
    ),
    "create a run in an experiment that is none": lambda client, run: client.create_run("no experiment"),
    # Asynchronously
    "asynchronous param": lambda client, run: waited(client.log_param(run, "lr", 0.1, synchronous=False)),
    "asynchronous metric": lambda client, run: waited(client.log_metric(run, "auc", 0.9, NOW, synchronous=False)),
    "asynchronous tag": lambda client, run: waited(client.set_tag(run, "team", "risk", synchronous=False)),
    "asynchronous batch": lambda client, run: waited(
        client.log_batch(run, [_point("auc", 0.9)], [Param("lr", "0.1")], synchronous=False)
    ),
    "asynchronous param that is refused": lambda client, run: waited(
        client.log_param(run, "no//path", 1, synchronous=False)
    ),
}


SERVER_ONLY = {"metric at a step of numpy's", "metric at half a step", "output at a step that is a word"}
"""SQLite, where MLflow writes it itself, keeps such a step as it comes, and cannot always read it back."""


def waited(operations: Any) -> None:
    """Wait for an asynchronous call."""
    operations.wait()


def told(client: MlflowClient, run_id: str, call: Callable[[MlflowClient, str], object]) -> Told:
    """Make the call, and look what there is."""
    return Told(*ended(lambda: call(client, run_id)), data_of(client, run_id))


def ended(call: Callable[[], object]) -> tuple[str | None, str | None, str | None]:
    """How a call ends: the name of what it raises, MLflow's code of that, and the message without ids."""
    try:
        call()
    except Exception as error:
        message = re.sub(r"[0-9a-f]{32}", "<id>", str(error)).replace("0" * 32, "<id>")
        return type(error).__name__, getattr(error, "error_code", None), message
    return None, None, None


def data_of(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """What a run has, but for what is tracklayer's."""
    run = client.get_run(run_id)
    return {
        "params": run.data.params,
        "metrics": {
            key: [(point.step, point.timestamp, repr(point.value)) for point in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        },
        "latest": {key: repr(value) for key, value in run.data.metrics.items()},
        "tags": {key: value for key, value in run.data.tags.items() if not OURS.search(key)},
        "name": run.info.run_name,
        "status": run.info.status,
        "ended": run.info.end_time and (NOW if int(run.info.end_time) == NOW else "now"),
        "stage": run.info.lifecycle_stage,
        "inputs": [
            (item.dataset.name, item.dataset.digest, sorted((tag.key, tag.value) for tag in item.tags))
            for item in (run.inputs.dataset_inputs if run.inputs else [])
        ],
        "outputs": sorted(item.step for item in (run.outputs.model_outputs if run.outputs else [])),
    }
