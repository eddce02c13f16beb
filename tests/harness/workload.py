"""The user's code of the fault tests: a small pipeline that makes every kind of call, and keeps a ledger of them.

It runs in a process of its own (``python -m harness.workload PLAN``, or forked from `harness.warm`). Untracked, it is
the same code without the calls: what it prints, raises and exits with is what the tracked one must.
"""

# ruff: noqa: T201 - user code prints

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.ledger import LABEL, Ledger, value_of
from harness.once import elsewhere, mlflow_once, own_once
from harness.plan import Plan
from harness.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer import RunContext, StageRun

ORCHESTRATOR = "faults"
MANY = 65
"""Metric points of one call."""


class Book:
    """Makes calls and keeps the ledger of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(plan.ledger)
        self._steps: dict[tuple[str, str], int] = {}

    def call(self, kind: str, run: str, function: Any, answer: Any = None, **told: Any) -> Any:
        """One call, if the code is tracked at all."""
        if not self.plan.tracked:
            return None
        result = self.ledger.call(kind, run, function, answer, **told)
        time.sleep(self.plan.pace)
        return result

    def pause(self, place: str) -> None:
        """Note that the code has come here; wait for the test's ``go`` if the plan says so."""
        self.ledger.reached(place)
        go = Path(f"{self.plan.ledger}.go-{place}")
        while place in self.plan.pauses and not go.exists():
            time.sleep(0.005)

    def context(self, task: str | None) -> RunContext | None:
        """Where the code runs; None leaves that to tracklayer."""
        from tracklayer import RunContext, TaskRun, WorkflowRun

        if self.plan.script:
            return None
        return RunContext(
            workflow_run=WorkflowRun(orchestrator=ORCHESTRATOR, workflow=self.plan.workflow, run_id=self.plan.run_id),
            task_run=TaskRun(task=f"{self.plan.label}.{task}") if task else None,
            owns_workflow_run=self.plan.alone,
        )

    @contextmanager
    def stage(self, task: str) -> Iterator[StageRun | None]:
        """A tracked stage, with its beginning and end in the ledger."""
        if not self.plan.tracked:
            yield None
            return
        from tracklayer import track

        label = self.plan.run_label(task)
        experiment = self.plan.workflow if self.plan.script else None
        manager = track(stage=task, context=self.context(task), tags={LABEL: label}, experiment=experiment)
        with self._entered(manager, label, None, lambda run: {"id": run.run_id}) as run:
            yield run

    def param(self, run: str, key: str, value: str, function: Any) -> None:
        """A param; of several values of one the first stands."""
        self.call("param", run, function, key=key, value=value)

    def tag(self, run: str, key: str, value: str | None, function: Any) -> None:
        """A tag; the last value stands. None: it is taken away."""
        self.call("tag", run, function, key=key, value=value)

    @contextmanager
    def nested(self, label: str, stage: str) -> Iterator[None]:
        """A run that MLflow is asked to nest below the stage."""
        if not self.plan.tracked:
            yield
            return
        import mlflow

        manager: list[Any] = []

        class Started:
            def __enter__(self) -> Any:
                manager.append(mlflow.start_run(nested=True, run_name=label, tags={LABEL: label}))
                return manager[0].__enter__()

            def __exit__(self, *details: object) -> Any:
                return manager[0].__exit__(*details)

        with self._entered(Started(), label, stage, lambda run: {"id": run.info.run_id}, name=label):
            yield

    @contextmanager
    def _entered(self, manager: Any, label: str, stage: str | None, answer: Any, **told: str) -> Iterator[Any]:
        run = self.call("run", label, manager.__enter__, answer, below=stage, **told)
        try:
            yield run
        except BaseException as error:
            caught = (type(error), error, error.__traceback__)
            self.call("end", label, lambda: manager.__exit__(*caught), status="FAILED", raises=type(error).__name__)
            raise
        self.call("end", label, lambda: manager.__exit__(None, None, None), status="FINISHED")

    def points(self, key: str, label: str, log: Any, count: int | None = None) -> None:
        """Metric points, one call each, with steps that go on where the last ones ended."""
        first = self._steps.get((label, key), 90)  # the values of steps 94 to 96 are no numbers
        count = self.plan.points if count is None else count
        self._steps[label, key] = first + count
        for step in range(first, first + count):
            self.call(
                "points",
                label,
                lambda step=step: log(key, value_of(key, step), step=step),
                key=key,
                first=step,
                last=step,
            )

    def batches(self, key: str, label: str, run_id: str) -> None:
        """Many metric points by each call; so many that requests are full of them and none ends where a call's do."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client, first = MlflowClient(), self._steps.get((label, key), 100)
        for _ in range(self.plan.many):
            steps = range(first, first + MANY)
            now = time.time_ns() // 1_000_000
            points = [Metric(key, value_of(key, step), now, step) for step in steps]
            told = {"key": key, "first": steps[0], "last": steps[-1]}
            self.call("points", label, lambda points=points: client.log_batch(run_id, points), **told)
            first += MANY
        self._steps[label, key] = first

    # ------------------------------------------------------------------------------------------ what a round does

    def own_round(self, run: Any, label: str, number: int) -> None:
        """All of tracklayer's own calls."""
        call = self.call
        self.param(label, f"own.p{number}", str(number), lambda: run.log_params({f"own.p{number}": number}))
        self.points("own.loss", label, run.log_metric if run is not None else None)
        self.tag(label, f"own.t{number}", "ü", lambda: run.set_tag(f"own.t{number}", "ü"))
        self.tag(label, "own.last", f"{number} own", lambda: run.set_tag("own.last", f"{number} own"))
        if self.plan.once and number == 0:
            own_once(self, run, label)
        if self.plan.files:
            uri, digest = f"s3://{label}", f"d{number}"
            call("dataset", label, lambda: run.produces(uri, digest), name=label.rpartition("/")[2], digest=digest)
            text, path = f"{label} {number}\n" * 3, f"own/{number}.txt"
            call("artifact", label, lambda: run.log_text(text, path), path=path, text=text)

    def mlflow_round(self, label: str, number: int) -> None:
        """MLflow's calls, which land in the stage's run; and a nested run."""
        if not self.plan.tracked:
            return
        import mlflow

        call = self.call
        self.param(label, f"ml.p{number}", str(number), lambda: mlflow.log_param(f"ml.p{number}", number))
        self.points("ml.auc", label, _now_and_then_asynchronously)
        if active := mlflow.active_run():
            self.batches("ml.many", label, active.info.run_id)
        self.tag(label, f"ml.t{number}", "a\nb", lambda: mlflow.set_tag(f"ml.t{number}", "a\nb"))
        self.tag(label, "own.last", f"{number} ml", lambda: mlflow.set_tag("own.last", f"{number} ml"))
        if self.plan.once and number == 0:
            mlflow_once(self, label, label.rpartition(".")[2])
        if self.plan.files:
            from mlflow.data.http_dataset_source import HTTPDatasetSource
            from mlflow.data.meta_dataset import MetaDataset

            name, digest = f"ml-{label.rpartition('/')[2]}", f"m{number}"
            source: Any = HTTPDatasetSource
            kind: Any = MetaDataset
            data = kind(source(f"http://127.0.0.1/{label}"), name=name, digest=digest)
            call("dataset", label, lambda: mlflow.log_input(data), name=name, digest=digest)
            text, path = f"{label} {number} mlflow", f"ml/{number}.txt"
            if self.plan.temporary:
                call("artifact", label, lambda: mlflow.log_text(text, path), path=path, text=text)
            name = f"{self.plan.label}-file-{number}.txt"
            Path(name).write_text(text)
            call("artifact", label, lambda: mlflow.log_artifact(name, "ml"), path=f"ml/{name}", text=text)
        if self.plan.nested:
            inner = f"{label}.nested{number}"
            with self.nested(inner, label):
                depth = {"ml.depth": number}
                self.param(inner, "ml.depth", str(number), lambda: mlflow.log_params(depth, synchronous=False))
                self.points("ml.inner", inner, mlflow.log_metric)
            if self.plan.once and number == 0:
                elsewhere(self, label)


