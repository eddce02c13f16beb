"""A task whose code calls MLflow by itself, and is followed without being wrapped: *observed*.

Nothing is opened, asked or imported when such a task begins: an `Observation` is left in its process. When its code
creates the first run, MLflow's plugin points (`tracklayer.mlflow_plugins.observing`) come here, and that run becomes
the stage run of the task: in the experiment and under the name that the code chose, and with everything else that a
stage run has. From then on the stage is like any other, until whoever left the observation says how the task ended.

Every task's process imports this, so the rest is imported when MLflow is used.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tracklayer.current import enter, leave, stages_entered
from tracklayer.fence import fence
from tracklayer.forking import ProcessLock
from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from tracklayer.context import RunContext, Status
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What an orchestrator says about a task that is followed, once somebody asks.

    Attributes:
        context: where it runs.
        settings: how it is tracked.
    """

    context: RunContext
    settings: Settings


class Observation:
    """One task that is followed in this process. Safe to use from several threads; no method raises.

    Attributes:
        run: its stage run; None until its code has created a run.
    """

    def __init__(self, describe: Callable[[], Followed | None], opened: Callable[[StageRun], None]) -> None:
        """Follow a task that is about to begin in this process.

        Args:
            describe: asked once, when MLflow is first used, in whatever thread that is; None: it is not followed.
            opened: told when the stage run is there, or that of the stage which the code opens by itself in its place.
        """
        self.run: StageRun | None = None
        self._describe = describe
        self._opened = opened
        self._process_id = os.getpid()
        self._entered = stages_entered()
        self._lock = ProcessLock()
        self._at_work: int | None = None
        self._over = False
        self._asked = False
        self._followed: Followed | None = None
        self._prospect: StageRun | None = None

    @property
    def awaits(self) -> bool:
        """True as long as the next run that the task's code creates is its stage run.

        Not in a process that was forked from the task's, where nobody would hear of its end; and no longer once the
        code has opened a stage of its own (``with tracklayer.track()``), which is that of the task then.
        """
        return (
            self.run is None
            and not self._over
            and self._at_work != threading.get_ident()  # what hooks do while it is opened is not the task's code
            and self._process_id == os.getpid()
            and self._entered == stages_entered()
        )

    def prospect(self) -> StageRun | None:
        """What stands for the stage run until that is there: it knows settings and back end, and has no run.

        Returns:
            None if the task is not followed after all: tracking is off, or nobody could say where it runs.
        """
        from tracklayer.backend import open_backend
        from tracklayer.stage import StageRun

        with self._working():
            if not self._asked:
                self._asked = True
                with fence("finding out where the task runs", "log"):
                    followed = self._describe()
                    backend = open_backend(followed.settings) if followed is not None else None
                    if followed is not None and backend is not None:
                        self._followed = followed
                        self._prospect = StageRun(followed.context, followed.settings, backend=backend)
            return self._prospect

    def open(
        self,
        *,
        experiment: str | None = None,
        run_name: str | None = None,
        started_at: datetime | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> StageRun | None:
        """Open the stage run, and make it the current one of this process.

        Args:
            experiment: the name of the experiment that the code chose; None: the stage's own, by hooks and settings.
            run_name: the name that the code gave; None: by hooks and settings.
            started_at: when the run starts; None: when the task did.
            tags: tags for it.

        Returns:
            None if it could not be opened, or if it does not await one any more: another thread was faster.
        """
        from tracklayer.tracking import open_stage

        with self._working():
            if not (self.run is None and not self._over and self._entered == stages_entered()):
                return None
            followed = self._followed if self.prospect() is not None else None
            if followed is None:
                return None
            context = followed.context
            if context.task_run is not None and started_at is not None:
                context = replace(context, task_run=replace(context.task_run, started_at=started_at))
            run = open_stage(
                context=context, run_name=run_name, tags=tags, experiment=experiment, settings=followed.settings
            )
            if run.run_id is None:
                self._over = True
                return None
            enter(run)
            self.run = run
            self.joined(run)
            return run

    def joined(self, run: StageRun) -> None:
        """The task's stage run is there, whether it was opened here or by the code itself: whoever follows the task is told."""
        with fence("telling where the run of a task is", "log"):
            self._opened(run)

    def announce_end(
        self,
        status: Status,
        *,
        note: str | None = None,
        error: BaseException | str | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        """Say how the task has ended, before `end` can: arguments as there. Nothing if there is no stage run."""
        run = self.run
        if run is None or self._over or self._process_id != os.getpid():
            return
        status = _as_ended_by_code(run, status, note)
        with fence("announcing the end of a task", "log"):
            run.announce_end(status, note=note, error=error, ended_at=_moment(run, ended_at))

    def end(
        self,
        status: Status,
        *,
        note: str | None = None,
        error: BaseException | str | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        """The task has ended, and so does its stage run, if there is one; arguments as of `StageRun.end`.

        `ended_at` is the moment, None now. A run that was started after it, by what is called at a task's end, ends now.

        A run that the code itself has ended ``FAILED`` or ``KILLED`` stays so, also where the task goes on and succeeds.
        Not where it has skipped itself, which a note says: by the exception it does that with, MLflow has ended the run.
        """
        run, self._over = self.run, True
        if run is None or self._process_id != os.getpid():
            return
        status = _as_ended_by_code(run, status, note)
        try:
            with fence("ending the run of a task", "log"):
                run.end(status, note=note, error=error, ended_at=_moment(run, ended_at))
        finally:
            leave(run)

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            before, self._at_work = self._at_work, threading.get_ident()
            try:
                yield
            finally:
                self._at_work = before


def _moment(run: StageRun, ended_at: datetime | None) -> int | None:
    started_at = run.context.task_run.started_at if run.context.task_run is not None else None
    if ended_at is None or started_at is None or started_at > ended_at:
        return None
    return int(ended_at.timestamp() * 1_000)


def _as_ended_by_code(run: StageRun, status: Status, note: str | None) -> Status:
    """The status with which the code itself has ended its run, if that is a failure and the task's end, which has no note, is none."""
    if status != "FINISHED" or note is not None:
        return status
    module = sys.modules.get("tracklayer.mlflow_plugins.stages")
    state = module.state_of_run(run.run_id) if module is not None else None
    asked: Status | None = state.asked_status if state is not None else None
    return asked if asked in {"FAILED", "KILLED"} else status


class _Observed:
    """The task that this process follows."""

    def __init__(self) -> None:
        self.observation: Observation | None = None


@singleton
def _observed() -> _Observed:
    return _Observed()


def observe(observation: Observation | None) -> None:
    """Follow a task in this process, in place of the one before; None: no task any more."""
    _observed().observation = observation


def current_observation() -> Observation | None:
    """The task that is followed in this process; None if none is."""
    return _observed().observation


def opened_by_code(run: StageRun) -> None:
    """Code is about to enter a stage that it has opened by itself: the task's, if that is followed and has no run yet.

    Args:
        run: the stage run; one that is not tracked stands for none.
    """
    observation = current_observation()
    if observation is not None and run.run_id is not None and observation.awaits:
        observation.joined(run)
