"""Which stage run is current here: by context variable, by attachment from a parent process, or because it is alone.

A context variable follows async tasks and copied contexts. A plain thread starts with an empty context (before
Python 3.14), so where exactly one stage is open in the process, that one is current in every thread of it. A child
process that runs a stage's user code (KFP's executor below the supervisor) is attached by the environment.

While exactly one stage is open, its token is in the environment for subprocesses; with two at once it would be
anybody's guess whose subprocess it is, so then it is not.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from tracklayer.forking import ProcessLock
from tracklayer.singleton import singleton
from tracklayer.workers import PROCESS_VARIABLE, mark_workers, stage_of_worker, starter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracklayer.stage import StageRun

PARENT_VARIABLE: Final = "TRACKLAYER_PARENT"
"""Environment variable with the token of the run that started this process: a link, never more."""

ATTACH_VARIABLE: Final = "TRACKLAYER_ATTACH"
"""Environment variable with the token of the stage run whose user code this process runs."""

_CURRENT: ContextVar[StageRun | None] = ContextVar("tracklayer_current_run", default=None)

_BEING_OPENED: ContextVar[StageRun | None] = ContextVar("tracklayer_run_being_opened", default=None)


class _OpenStages:
    """The stages that are open in this process, and what they put into the environment.

    Whoever only asks takes no lock: the list is changed by one step at a time, and copied before it is looked through.
    """

    def __init__(self) -> None:
        self._exporting = ProcessLock()
        self._busy: int | None = None
        self._again = False
        self._runs: list[StageRun] = []
        self._threads: dict[StageRun, int] = {}
        self.count = 0
        self._exported: dict[str, tuple[str, str | None]] = {}

    def add(self, run: StageRun, thread: int | None = None) -> None:
        """A stage is entered; in `thread`, if the context of the code there tells of it."""
        if thread is not None:
            self._threads[run] = thread
        self._runs.append(run)
        self.count += 1
        self.refresh()

    def remove(self, run: StageRun) -> None:
        with suppress(ValueError):
            self._runs.remove(run)
        self._threads.pop(run, None)
        self.refresh()

    def refresh(self) -> None:
        """Export anew: there is a stage more, or less, or a run that was opened late has its token only now."""
        with self._exporting:
            self._again = True
            if self._busy == os.getpid():
                return  # this is a signal handler, and what it has interrupted goes on with it
            while self._again:
                self._busy = os.getpid()
                try:
                    self._again = False
                    self._export()
                finally:
                    self._busy = None

    def innermost(self) -> StageRun | None:
        """The run that every thread here must mean: the only one open, or the last of runs one within the other.

        One that was ended within its block gives way to the one around it, as MLflow's runs do.
        """
        runs = self._runs.copy()
        return next((run for run in reversed(runs) if run.is_open), None) if _nested(runs) else None

    def all(self) -> tuple[StageRun, ...]:
        """Those that have been entered and not left, in that order."""
        return tuple(self._runs)

    def thread_of(self, run: StageRun) -> int | None:
        """The thread whose code was told by its context that it is in this stage; None for a stage of all threads."""
        return self._threads.get(run)

    def run_ids(self) -> frozenset[str]:
        """Run ids of the open stages, also those under which they were given out."""
        ids = [(run.run_id, run.ref.run_id if run.ref else None) for run in self._runs.copy()]
        return frozenset(identifier for both in ids for identifier in both if identifier is not None)

    def exported(self, name: str) -> str | None:
        """What was put into the variable `name` here; None if nothing was."""
        told = self._exported.get(name)
        return told[0] if told else None

    def _export(self) -> None:
        agreed = self._agreed()
        mark_workers(agreed.get(PARENT_VARIABLE))
        for name, (ours, before) in self._exported.items():
            if os.environ.get(name) == ours:  # else somebody changed it since: theirs to keep
                if before is None:
                    del os.environ[name]
                else:
                    os.environ[name] = before
        self._exported = {}
        if PARENT_VARIABLE in agreed:
            agreed[PROCESS_VARIABLE] = str(os.getpid())
        for name, value in agreed.items():
            before = os.environ.get(name)
            if name not in {PARENT_VARIABLE, PROCESS_VARIABLE} and before is not None:
                continue  # the user's own MLFLOW_TRACKING_URI stands
            self._exported[name] = (
                value,
                before,
            )  # first: what another thread finds in the environment is known for ours
            os.environ[name] = value

    def _agreed(self) -> dict[str, str]:
        """What every open stage would tell a subprocess; the innermost one's word counts where they are nested."""
        runs = self._runs.copy()
        told = [run.environment() for run in runs]
        if not told or _nested(runs):
            return told[-1] if told else {}
        # Stages side by side have tokens of their own, but mostly one tracking URI: MLflow's calls in them need it.
        return {name: value for name, value in told[0].items() if all(other.get(name) == value for other in told)}