def _now_and_then_asynchronously(key: str, value: float, step: int) -> None:
    import mlflow

    mlflow.log_metric(key, value, step=step, synchronous=step % 2 == 0)


def run(plan: Plan) -> None:
    """The user's code."""
    book = Book(plan)
    print("begins", flush=True)
    before: tuple[str, Any, str] | None = None
    try:
        for index in range(plan.stages):
            task = ("train", "evaluate", "report", "publish")[index]
            label = plan.run_label(task)
            with book.stage(task) as stage:
                if before is not None and plan.tracked:
                    _link(book, stage, label, before)
                for number in range(plan.rounds):
                    if plan.own:
                        book.own_round(stage, label, number)
                    if plan.mlflow:
                        book.mlflow_round(label, number)
                    book.pause(f"{task}-{number}")
                if plan.children and index == 0:
                    from harness.offspring import OFFSPRING

                    OFFSPRING[plan.children](book, stage, label)
                print(task, "done", flush=True)
                before = (label, stage.token if stage is not None else None, f"s3://{label}")
                if index == plan.stages - 1:
                    _end(plan.ending)
    finally:
        if plan.close and not plan.script:
            close(book)
    print("result: 42", flush=True)


def _link(book: Book, stage: Any, label: str, before: tuple[str, Any, str]) -> None:
    """Link the stage to the one before it: by the token that it handed over, and by the data that it made."""
    upstream, token, uri = before
    book.call("link", label, lambda: stage.link(token), upstream=upstream)
    if book.plan.own and book.plan.files and book.plan.rounds:
        told = {"name": uri.rpartition("/")[2], "digest": "d0"}
        book.call("dataset", label, lambda: stage.consumes(uri, "d0"), **told)


def close(book: Book) -> None:
    """End the workflow run, as its orchestrator does."""
    from tracklayer.tracking import close_workflow_run

    context = book.context(None)
    if context is not None:
        book.call("close", book.plan.run_id, lambda: close_workflow_run(context, "FINISHED"))


def _end(ending: str) -> None:
    if ending == "raise":
        raise ValueError("the user's own mistake")
    if ending == "exit":
        sys.exit(7)


def main(text: str) -> None:
    """Run a plan; an end that is not ``ok`` leaves by its exception."""
    plan = Plan.parse(text)
    if plan.trace:
        trace(plan)
    run(plan)


if __name__ == "__main__":
    main(sys.argv[1])
