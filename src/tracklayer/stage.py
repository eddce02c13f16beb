"""The run of one task try, as user code sees it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from typing import TYPE_CHECKING, Final

from tracklayer import dispatch, registry
from tracklayer.announcing import announce, announce_run
from tracklayer.backend import open_backend, page_url
from tracklayer.context import Link, RunContext, RunRef, Status, Token, Upstream
from tracklayer.current import (
    ATTACH_VARIABLE,
    PARENT_VARIABLE,
    being_opened,
    refresh_environment,
    subprocess_environment,
)
from tracklayer.datasets import dataset_of
from tracklayer.description import compose
from tracklayer.ending import RealEnd
from tracklayer.exceptions import StoreError, StoreUnavailable
from tracklayer.fence import fence, log
from tracklayer.identity import format_token, parse_token
from tracklayer.interruption import let_through
from tracklayer.journal.operations import Close, Consumed, DeleteTag, End, LeftOpen, Linked
from tracklayer.journal.recorders import recorder_of
from tracklayer.linking import find_producer
from tracklayer.logbook import Logbook
from tracklayer.opening import Opened, milliseconds
from tracklayer.outcome import ELSEWHERE, OUTCOME_TAG
from tracklayer.provisional import is_provisional
from tracklayer.run_log import RunLog

if TYPE_CHECKING:
    import pluggy

    from tracklayer.backend import Backend
    from tracklayer.journal.recorder import Recorder
    from tracklayer.preparation import Preparation
    from tracklayer.settings import Settings

ERROR_LENGTH: Final = 1_000
"""Longest error message that is kept as a tag, in characters."""


class StageRun(RunLog):
    """The run of one task try. What is logged here is in the journal when the call returns, and in MLflow soon after.

    Safe to use from several threads. No method raises because of tracking, unless the setting ``on_error`` is
    ``"raise"``, and none waits for the server but `flush` and the life of the run. While the server cannot be reached
    the run has a provisional id, which stays valid (see `tracklayer.provisional`), and what is logged waits.

    Attributes:
        context: where the stage runs.
        settings: the settings with which it was opened.
        key: its key; empty when tracking is off.
        stage: the stage's name.
        outer: the stage run within which this one was opened, None for the usual case.
        process_id: id of the process that opened it, the only one that ends it.
        run_id: MLflow's run id, or the provisional one that stands for it; the same as long as the run is open. None
            when tracking is off.
    """

    def __init__(
        self,
        context: RunContext,
        settings: Settings,
        *,
        preparation: Preparation | None = None,
        backend: Backend | None = None,
        opened: Opened | None = None,
        outer: StageRun | None = None,
    ) -> None:
        self.context = preparation.context if preparation else context
        self.settings = settings
        self.key = preparation.opening.key if preparation else (opened.ref.key or "" if opened else "")
        self.stage = self.context.stage or ""
        self.outer = outer
        self.process_id = os.getpid()
        self.run_id: str | None = None
        self._since = milliseconds(None)
        self._preparation = preparation
        self._backend = backend
        self._recorder = recorder_of(backend, settings) if backend else None
        self._recorder_pid = self.process_id
        self._opened: Opened | None = None
        self._late: Opened | None = None
        self._book: Logbook | None = None
        self._ended = False
        self._ended_as: Status | None = None
        self._note: str | None = None
        self._nested: dict[str, itertools.count[int]] = {}
        self._late_links: list[Upstream] = []
        self._linked: dict[str, object] = {}
        if opened is not None:
            self._is_opened(opened)

    # ---------------------------------------------------------------------------------------------- who it is

    @property
    def recorder(self) -> Recorder | None:
        """What writes down what is logged here, in this process; None when tracking is off."""
        if self._recorder is not None and self._recorder_pid != os.getpid():  # a fork writes a journal of its own
            backend = open_backend(self.settings)
            self._recorder = recorder_of(backend, self.settings) if backend else None
            self._backend, self._recorder_pid = backend, os.getpid()
        return self._recorder

    @property
    def ref(self) -> RunRef | None:
        """The run in MLflow, as well as it is known by now; None when tracking is off."""
        known = self._late or self._opened
        return known.ref if known else None

    @property
    def parent(self) -> RunRef | None:
        """The workflow-run parent; None when tracking is off."""
        return self._opened.parent if self._opened else None

    @property
    def experiment_id(self) -> str | None:
        """Id of the experiment; `tracklayer.provisional.PENDING` while it is not known, None when tracking is off."""
        ref = self.ref
        return ref.experiment_id if ref else None

    @property
    def tracking_uri(self) -> str | None:
        """Where it is tracked, without credentials; None when tracking is off."""
        return self._backend.store.uri if self._backend else None

    @property
    def url(self) -> str | None:
        """The run's page; None where there is no server to show it, or while the server does not know the run."""
        ref, uri = self.ref, self.tracking_uri
        return page_url(self.settings, uri, ref) if ref and uri and not is_provisional(ref.run_id) else None

    @property
    def token(self) -> str | None:
        """The token to hand to whatever comes next; None when tracking is off."""
        known = self._late or self._opened
        return format_token(known.token) if known else None

    @property
    def is_open(self) -> bool:
        """False once the stage was ended."""
        return not self._ended

    def environment(self) -> dict[str, str]:
        """Variables for a subprocess or a container, so that what it tracks is linked to this run."""
        return dict(subprocess_environment(self.token, self._address, PARENT_VARIABLE))

    def attach_environment(self) -> dict[str, str]:
        """Variables for a child process that runs this stage's own code: what it logs lands in this very run."""
        return dict(subprocess_environment(self.token, self._address, ATTACH_VARIABLE))

    @property
    def _address(self) -> str | None:
        """The tracking URI as it was configured: with credentials, if they are in it, for other processes only."""
        return self._backend.address if self._backend else None

    @property
    def _plugins(self) -> pluggy.PluginManager:
        return registry.load(self.settings)

    @property
    def _strict(self) -> bool:
        return self.settings.on_error == "raise"

    def count_nested(self, name: str) -> int:
        """How many stages called `name` have been opened within this one, the next one included."""
        return next(self._nested.setdefault(name, itertools.count(1)))

    # ---------------------------------------------------------------------------------------------- links

    def produces(
        self,
        uri: str,
        digest: str | None = None,
        *,
        name: str | None = None,
        schema: str | None = None,
        profile: str | None = None,
    ) -> None:
        """Say that this stage makes a dataset: stages that consume it, anywhere, are linked to this run.

        Args:
            uri: what the dataset is called everywhere (``s3://bucket/flights/``, ``warehouse.flights``); compared
                literally.
            digest: hash of this version's content, a version number, a snapshot id; None if there is none.
            name: the dataset's name on MLflow's page; None is the last part of the URI.
            schema: its schema as JSON, None if unknown.
            profile: its profile (row counts, …) as JSON, None if unknown.
        """
        with fence("saying what was produced", self.settings.on_error):
            if (book := self._book) is not None and (recorder := self.recorder) is not None:
                uri = book.masked("uri", uri)
                dataset = dataset_of(uri, digest, "produced", name=name, schema=schema, profile=profile)
                book.produced(recorder, uri, digest, dataset)

    def consumes(self, uri: str, digest: str | None = None, *, name: str | None = None) -> RunRef | None:
        """Say that this stage reads a dataset: it is linked to the run that produced it last.

        Args:
            uri: as the producer gave it.
            digest: link to the run that produced exactly this version; None is the last one, whichever.
            name: the dataset's name on MLflow's page; None is the last part of the URI.

        Returns:
            The run that produced it; None if no run did, or if the server cannot be reached.
        """
        with fence("finding who produced a dataset", self.settings.on_error):
            if (book := self._book) is None or (recorder := self.recorder) is None:
                return None
            uri = book.masked("uri", uri)
            try:
                found = self._producer(recorder, uri, digest)
            except StoreError as error:  # no access, too, or a login page: delivery asks again
                if self._strict:
                    raise
                log.info("who produced %s is found out later: %s", uri, error)
                found = None
            if found is not None:
                book.consumed(recorder, uri, digest or found.digest, name)
                self._link(found)
                return found.run
            # Whoever produced it may not be delivered yet: the run then says what it wanted, see `tracklayer.reconcile`.
            recorder.append(Consumed(run=self.run_id or "", uri=uri, digest=digest, at=milliseconds(None), name=name))
        return None

    def _producer(self, recorder: Recorder, uri: str, digest: str | None) -> Upstream | None:
        store = recorder.backend.store
        try:
            return recorder.ask(lambda: find_producer(store, uri, digest, beside=self.run_id))
        except StoreUnavailable:
            recorder.unanswered()
            raise

    def link(self, upstream: Upstream | Token | str) -> None:
        """Link this run to one that feeds it.

        Args:
            upstream: the run; or a token (parsed, or its text) that the other side handed over.
        """
        with fence("linking", self.settings.on_error):
            if isinstance(upstream, str):
                upstream = parse_token(upstream)
            if isinstance(upstream, Token):
                upstream = Upstream(run=upstream.run, kind="token")
            self._link(upstream)

    def _link(self, upstream: Upstream) -> None:
        opened, book, recorder, ref = self._opened, self._book, self.recorder, self.ref
        if opened is None or book is None or recorder is None or ref is None:
            return
        if upstream.run.run_id in {self.run_id, ref.run_id}:
            return
        mine = object()  # of two threads that find the same one at once, the first is told from the second by it
        again = any(link.upstream.run.run_id == upstream.run.run_id for link in opened.links)
        again = self._linked.setdefault(upstream.run.run_id, mine) is not mine or again
        self._late_links.append(upstream)
        book.link(recorder, upstream)  # found again, by data: one link that now tells more
        if not again:
            dispatch.run_linked(self._plugins, Link(consumer=ref, upstream=upstream), strict=self._strict)

    # ---------------------------------------------------------------------------------------------- life

    def open(self) -> None:
        """Have the run created, if tracking is on and it is not there yet; called by `tracklayer.track`.

        Waits for the server as long as the setting ``patience`` says; after that the run has a provisional id.
        """
        preparation, recorder = self._preparation, self.recorder
        if self._opened is not None or preparation is None or recorder is None:
            return
        with fence("opening the run", self.settings.on_error):
            try:
                opened = recorder.begin(
                    preparation.opening, wait=self.settings.patience, strict=self._strict, named=self._is_named
                )
            except StoreError:
                raise
            except BaseException:  # a time-out by signal, Ctrl-C: the run may come to be all the same
                if (asked := recorder.interrupted(preparation.opening)) is not None:
                    self._is_opened(asked)
                raise
            self._is_opened(opened)
            refresh_environment()
            if self.context.task_run is not None:  # those of a workflow run are logged by whoever makes its parent
                self.log_params(preparation.params)
            with being_opened(self):
                announce(preparation, opened, self._plugins)

    def _is_named(self, opened: Opened) -> None:
        """The run has come to be, after it had been given out under a provisional id; called in the sender's thread."""
        self._late = opened
        refresh_environment()
        if opened.made_parent is not None:
            with fence("telling the plugins", "log"):
                announce_run(opened.made_parent, self._plugins, strict=False)

    def _is_opened(self, opened: Opened) -> None:
        self._opened = opened
        self.run_id = opened.ref.run_id
        self._book = Logbook(self.settings, opened.ref.run_id)

    def flush(self) -> bool:
        """Send what has been logged so far, and wait until the server has it.

        Returns:
            False if it has not: it cannot be reached now, or nothing is tracked. What was logged is kept.
        """
        with fence("sending what was logged", self.settings.on_error):
            if (recorder := self.recorder) is not None:
                delivered = recorder.flush()
                self._insist(delivered)
                return delivered
        return False

    def end(
        self,
        status: Status,
        *,
        note: str | None = None,
        error: BaseException | str | None = None,
        ended_at: int | None = None,
    ) -> None:
        """End the run; only the first call counts. ``RUNNING`` sends what was logged and leaves the run open.

        Args:
            status: how it ended.
            note: one word for people, the tag ``tracklayer.outcome``. With `ELSEWHERE` the code is left for good.
            error: what it failed with; its type and message become tags.
            ended_at: when it ended, in milliseconds since the epoch, where that is a while ago; None is now.
        """
        if self._ended or self.process_id != os.getpid():  # a fork of the process that opened it does not end it
            return
        of_code: Status = "FINISHED" if note == ELSEWHERE else status
        left = status == "RUNNING" and note == ELSEWHERE and is_provisional(self.run_id or "")
        if left:  # it may be delivered when the workflow run has long ended, and nobody would end it any more
            status = of_code
        ended_at = milliseconds(None) if ended_at is None else ended_at
        self._ended, self._ended_as, self._note = True, status, note
        if self._opened is None or self.run_id is None or (recorder := self.recorder) is None:
            return
        try:
            if note:
                self.set_tags({OUTCOME_TAG: note})
            if error is not None:
                self._tag_error(error)
            self._log_the_rest(recorder)
        finally:  # a time-out by signal or Ctrl-C may strike meanwhile: nobody else would end it
            with fence("ending the run", self.settings.on_error):
                self._end_left_open(of_code)
                self._write_end(recorder, status, ended_at, left=left)
        with fence("ending the run", self.settings.on_error):
            self._insist(recorder.drain())
        if self.context.task_run is None or self._preparation is None or status == "RUNNING":
            return  # whoever ends a workflow run's parent tells the plugins
        with fence("telling the plugins", self.settings.on_error):
            dispatch.run_ended(self._plugins, self.ref or self._opened.ref, status, strict=self._strict)

    def announce_end(
        self,
        status: Status,
        *,
        note: str | None = None,
        error: BaseException | str | None = None,
        ended_at: int | None = None,
    ) -> None:
        """Say how the run will end, where much may happen before `end` is called, or keep it from being called.

        Whoever ends the run in place of this process then ends it so. Does nothing once it has ended.

        Args:
            status: how it will end.
            note: as of `end`.
            error: as of `end`.
            ended_at: as of `end`.
        """
        if not self._ended and self.process_id == os.getpid():
            if error is not None:
                self._tag_error(error)
            end = RealEnd(status, milliseconds(None) if ended_at is None else ended_at, note)
            self.set_tags({**end.tags(), **({OUTCOME_TAG: note} if note else {})})

    def fail(self, error: BaseException | str) -> None:
        """Let a stage that has ended ``FINISHED`` in this process end ``FAILED``: its task failed after its code had returned.

        Does nothing for one that is open or has ended otherwise. Plugins that were told of its end are told of this one.
        What was noted of the end that it had is taken back.

        Args:
            error: what the task failed with.
        """
        recorder = self.recorder
        if self._ended_as != "FINISHED" or self.process_id != os.getpid() or self.run_id is None or recorder is None:
            return
        if self._opened is None or self.context.task_run is None:
            return
        self._ended_as = "FAILED"
        if self._note:
            recorder.append(DeleteTag(self.run_id, OUTCOME_TAG))
        self._tag_error(error)
        with fence("ending the run", self.settings.on_error):
            self._write_end(recorder, "FAILED", milliseconds(None))
            self._insist(recorder.drain())
        with fence("telling the plugins", self.settings.on_error):
            dispatch.run_ended(self._plugins, self.ref or self._opened.ref, "FAILED", strict=self._strict)

    def _log_the_rest(self, recorder: Recorder) -> None:
        """What is logged last: what others know of the run, and what workers have left."""
        with fence("logging the orchestrator's params", self.settings.on_error):
            self._log_collected(recorder)
        with fence("describing the links", self.settings.on_error):
            self._describe_late_links(recorder)
        with fence("delivering what child processes left", "log"):
            self._inherit(recorder)

    def _tag_error(self, error: BaseException | str) -> None:
        kind = type(error).__qualname__ if isinstance(error, BaseException) else "error"
        self.set_tags({"tracklayer.error.type": kind, "tracklayer.error.message": _message(error)})

    def _inherit(self, recorder: Recorder) -> None:
        """Deliver what workers of this process logged before they were killed, as `multiprocessing.Pool` does to its own."""
        if recorder.away:
            return
        from tracklayer.journal.inheritance import inherit

        patience = self.settings.patience
        with contextlib.suppress(StoreUnavailable):  # what is under way goes on beside us
            recorder.ask(
                lambda: inherit(recorder.backend, self.settings, since=self._since, limit=patience), limit=patience
            )

    def _log_collected(self, recorder: Recorder) -> None:
        """Log what plugins know, last, so that what user code logs by the same name stands."""
        preparation, book = self._preparation, self._book
        if preparation is not None and book is not None and self.context.task_run is not None:
            book.yielding_params(recorder, preparation.collected)

    def _describe_late_links(self, recorder: Recorder) -> None:
        """Have the run's description brought up to date with links that were found after it was created."""
        if not self._late_links or self._opened is None or self._preparation is None:
            return
        found = [*(link.upstream for link in self._opened.links), *self._late_links]
        links = list({item.run.run_id: item for item in found}.values())
        note = compose(self.context, parent=self._opened.parent, upstream=links)
        recorder.append(Linked(run=self.run_id or "", note=note))

    def _end_left_open(self, status: Status) -> None:
        """End the runs that user code started below this one through mlflow and left open."""
        plugin = sys.modules.get("tracklayer.mlflow_plugins.store")
        if plugin is not None and self.run_id is not None and status != "RUNNING":
            plugin.end_left_open(self.run_id, status)

    def _write_end(self, recorder: Recorder, status: Status, ended_at: int, *, left: bool = False) -> None:
        run_id = self.run_id or ""
        if status == "RUNNING":
            recorder.append(LeftOpen(run=run_id))
        elif self.context.task_run is None:
            recorder.append(Close(context=self.context.bare(), status=status, ended_at=ended_at, parent=self.ref))
        else:
            recorder.append(End(run=run_id, status=status, end_time=ended_at, left=left))

    def _insist(self, delivered: bool) -> None:
        if self._strict and not delivered:
            raise StoreUnavailable(f"not all that was logged could be sent to {self.tracking_uri} yet; it is kept")

    def __repr__(self) -> str:
        return f"<StageRun {self.key or 'untracked'} run_id={self.run_id} {'open' if self.is_open else 'ended'}>"


def _message(error: BaseException | str) -> str:
    try:
        return str(error)[:ERROR_LENGTH]
    except Exception as failure:  # a user's exception may fail to print itself
        let_through(failure)
        return "(its message cannot be shown)"
