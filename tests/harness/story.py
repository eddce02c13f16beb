"""Runs written straight into a store as tracklayer writes them, for tests of what reads them."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tracklayer.context import RunContext, RunRef, TaskRun, Upstream, WorkflowRun
from tracklayer.identity import key_tag, member_tag, run_key, workflow_run_key
from tracklayer.linking import link_tags, produced_tags
from tracklayer.parent import BALLOT
from tracklayer.store import Dataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.context import LinkKind
    from tracklayer.store import Store

START = 1_795_000_000_000
"""When every story begins, in milliseconds since the epoch."""


def link(run: RunRef, kind: LinkKind = "hand-over", dataset: str | None = None, digest: str | None = None) -> Upstream:
    """A link to `run`."""
    return Upstream(run=run, kind=kind, dataset=dataset, digest=digest)


def dataset(uri: str, digest: str = "unversioned", *, produced: bool = False) -> Dataset:
    """A dataset as `StageRun.consumes` and `StageRun.produces` log it."""
    return Dataset(
        name=uri.rpartition("/")[2] or uri,
        digest=digest,
        source_type="uri",
        source=json.dumps({"uri": uri}),
        context="produced" if produced else "consumed",
    )


@dataclass
class Author:
    """Writes workflow runs and stage runs into one store. Names of workflows are its own, so stores can be shared."""

    store: Store
    mark: str = ""
    clock: int = START

    def __post_init__(self) -> None:
        self.mark = self.mark or uuid.uuid4().hex[:8]

    def workflow_run(
        self, orchestrator: str, workflow: str, run_id: str, *, upstream: Sequence[Upstream] = ()
    ) -> tuple[RunContext, RunRef]:
        """The parent of a workflow run, in an experiment of the workflow's name."""
        name = f"{workflow}-{self.mark}"
        context = RunContext(workflow_run=WorkflowRun(orchestrator=orchestrator, workflow=name, run_id=run_id))
        found = self.store.get_experiment_by_name(name)
        experiment_id = found.experiment_id if found else self.store.create_experiment(name, {})
        ref = self._run(context, experiment_id, run_id, link_tags(upstream))
        ballot = Dataset(name=BALLOT, digest="0" * 32, source_type="code", source=json.dumps({"run_id": ref.run_id}))
        self.store.log_inputs(ref.run_id, [ballot])
        return replace(context, parent=ref), ref

    def stage(
        self,
        context: RunContext,
        task: str,
        stage: str,
        *,
        upstream: Sequence[Upstream] = (),
        reads: Sequence[Dataset] = (),
        makes: Sequence[Dataset] = (),
        status: str | None = "FINISHED",
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> RunRef:
        """A stage run of the workflow run of `context`; status None leaves it RUNNING."""
        parent = context.parent
        assert parent is not None
        context = replace(context, task_run=TaskRun(task=task), stage=stage)
        own = {
            "mlflow.parentRunId": parent.run_id,
            "tracklayer.stage": stage,
            member_tag(workflow_run_key(context.workflow_run)): "1",
            **link_tags(upstream),
            **(tags or {}),
        }
        for made in makes:
            own |= produced_tags(json.loads(made.source)["uri"], made.digest)
        ref = self._run(context, parent.experiment_id, name or task, own, status=status, stage=stage)
        self.store.log_inputs(ref.run_id, [*reads, *makes]) if reads or makes else None
        return ref

    def _run(
        self,
        context: RunContext,
        experiment_id: str,
        name: str,
        tags: Mapping[str, str],
        *,
        status: str | None = "FINISHED",
        stage: str | None = None,
    ) -> RunRef:
        key = run_key(context)
        workflow_run = context.workflow_run
        all_tags = {
            "tracklayer.key": key,
            "tracklayer.orchestrator": workflow_run.orchestrator,
            "tracklayer.workflow": workflow_run.workflow,
            "tracklayer.workflow_run": workflow_run.run_id,
            key_tag(key): "1",
            **tags,
        }
        self.clock += 60_000
        run = self.store.create_run(experiment_id, name=name, start_time=self.clock, tags=all_tags)
        if status:
            self.store.update_run(run.run_id, status=status, end_time=self.clock + 12_345)  # type: ignore[arg-type]
        return RunRef(run_id=run.run_id, experiment_id=experiment_id, key=key, name=name, stage=stage)


@dataclass(frozen=True)
class Relay:
    """The story of the demo: prepared in Airflow, trained in Kubeflow, evaluated in Prefect, and reported on."""

    preparation: RunRef
    ingest: RunRef
    prepare: RunRef
    training: RunRef
    train: RunRef
    evaluation: RunRef
    evaluate: RunRef
    report: RunRef


SOURCE = "https://example.com/nycflights13.csv"


def write_relay(author: Author) -> Relay:
    """Write it. Features travel from the second stage to the third by the dataset that they are."""
    raw, features = f"s3://flights/{author.mark}/raw", f"s3://flights/{author.mark}/features"
    context, preparation = author.workflow_run("airflow", "flights_prepare", "manual__2026-11-21T10:00:00+00:00")
    ingest = author.stage(
        context, "ingest", "data-prep", reads=[dataset(SOURCE)], makes=[dataset(raw, "r1", produced=True)]
    )
    prepare = author.stage(
        context,
        "prepare",
        "data-prep",
        upstream=[link(ingest)],
        makes=[dataset(features, "f1d2c3b4a5968778", produced=True)],
    )
    context, training = author.workflow_run(
        "kubeflow", "flights-train", "flights-train-x7k2p", upstream=[link(prepare, "token")]
    )
    train = author.stage(
        context,
        "train",
        "training",
        upstream=[link(prepare, "data", features, "f1d2c3b4a5968778")],
        reads=[dataset(features, "f1d2c3b4a5968778")],
    )
    context, evaluation = author.workflow_run(
        "prefect", "flights-evaluate", "brave-otter", upstream=[link(train, "token")]
    )
    evaluate = author.stage(context, "evaluate", "evaluation", upstream=[link(train, "token")])
    report = author.stage(context, "report", "report", upstream=[link(evaluate)], status="FAILED")
    return Relay(preparation, ingest, prepare, training, train, evaluation, evaluate, report)
