"""The stage run around one try of a component: opened before its executor starts, ended as that ended."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tracklayer import settings as core_settings
from tracklayer.context import RunRef, Status
from tracklayer.exceptions import StoreError
from tracklayer.opening import milliseconds
from tracklayer.provisional import PENDING
from tracklayer_kubeflow import output as outputs
from tracklayer_kubeflow import rest
from tracklayer_kubeflow.child import OUTSIDE
from tracklayer_kubeflow.closing import close_if_last
from tracklayer_kubeflow.handover import TaskEnd
from tracklayer_kubeflow.native import Native, native_of
from tracklayer_kubeflow.settings import KubeflowSettings
from tracklayer_kubeflow.task import task_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.context import RunContext
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun
    from tracklayer.store import Store
    from tracklayer_kubeflow.child import Ended

log = logging.getLogger("tracklayer")


class Supervision:
    """The stage run of the executor that is about to be started, opened.

    Args:
        stage: the stage's name; None leaves it to the plugins.
        arguments: of the executor; they say what it runs.

    Raises:
        TracklayerError: it cannot be opened; the executor then runs untracked.
        ValueError: the arguments are not those of KFP's executor.
    """

    def __init__(self, stage: str | None, arguments: Sequence[str]) -> None:
        task = task_of(arguments, os.environ)
        if task is None:
            raise ValueError("no --executor_input among the arguments of the executor")
        self._task = task
        native = None if task.place.local else native_of(os.environ)
        overrides = {"tracking_uri": native.tracking_uri} if native else {}
        self._settings = core_settings.load(overrides)
        own = core_settings.table(self._settings, "kubeflow", KubeflowSettings)
        number = task.folder.count_try(task.name, task.index) if task.folder else None
        context = task.context(instance=self._settings.instance, settings=own, try_number=number)
        self._native = native
        self._since = milliseconds(None)
        self._run = _opened(stage, context, self._settings, native)

    def variables(self) -> dict[str, str]:
        """For the executor's environment: what its code logs lands in the stage run, what it starts is linked to it."""
        return {**self._run.environment(), **self._run.attach_environment()}

    def close(self, ended: Ended) -> None:
        """End the stage run as the executor ended, and hand it over to what comes next.

        What the executor's processes logged and could not deliver themselves, because they were killed, goes before.
        """
        run, task = self._run, self._task
        path = task.execution.output_file
        made = outputs.read(path) if ended.succeeded else None
        if made is not None and self._native is None:  # KFP's own integration logs them itself
            run.log_metrics(outputs.metrics(made, task.execution))
        status = _status(ended)
        rest.take_over(run, since=self._since)
        if self._native is None or self._native.run_id is None:
            run.end(status, note=ended.signal_name, error=_error(ended))
        else:
            run.flush()
        if made is not None and path is not None:
            self._hand_over(path, made)
        if task.folder is not None:
            task.folder.write_end(task.name, task.index, TaskEnd(status=status, token=run.token))
        elif self._native is None:
            close_if_last(run, task, succeeded=ended.succeeded)
        rest.leave(run, self._settings, task.execution, since=self._since)

    def _hand_over(self, path: str, made: Mapping[str, object]) -> None:
        run = self._run
        marks = {outputs.TOKEN_KEY: run.token, outputs.RUN_ID_KEY: run.run_id, outputs.URL_KEY: run.url}
        known = {name: value for name, value in marks.items() if value}
        if known:
            outputs.stamp(path, made, self._task.execution, known)


def _opened(stage: str | None, context: RunContext, settings: Settings, native: Native | None) -> StageRun:
    from tracklayer.tracking import open_stage

    if native is None:
        return open_stage(stage, context=context, settings=settings)
    if native.run_id is not None:
        return _adopted(stage, context, settings, native)
    assert native.parent_id is not None and native.experiment_id is not None  # noqa: PT018 - see `native_of`
    parent = RunRef(run_id=native.parent_id, experiment_id=native.experiment_id)
    return open_stage(stage, context=replace(context, parent=parent), settings=settings)


def _adopted(stage: str | None, context: RunContext, settings: Settings, native: Native) -> StageRun:
    """The run that KFP made for this task, with our tags and links: it logs the parameters, and ends it."""
    from tracklayer import registry
    from tracklayer.backend import open_backend
    from tracklayer.identity import attempt_tag, key_tag, member_tag, run_key, task_key, workflow_run_key
    from tracklayer.linking import link_tags
    from tracklayer.opening import Opened
    from tracklayer.preparation import prepare
    from tracklayer.stage import StageRun

    if stage is not None:
        context = replace(context, stage=stage)
    backend = open_backend(settings)
    if backend is None or native.run_id is None:
        return StageRun(context, settings)
    preparation = prepare(context, settings, registry.load(settings), with_parent=False)
    opening, context, task_run = preparation.opening, preparation.context, preparation.context.task_run
    experiment_id = native.experiment_id or _experiment_of(backend.store, native.run_id)
    parent = RunRef(run_id=native.parent_id, experiment_id=experiment_id) if native.parent_id else None
    ref = RunRef(run_id=native.run_id, experiment_id=experiment_id, key=run_key(context), stage=context.stage)
    root = parent.run_id if parent else ref.run_id
    run = StageRun(context, settings, backend=backend, opened=Opened(ref=ref, parent=parent, root=root))
    index_tags = {
        key_tag(opening.key): "1",
        member_tag(workflow_run_key(context.workflow_run)): "1",
        **({attempt_tag(task_key(context.workflow_run, task_run)): str(task_run.try_number)} if task_run else {}),
    }
    run.set_tags({**opening.tags, **index_tags, **link_tags(opening.upstream)})
    run.flush()
    return run


def _experiment_of(store: Store, run_id: str) -> str:
    """Id of a run's experiment, if it can be asked for now."""
    try:
        return store.get_run(run_id).experiment_id
    except StoreError:
        return PENDING


def _status(ended: Ended) -> Status:
    if ended.succeeded:
        return "FINISHED"
    return "KILLED" if ended.signal in OUTSIDE else "FAILED"


def _error(ended: Ended) -> BaseException | str | None:
    """What went wrong, in a form whose type and message become tags."""
    if ended.succeeded:
        return None
    if ended.error is not None:
        kind: type[Exception] = type(ended.error, (Exception,), {})
        return kind(ended.message)
    if ended.signal_name is not None:
        return f"ended by {ended.signal_name}"
    return f"exit code {ended.code}"
