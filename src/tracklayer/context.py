"""The values that hooks receive: where code is running, and which runs stand for it.

All of them are frozen, hold plain data only (no clients, no orchestrator objects), and are safe to hand to
another thread or to pickle into another process.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec reads the annotations when a context goes to the journal
from dataclasses import dataclass, field, fields, replace
from datetime import datetime  # noqa: TC003 - as above
from types import MappingProxyType
from typing import Any, Literal

DATA_PREP = "data-prep"
TRAINING = "training"
EVALUATION = "evaluation"

SCRIPT = "script"
"""The orchestrator's name where there is none: a script or a notebook is a workflow of its own."""

NOTHING: Mapping[str, object] = MappingProxyType({})
"""The empty, read-only mapping that stands for "none given"."""


def _reduced(value: WorkflowRun | TaskRun) -> tuple[object, ...]:
    """How to pickle a value that may hold read-only mappings, which cannot be pickled as they are."""
    told = {item.name: getattr(value, item.name) for item in fields(value)}
    plain = {name: dict(item) if isinstance(item, MappingProxyType) else item for name, item in told.items()}
    return _made, (type(value), plain)


def _made(kind: type[WorkflowRun | TaskRun], told: Mapping[str, Any]) -> WorkflowRun | TaskRun:
    return kind(**told)


Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""MLflow's run statuses, as far as tracklayer writes them (``SCHEDULED`` is read, never written)."""

Truth = Literal["RUNNING", "FINISHED", "FAILED", "KILLED", "GONE"]
"""What may have become of a workflow run or task run: it has not ended (it runs, waits, or is to be run), it ended
with one of MLflow's statuses, or (``GONE``) its orchestrator has deleted it and cannot say how it ended."""

