"""A run of a tracked pipeline by KFP's local runner: its parent is made here, handed to the tasks, and ended here."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tracklayer.singleton import singleton
from tracklayer_kubeflow import graph, variables
from tracklayer_kubeflow.handover import LocalFolder, LocalRun, parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tracklayer.context import RunContext, RunRef, Status, Token
    from tracklayer.settings import Settings
    from tracklayer_kubeflow.pipeline import TrackedPipeline

log = logging.getLogger("tracklayer")


def run_locally(
    pipeline: TrackedPipeline, call: Callable[[], Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run a pipeline by `call`, tracked.

    Args:
        pipeline: the pipeline.
        call: runs it; what it returns or raises is passed on.
        args: what it is called with; KFP takes no positional arguments.
        kwargs: the pipeline's arguments.
    """
    if args or not _can_run(pipeline, kwargs) or not _turn().acquire(blocking=False):
        # A call that KFP refuses, containers of KFP's DockerRunner (which share no folder with us), or another local
        # run in another thread: the environment cannot hold two. The tasks then find their place by themselves.
        return call()
    try:
        run = _opened(pipeline, kwargs)
        if run is None:
            return call()
        return run.around(call)
    finally:
        _turn().release()


@singleton
def _turn() -> threading.Lock:
    return threading.Lock()


def _can_run(pipeline: TrackedPipeline, kwargs: Mapping[str, Any]) -> bool:
    from kfp.local import config

    instance = config.LocalExecutionConfig.instance
    inputs = pipeline.component_spec.inputs or {}
    return (
        instance is not None
        and isinstance(instance.runner, config.SubprocessRunner)
        and kwargs.keys() <= inputs.keys()
        and kwargs.keys() >= set(pipeline.required_inputs)
    )


def _opened(pipeline: TrackedPipeline, kwargs: Mapping[str, Any]) -> _Run | None:
    """The local run, its parent opened; None if it cannot be tracked."""
    try:
        return _Run(pipeline, kwargs)
    except Exception as error:
        log.warning("tracking: the pipeline run has no parent: %s: %s", type(error).__name__, error)
        return None


class _Run:
    """One local run of a tracked pipeline."""

    def __init__(self, pipeline: TrackedPipeline, kwargs: Mapping[str, Any]) -> None:
        from tracklayer import settings as core_settings
        from tracklayer.context import RunContext, WorkflowRun
        from tracklayer.tracking import open_workflow_run

        self._settings: Settings = core_settings.load()
        facts = pipeline.facts
        now = datetime.now().astimezone()
        defaults = {name: spec.default for name, spec in (pipeline.component_spec.inputs or {}).items()}
        given = parameters({**{name: value for name, value in defaults.items() if value is not None}, **kwargs})
        self._outputs = bool(pipeline.component_spec.outputs)
        self._context: RunContext = RunContext(
            workflow_run=WorkflowRun(
                orchestrator="kubeflow",
                instance=self._settings.instance,
                workflow=facts.name,
                run_id=f"{facts.name}-{now:%Y-%m-%d-%H-%M-%S-%f}",  # as KFP's local runner calls its runs
                description=facts.description,
                source=facts.source,
                started_at=now,
                params=given,
            ),
            owns_workflow_run=True,
            tokens=_tokens(),
        )
        tags = pipeline.code_tags
        self._parent: RunRef | None = open_workflow_run(self._context, settings=self._settings)
        self._folder = LocalFolder(tempfile.mkdtemp(prefix="tracklayer-kubeflow-"))
        tasks = {
            _component(pipeline.untracked_spec, label): fact
            for label, fact in graph.tasks(pipeline.untracked_spec).items()
        }
        self._folder.write_run(
            LocalRun(
                run_id=self._context.workflow_run.run_id,
                pipeline=facts,
                tasks=tasks,
                started_at=now,
                parent=self._token(),
                tags=tags,
                params=given,
            )
        )

    def around(self, call: Callable[[], Any]) -> Any:
        """Run the pipeline, and end the parent as it ended."""
        try:
            with _variable(variables.LOCAL, str(self._folder.path)):
                task = call()
        except BaseException as error:
            self._end("FAILED" if isinstance(error, Exception) else "KILLED", f"{type(error).__name__}: {error}")
            raise
        else:
            self._end("FAILED" if self._has_failed(task) else "FINISHED")
            return task
        finally:
            shutil.rmtree(self._folder.path, ignore_errors=True)

    def _has_failed(self, task: Any) -> bool:
        """True if the run failed though nothing was raised (``raise_on_error=False``)."""
        nothing = self._outputs and not getattr(task, "outputs", None)
        return nothing or any(end.status != "FINISHED" for end in self._folder.ends())

    def _end(self, status: Status, error: str | None = None) -> None:
        from tracklayer.tracking import close_workflow_run

        try:
            close_workflow_run(self._context, status, parent=self._parent, error=error, settings=self._settings)
        except Exception as problem:
            log.warning("tracking: ending the pipeline run failed: %s: %s", type(problem).__name__, problem)

    def _token(self) -> str | None:
        from tracklayer.context import Token
        from tracklayer.identity import format_token

        if self._parent is None:
            return None
        return format_token(Token(run=self._parent))


def _component(spec: Mapping[str, Any], label: str) -> str:
    """What KFP's local runner calls a task with this executor: its component's name without ``comp-``."""
    for name, component in spec.get("components", {}).items():
        if component.get("executorLabel") == label:
            return str(name).removeprefix("comp-")
    return label


def _tokens() -> tuple[Token, ...]:
    """That of the stage in which the pipeline is run, if there is one in this process."""
    from tracklayer.current import current_run
    from tracklayer.identity import parse_token

    run = current_run()
    return (parse_token(run.token),) if run is not None and run.token else ()


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
