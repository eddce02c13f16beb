"""One call of a tracked flow or task: its run is opened, current while the user's code runs, and ended as that ended."""

from __future__ import annotations

from asyncio import CancelledError
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

from tracklayer.current import current_run, entered, inherited_token
from tracklayer.fence import fence
from tracklayer.identity import format_token, run_key
from tracklayer.outcome import Outcome
from tracklayer.tracking import close_workflow_run
from tracklayer_prefect.announcement import announce, announce_async
from tracklayer_prefect.calling import Called, called
from tracklayer_prefect.carrier import PARENT_LABEL, STATUS_LABEL, TOKEN_LABEL, once, read_tokens
from tracklayer_prefect.contexts import ORCHESTRATOR, of_flow_body, of_task, present
from tracklayer_prefect.endings import outcome_of, watch
from tracklayer_prefect.flow_runs import forget, notes_on
from tracklayer_prefect.reuse import maker_tags
from tracklayer_prefect.running import is_on, open_run, settings_of
from tracklayer_prefect.threads import in_thread
from tracklayer_prefect.wrapping import mark_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from prefect.context import FlowRunContext, TaskRunContext

    from tracklayer.context import RunContext, Token
    from tracklayer.stage import StageRun
    from tracklayer_prefect.declaration import Tracked

T = TypeVar("T")


def scope(how: Tracked) -> Scope:
    """The scope for a call of the user's function here.

    A function that is not called by Prefect's engine (``task.fn()`` in a test, ``flow.visualize()``) is not tracked.
    """
    with fence("reading Prefect's context", "log"):
        task_run, flow_run = present()
        if how.is_flow:
            if flow_run is not None and flow_run.flow is not None and mark_of(flow_run.flow.fn) == how:
                found: Scope = FlowScope(how, flow_run)
                return Scope() if found.is_open_already() else found
        elif task_run is not None and mark_of(task_run.task.fn) == how:
            found = TaskScope(how, task_run, flow_run)
            return Scope() if found.is_open_already() else found
    return Scope()


class Scope:
    """A call that is not tracked; and what the scopes of flows and tasks have in common."""

    def __init__(self) -> None:
        self._run: StageRun | None = None
        self._context: RunContext | None = None
        self._current: AbstractContextManager[None] = nullcontext()

    def is_open_already(self) -> bool:
        """True if the run of this very place is open: the function calls itself without Prefect."""
        run = current_run()
        return run is not None and self._context is not None and run.key == run_key(self._context)

    def open(self) -> None:
        """Open the run; blocks until the tracking server has answered, or cannot be reached."""

    async def open_async(self) -> None:
        """The same without blocking the event loop."""

    def close(self, error: BaseException | None) -> None:
        """End the run; `error` left the user's function, None if it returned."""

    async def close_async(self, error: BaseException | None) -> None:
        """The same without blocking the event loop, unless the call was cancelled: then nothing may be awaited."""

    def current(self) -> AbstractContextManager[None]:
        """Makes the run the current one for a block of user code."""
        return entered(self._run) if self._run is not None else nullcontext()

    def returned(self, value: T) -> T:
        """Take note of what the user's function returned."""
        return value

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException as error:  # a time limit or a signal struck meanwhile
            self.close(error)
            raise
        self._current = self.current()
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close(error)
        finally:
            self._current.__exit__(None, None, None)

    async def __aenter__(self) -> Self:
        try:
            await self.open_async()
        except BaseException as error:  # cancelled meanwhile
            self.close(error)
            raise
        self._current = self.current()
        self._current.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close_async(error)
        finally:
            self._current.__exit__(None, None, None)


class TrackedScope(Scope):
    """What tracked flows and tasks have in common."""

    async def open_async(self) -> None:
        """Open the run in a thread."""
        await in_thread(self.open)

    async def close_async(self, error: BaseException | None) -> None:
        """End the run in a thread; where the call was cancelled, here and now."""
        if error is None or isinstance(error, Exception):
            await in_thread(lambda: self.close(error))
        else:
            self.close(error)