def _nested(runs: list[StageRun]) -> bool:
    """True if the open stages are one within the other."""
    return all(inner.outer is outer for outer, inner in itertools.pairwise(runs))


@singleton
def _open_stages() -> _OpenStages:
    return _OpenStages()


def current_run() -> StageRun | None:
    """The stage run in which this code runs; None outside of one.

    In a thread or task that was started inside a stage this is that stage's run, as long as its context was copied
    (asyncio does) or it is the only one open in the process.
    """
    run = _CURRENT.get()
    if run is not None and run.is_open:
        return run
    return _open_stages().innermost() or _attached()


@contextmanager
def being_opened(run: StageRun) -> Iterator[None]:
    """In the block plugins are told of a run that was just opened, and is current nowhere yet."""
    before = _BEING_OPENED.set(run)
    try:
        yield
    finally:
        _BEING_OPENED.reset(before)


def run_being_opened() -> StageRun | None:
    """The run of which plugins are being told here, for one that has to do something to it later; None if none is."""
    return _BEING_OPENED.get()


def enclosing_run() -> StageRun | None:
    """The stage run below which one that is opened here is nested; None where it stands by itself.

    That is the current one, but not that of another async task of this thread: it goes on beside this one.
    """
    run = current_run()
    beside = run is not None and run is not _CURRENT.get() and _open_stages().thread_of(run) == threading.get_ident()
    return None if beside else run


def nearest_tracked(run: StageRun | None) -> StageRun | None:
    """The run itself, or the nearest one around it that is tracked: there is no run below which to nest otherwise."""
    while run is not None and run.recorder is None:
        run = run.outer
    return run


def _attached() -> StageRun | None:
    """The stage run of another process that this one was attached to."""
    token, process_id = stage_of_worker() or (os.environ.get(ATTACH_VARIABLE), starter())
    if not token:
        return None
    key = (os.getpid(), token)  # a fork must not share its parent's connection
    if key not in _attachments():
        from tracklayer.attaching import attach

        _attachments()[key] = attach(token, process_id=process_id)
    return _attachments()[key]


@singleton
def _attachments() -> dict[tuple[int, str], StageRun | None]:
    """The runs that this process is attached to; None for one that it cannot log to."""
    return {}


def open_here() -> frozenset[str]:
    """Run ids of the stages that are open in this process: their code still runs, whatever the orchestrator says."""
    return _open_stages().run_ids()


def open_stages() -> tuple[StageRun, ...]:
    """The stages of this process whose blocks have not been left, outer ones first."""
    return tuple(run for run in _open_stages().all() if run.is_open and run.process_id == os.getpid())


def inherited_token() -> str | None:
    """The token that this process was given from outside, in `PARENT_VARIABLE`; None if there is none.

    What a stage of this very process put there for its own subprocesses does not count.
    """
    value = os.environ.get(PARENT_VARIABLE)
    return value if value and value != _open_stages().exported(PARENT_VARIABLE) else None


@contextmanager
def entered(run: StageRun) -> Iterator[None]:
    """Make `run` the current one for the block."""
    _tell_observation(run)
    stages = _open_stages()
    token = _CURRENT.set(run)
    try:
        stages.add(run, threading.get_ident())
        _tell_mlflow()
        yield
    finally:
        try:
            _CURRENT.reset(token)
        except ValueError:  # a generator was closed in another context than it was started in
            _CURRENT.set(None)
        stages.remove(run)


def enter(run: StageRun) -> None:
    """Make `run` the current one of every thread of this process that is in no other stage, until `leave`.

    For a stage that is opened in the middle of code that nobody wraps (see `tracklayer.observation`).
    """
    _open_stages().add(run)
    _tell_mlflow()


def leave(run: StageRun) -> None:
    """Undo `enter`."""
    _open_stages().remove(run)


def stages_entered() -> int:
    """How many stages have been entered in this process so far."""
    return _open_stages().count


def _tell_observation(run: StageRun) -> None:
    """Where a task is followed in this process, a stage that its code opens by itself may be that of the task."""
    observation = sys.modules.get("tracklayer.observation")
    if observation is not None:
        observation.opened_by_code(run)


def _tell_mlflow() -> None:
    """Where user code has mlflow loaded already, what is active there outside of the stage must not catch its calls."""
    plugin = sys.modules.get("tracklayer.mlflow_plugins.store")
    if plugin is not None:
        plugin.stage_entered()


def refresh_environment() -> None:
    """Put the token of a run that got its id only now into the environment."""
    _open_stages().refresh()


def subprocess_environment(token: str | None, tracking_uri: str | None, variable: str) -> Mapping[str, str]:
    """Variables that carry a token (None: none yet) and the tracking URI to another process."""
    told = {variable: token, "MLFLOW_TRACKING_URI": tracking_uri, "TRACKLAYER_TRACKING_URI": tracking_uri}
    return {name: value for name, value in told.items() if value}
