"""The task that a process runs: everything that KFP, the pipeline's definition and a local run say about it."""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tracklayer.context import RunContext, RunRef, TaskRun, Token, WorkflowRun
from tracklayer.exceptions import TokenError
from tracklayer.identity import parse_token, workflow_run_key
from tracklayer_kubeflow import variables
from tracklayer_kubeflow.execution import Artifact, Execution, execution_of
from tracklayer_kubeflow.facts import PipelineFacts, TaskFacts, pipeline_facts, tags, task_facts
from tracklayer_kubeflow.handover import LocalFolder, LocalRun, local_run
from tracklayer_kubeflow.output import TOKEN_KEY
from tracklayer_kubeflow.place import Place, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer_kubeflow.settings import KubeflowSettings

ORCHESTRATOR: Final = "kubeflow"
"""The orchestrator's name in keys and tags."""

TOKEN_PARAMETER: Final = "tracklayer_token"  # noqa: S105 - the name of a parameter
"""An input parameter of this name is a token from outside, not a param of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task, as the process that runs it sees it.

    Attributes:
        execution: parameters, artifacts and where outputs go.
        place: pipeline run, task, iteration, try.
        facts: what the pipeline's definition says of the task; None if it was not compiled as a tracked pipeline.
        pipeline: what it says of the pipeline; None likewise.
        tags: tags that were baked in for every run.
        folder: the local run's folder; None on a cluster, and in a local run of an untracked pipeline.
        run: the local run; None likewise.
    """

    execution: Execution
    place: Place
    facts: TaskFacts | None = None
    pipeline: PipelineFacts | None = None
    tags: Mapping[str, str]
    folder: LocalFolder | None = None
    run: LocalRun | None = None

    @property
    def name(self) -> str:
        """The task's name, after those of the nested pipelines around it."""
        return self.facts.task if self.facts else (self.place.task or "task")

    @property
    def index(self) -> str | None:
        """The iterations of the loops around the task, or what else tells them apart; None if it is in no loop."""
        may_loop = self.facts.loop if self.facts else not self.place.node
        return self.place.index or (self.place.salt[:8] if may_loop and self.place.salt else None)

    def context(self, *, instance: str, settings: KubeflowSettings, try_number: int | None = None) -> RunContext:
        """Where the task runs, as tracklayer puts it.

        Args:
            instance: which installation of KFP this is.
            settings: the plugin's settings.
            try_number: number of the try, if the caller knows better than the environment.
        """
        workflow_run = self._workflow_run(instance, settings)
        context = RunContext(
            workflow_run=workflow_run,
            task_run=TaskRun(
                task=self.name,
                index=self.index,
                try_number=try_number or self.place.try_number or 1,
                url=workflow_run.url,
                started_at=datetime.now(UTC),
                params=parameters(self.execution),
            ),
            tokens=_tokens([self.execution.parameters.get(TOKEN_PARAMETER)]),
        )
        return replace(context, parent=self._parent(workflow_run_key(workflow_run)))

    def handed_over(self) -> list[tuple[Artifact, Token]]:
        """The input artifacts that carry a token, each with it."""
        return [
            (artifact, token)
            for artifact in self.execution.inputs
            for token in _tokens([artifact.metadata.get(TOKEN_KEY)])
        ]

    def _workflow_run(self, instance: str, settings: KubeflowSettings) -> WorkflowRun:
        pipeline, run = self.pipeline, self.run
        run_id = run.run_id if run else self.place.run_id
        name = self.place.pipeline or (pipeline.name if pipeline else "pipeline")
        return WorkflowRun(
            orchestrator=ORCHESTRATOR,
            instance=instance,
            workflow=name,
            run_id=run_id or os.environ.get("KFP_POD_NAME") or f"unknown-{uuid.uuid4().hex}",
            description=pipeline.description if pipeline else None,
            source=pipeline.source if pipeline else None,
            started_at=run.started_at if run else self.place.started_at,
            url=settings.run_page(run_id) if run_id and not self.place.local else None,
            params=run.params if run else {},
        )

    def _parent(self, key: str) -> RunRef | None:
        """The workflow-run parent, if it was handed over: by the local run, or with an artifact of this same run.

        A task that may start after the parent was taken for ended does not take it from an artifact: looking for the
        parent opens it again.
        """
        told = _tokens([self.run.parent]) if self.run else ()
        if told:
            return told[0].run
        if self.facts is None or not self.facts.one_end:
            return None
        parents = (token.parent for _, token in self.handed_over())
        return next((parent for parent in parents if parent is not None and parent.key == key), None)


def task_of(arguments: Sequence[str], environ: Mapping[str, str]) -> Task | None:
    """The task that a process with these arguments and this environment runs; None if it is none of KFP's."""
    execution = execution_of(arguments)
    if execution is None:
        return None
    place = place_of(execution.places, environ)
    folder, run = local_run(environ.get(variables.LOCAL), place)
    return Task(
        execution=execution,
        place=place,
        facts=run.tasks.get(place.task or "") if run else task_facts(environ.get(variables.TASK)),
        pipeline=run.pipeline if run else pipeline_facts(environ.get(variables.PIPELINE)),
        tags=run.tags if run else tags(environ.get(variables.TAGS)),
        folder=folder,
        run=run,
    )


def this_task() -> Task | None:
    """The task that this process runs: as the supervisor of its executor, or as the executor itself."""
    return task_of(sys.argv, os.environ)


def parameters(execution: Execution) -> dict[str, object]:
    """The component's own input parameters: those for params, without what KFP or this plugin puts among them."""
    return {
        name: value
        for name, value in execution.parameters.items()
        if not name.startswith("pipelinechannel--") and name != TOKEN_PARAMETER and not _is_final_status(value)
    }


def _is_final_status(value: object) -> bool:
    """True for what KFP gives to an exit handler's task."""
    return isinstance(value, dict) and "state" in value and any(name.startswith("pipeline") for name in value)


def _tokens(texts: Sequence[object]) -> tuple[Token, ...]:
    """Those of the texts that are tokens. They come from outside: what is none is passed over."""
    found = []
    for text in texts:
        if isinstance(text, str) and text:
            try:
                found.append(parse_token(text))
            except TokenError:
                continue
    return tuple(found)
