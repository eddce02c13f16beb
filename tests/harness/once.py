"""What user code of the fault tests does once in a stage: the calls that undo, repeat or contradict others, and models.

Most of them take a request of their own, or are a barrier that everything before has to pass first.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from harness.ledger import LABEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.workload import Book

LONG = 8_100
"""Characters of a tag: MLflow takes 8,000, and the servers of the fault tests cut nothing (see `harness.faults`)."""


def own_once(book: Book, run: Any, label: str) -> None:
    """By tracklayer's calls: a param twice, of which the first value stands, and a tag that the server refuses."""
    for value in ("first", "second"):
        book.param(label, "own.twice", value, lambda value=value: run.log_params({"own.twice": value}))
    book.param(label, "own.both", "first", lambda: run.log_params({"own.both": "first"}))
    book.call("refused", label, lambda: run.set_tag("own.long", "x" * LONG), what="tag", key="own.long")
    book.tag(label, "own.gone", "there", lambda: run.set_tag("own.gone", "there"))


def mlflow_once(book: Book, label: str, stage: str) -> None:
    """By MLflow's: a param twice, tags that are taken away, another name for the run, and a model that it made.

    Args:
        book: makes the calls.
        label: the run's label, whose run is active.
        stage: what the stage is called.
    """
    import mlflow
    from mlflow import MlflowClient

    book.param(label, "ml.twice", "first", lambda: mlflow.log_param("ml.twice", "first"))
    book.param(label, "ml.twice", "second", lambda: refused(lambda: mlflow.log_param("ml.twice", "second")))
    if book.plan.own:  # MLflow does not know what tracklayer was told: the server refuses it, and the run is told
        book.call("refused", label, lambda: mlflow.log_param("own.both", "second"), what="param", key="own.both")
        if stage != "train":  # a tag of which MLflow does not know either: this waits for the server
            book.tag(label, "own.gone", None, lambda: mlflow.delete_tag("own.gone"))
    for key, value in (
        ("ml.gone", "there"),
        ("ml.gone", None),
        ("ml.back", "there"),
        ("ml.back", None),
        ("ml.back", "again"),
    ):
        book.tag(
            label, key, value, partial(mlflow.delete_tag, key) if value is None else partial(mlflow.set_tag, key, value)
        )
    client, active = MlflowClient(), mlflow.active_run()
    assert active is not None
    run_id = active.info.run_id
    name = f"{stage} of {book.plan.label}"
    book.call("rename", label, lambda: client.update_run(run_id, name=name), name=name)
    _model(book, label, f"{stage}-{book.plan.label}", active.info.experiment_id, run_id)


def _model(book: Book, label: str, name: str, experiment: str, run_id: str) -> None:
    """A logged model of the run, with all that MLflow's flavours say of one but its files."""
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client = MlflowClient()
    tags, params = {"ml.made": "by hand"}, {"ml.depth": "3"}
    ready = LoggedModelStatus.READY
    model = book.call(
        "model",
        label,
        lambda: client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=tags, params=params),
        name=name,
        tags=tags,
        params=params,
    )
    outputs = [LoggedModelOutput(model.model_id, step=1)]
    book.call("output", label, lambda: client.log_outputs(run_id, outputs), name=name)
    book.call("ready", label, lambda: client.finalize_logged_model(model.model_id, ready), name=name)


def elsewhere(book: Book, label: str) -> None:
    """A run below the stage in another experiment, that fails, is opened again by its id, and succeeds."""
    import mlflow

    inner, name = f"{label}.elsewhere", f"{book.plan.workflow}-elsewhere"
    place = _experiment(name)
    tags = {LABEL: inner}
    run = book.call(
        "run",
        inner,
        lambda: mlflow.start_run(nested=True, run_name=inner, experiment_id=place, tags=tags),
        lambda run: {"id": run.info.run_id},
        below=label,
        name=inner,
        where=name,
    )
    book.param(inner, "ml.twice", "first", lambda: mlflow.log_param("ml.twice", "first"))
    book.tag(inner, "ml.try", "1", lambda: mlflow.set_tag("ml.try", "1"))
    book.call("end", inner, lambda: mlflow.end_run("FAILED"), status="FAILED")
    book.call("resume", inner, lambda: mlflow.start_run(run_id=run.info.run_id, nested=True))
    book.param(inner, "ml.twice", "second", lambda: refused(lambda: mlflow.log_param("ml.twice", "second")))
    book.tag(inner, "ml.try", "2", lambda: mlflow.set_tag("ml.try", "2", synchronous=False))
    book.points("ml.again", inner, mlflow.log_metric, 1)
    book.call("end", inner, lambda: mlflow.end_run("FINISHED"), status="FINISHED")


def _experiment(name: str) -> str:
    """Id of an experiment, as careful code finds it: another task may be about to make it, too."""
    import mlflow
    from mlflow.exceptions import MlflowException

    found = mlflow.get_experiment_by_name(name)
    if found is None:
        try:
            return str(mlflow.create_experiment(name))
        except MlflowException:
            found = mlflow.get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


def refused(log: Callable[[], Any]) -> None:
    """A call that MLflow refuses at once, tracked or not. Raises AssertionError if it does not."""
    from mlflow.exceptions import MlflowException

    try:
        log()
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return
    raise AssertionError("MLflow took what it must refuse")