class TaskScope(TrackedScope):
    """A try of a tracked task."""

    def __init__(self, how: Tracked, task_run: TaskRunContext, flow_run: FlowRunContext | None) -> None:
        super().__init__()
        self._how = how
        self._task_run = task_run
        self._flow_run = flow_run
        self._context = of_task(task_run, flow_run)

    def open(self) -> None:
        """Open the run of the try, below that of its flow run."""
        if self._context is None:
            return
        self._run = open_run(self._context, self._how, tags=maker_tags())

    def close(self, error: BaseException | None) -> None:
        """End the run of the try."""
        if self._run is None or self._context is None:
            return
        outcome = self._outcome(error)
        failed = outcome.status in {"FAILED", "KILLED"}
        self._run.end(outcome.status, note=outcome.note, error=error if failed else None)
        if self._flow_run is None:  # a workflow of its own
            close_workflow_run(self._context, outcome.status, settings=self._run.settings)

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None:
            return Outcome("FINISHED")
        limit = self._task_run.task.timeout_seconds
        outcome = outcome_of(error, since=self._task_run.start_time, limit=limit)
        # A task never goes on after its flow was suspended: it is run anew, as another task run.
        return Outcome("KILLED", "suspended") if outcome.status == "RUNNING" else outcome

    def returned(self, value: T) -> T:
        """Note the result's identity, by which other tasks' inputs are checked."""
        with fence("taking note of a result", "log"):
            if self._flow_run is not None and self._flow_run.flow_run is not None and not self._flow_run.detached:
                notes_on(self._flow_run.flow_run.id).note_returned(self._task_run.task_run.id, value)
        return value


class FlowScope(TrackedScope):
    """A try of a tracked flow: its run is the parent of those of its tasks."""

    def __init__(self, how: Tracked, flow_run: FlowRunContext) -> None:
        super().__init__()
        assert flow_run.flow is not None
        assert flow_run.flow_run is not None
        self._how = how
        self._flow = flow_run.flow
        self._since = flow_run.start_time
        self._flow_run = flow_run.flow_run
        self._parameters = flow_run.parameters
        self._context = of_flow_body(flow_run)
        self._caller = current_run()
        self._labels: dict[str, str] = {}
        watch(self._flow)  # `with_options(on_failure=…)` leaves out the hooks that were there

    def open(self) -> None:
        """Open the flow run's run, and label the flow run with it."""
        self._open_run()
        with fence("telling Prefect about the run", "log"):
            announce(self._flow_run, self._labels, self._run.url if self._run else None)

    async def open_async(self) -> None:
        """The same; Prefect's client is used in the event loop that it belongs to."""
        await in_thread(self._open_run)
        with fence("telling Prefect about the run", "log"):
            await announce_async(self._flow_run, self._labels, self._run.url if self._run else None)

    def _open_run(self) -> None:
        if self._context is None:
            return
        context, settings = self._context, settings_of(self._how)
        again = PARENT_LABEL in self._flow_run.labels  # a retry, or it goes on after a suspension
        feeding: tuple[Token, ...] = ()
        if not again and is_on(settings):
            outside = () if context.tokens else read_tokens(inherited_token(), "the environment")
            came = Called()
            with fence("asking who called the flow run", "log"):
                came = called(self._flow_run, self._parameters, self._caller)
            feeding = once([*outside, *came.inputs])
            callers = [came.caller] if came.caller else []
            context = replace(context, tokens=once([*context.tokens, *feeding, *callers]))
        self._run = open_run(context, self._how, settings=settings)
        token = self._run.token
        if token is not None and not again:
            self._labels[PARENT_LABEL] = token
        if feeding:  # its tasks, wherever they run, are linked to these
            before = read_tokens(self._flow_run.labels.get(TOKEN_LABEL), "a flow-run label")
            self._labels[TOKEN_LABEL] = " ".join(format_token(token) for token in once([*before, *feeding]))

    def close(self, error: BaseException | None) -> None:
        """End the flow run's run; Prefect's terminal state has the last word."""
        if self._run is None or self._context is None:
            return
        outcome = Outcome("FINISHED") if error is None else self._outcome(error)
        failed = outcome.status in {"FAILED", "KILLED"} and not self._is_retried(error)
        self._run.end(outcome.status, note=outcome.note, error=error if failed else None)
        if outcome.status == "RUNNING":  # suspended: another process goes on
            return
        self._flow_run.labels[STATUS_LABEL] = outcome.status
        self._tell_caller()
        forget(self._flow_run.id)

    def _outcome(self, error: BaseException) -> Outcome:
        return outcome_of(error, since=self._since, limit=self._flow.timeout_seconds)

    def _is_retried(self, error: BaseException | None) -> bool:
        """True if Prefect will run the flow again: its errors are then told by the runs of its tasks only."""
        return isinstance(error, (Exception, CancelledError)) and self._flow_run.run_count <= self._flow.retries

    def _tell_caller(self) -> None:
        """Let the flow that called this one link what it gives the result to."""
        with fence("taking note of a subflow", "log"):
            if self._caller is not None and self._run is not None and self._run.ref is not None:
                outside = self._caller.context.workflow_run
                if outside.orchestrator == ORCHESTRATOR:
                    notes_on(UUID(outside.run_id)).note_run(self._flow_run.id, self._run.ref)