LinkKind = Literal["hand-over", "token", "data", "reused"]
"""How a link was found: the orchestrator handed the run over; a token named it; a dataset that it produced was
consumed; or a cached result of it was used instead of running again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRef:
    """A run in MLflow: enough to link to it, to show it, and to find it again.

    Attributes:
        run_id: MLflow's run id (32 hexadecimal digits with MLflow's own stores).
        experiment_id: the experiment that holds the run.
        key: tracklayer's readable key of the run (see `tracklayer.identity`); None for a run that tracklayer
            did not make.
        name: the run's name; None where it is not known (a token does not carry it).
        stage: the stage; None for a workflow-run parent, or where it is not known.
    """

    run_id: str
    experiment_id: str
    key: str | None = None
    name: str | None = None
    stage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What crosses a boundary: the run to link to, its parent, and the first workflow run of the story.

    Parsed strictly from outside input by `tracklayer.identity.parse_token`, and never trusted for more than a link.

    Attributes:
        run: the run that hands over.
        parent: the workflow-run parent of that run; None when `run` is itself a parent.
        root: run id of the workflow-run parent with which the story began.
    """

    run: RunRef
    parent: RunRef | None = None
    root: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One stage run that feeds the present one, as an orchestrator's hand-over or a token names it.

    Attributes:
        run: the run that feeds this one.
        kind: how it was found.
        dataset: URI of the dataset that connects the two, None if none is known.
        digest: digest of that dataset, None if none is known.
    """

    run: RunRef
    kind: LinkKind = "hand-over"
    dataset: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A stage run (`consumer`) uses what another one (`upstream`) made."""

    consumer: RunRef
    upstream: Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRun:
    """One run of a DAG, flow, pipeline or script.

    Attributes:
        orchestrator: ``airflow``, ``prefect``, ``kubeflow``, ``script``, or a plugin's own name.
        instance: which installation of it (two Airflows may have the same DAG ids); ``default`` if there is one.
        workflow: DAG id, flow name or pipeline name.
        run_id: the orchestrator's id of this workflow run; unique within the workflow.
        name: what people call this workflow run (Prefect's ``amber-fox``), for run names; None: its id says it.
        version: version of the workflow's definition (DAG version, deployment version), None if there is none.
        description: the workflow's own documentation, Markdown; becomes the experiment's description.
        url: the orchestrator's page of this workflow run.
        source: path of the file that defines the workflow, for the code version; None if unknown.
        started_at: when the workflow run started, aware; None means now.
        logical_date: the date that the workflow run is about (Airflow's logical date or ``run_after``); aware.
        params: the workflow run's own parameters (``dag_run.conf``, flow or pipeline parameters); may nest.
        tags: the orchestrator's tags (DAG tags, flow-run tags), for the experiment and the parent.
    """

    orchestrator: str
    instance: str = "default"
    workflow: str
    run_id: str
    name: str | None = None
    version: str | None = None
    description: str | None = None
    url: str | None = None
    source: str | None = None
    started_at: datetime | None = None
    logical_date: datetime | None = None
    params: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    __reduce__ = _reduced


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One try of one task.

    Attributes:
        task: the task's id or name within the workflow, with its groups (``features.join``).
        index: what tells runs of one task in one workflow run apart: Airflow's map index, a KFP loop iteration,
            the id of a Prefect task run. None for a task that runs once.
        name: what people call this task run (Prefect's ``train-3fa``), for run names; None: task and index say it.
        try_number: 1 for the first try.
        resumed: True when this same try has run before (Airflow's deferral, a rescheduled sensor, a resumed
            flow): its run is looked up and gone on with, at the price of one request.
        url: the orchestrator's page of this task run.
        started_at: when this try started, aware; None means now.
        params: the task's own arguments, as far as the orchestrator knows them; may nest.
        tags: tags of the task (operator, pool, queue).
    """

    task: str
    index: str | None = None
    name: str | None = None
    try_number: int = 1
    resumed: bool = False
    url: str | None = None
    started_at: datetime | None = None
    params: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    __reduce__ = _reduced


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Where code is running: one try of a task in a workflow run (or, without a task, the workflow run itself).

    Attributes:
        workflow_run: the workflow run.
        task_run: the try; None where the context is the workflow run's own (its parent run).
        stage: the stage that the user named; None if they named none (the hook ``tracklayer_stage`` decides).
        parent: the workflow-run parent, where the orchestrator already knows it (handed over by XCom, label, env);
            None means: find it or make it.
        owns_workflow_run: True where only one process can be at this place for this workflow run (a flow's own
            process, a script): its parent is then made without an election.
        tokens: tokens that reached the workflow run from outside (``dag_run.conf``, flow or pipeline parameter,
            environment): stage runs that have no other upstream, and the parent, are linked to them.
    """

    workflow_run: WorkflowRun
    task_run: TaskRun | None = None
    stage: str | None = None
    parent: RunRef | None = None
    owns_workflow_run: bool = False
    tokens: tuple[Token, ...] = ()

    def of_workflow_run(self) -> RunContext:
        """The same context without its task: that of the workflow-run parent."""
        return replace(self, task_run=None, stage=None)

    def bare(self) -> RunContext:
        """The same context without what may be of any type, or secret, so that it can be written down."""
        workflow_run = replace(self.workflow_run, params={}, tags={}, description=None)
        task_run = None if self.task_run is None else replace(self.task_run, params={}, tags={})
        return replace(self, workflow_run=workflow_run, task_run=task_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an orchestrator says has become of a workflow run or of one try of a task.

    Attributes:
        status: where it stands.
        ended_at: when it ended, aware; None if it has not, or nobody knows.
        said: the orchestrator's own word for it (``upstream_failed``, ``Crashed``), for messages; None: the status
            says it all.
        note: one word for people that the status does not tell (``skipped``); becomes the tag ``tracklayer.outcome``.
    """

    status: Truth
    ended_at: datetime | None = None
    said: str | None = None
    note: str | None = None

    @property
    def ended(self) -> bool:
        """False while it is still to be run, runs, or waits for something."""
        return self.status != "RUNNING"
