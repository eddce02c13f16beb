"""The end of a workflow run: its parent is ended, and whatever of its stage runs nobody ended with it; or of one try."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tracklayer import dispatch, naming, registry
from tracklayer.context import SCRIPT
from tracklayer.current import open_here
from tracklayer.description import NOTE_TAG, with_downstream
from tracklayer.ending import end_as_told, end_instead, is_untold, leave_open, leave_untold, take_back
from tracklayer.exceptions import StoreError
from tracklayer.fence import fence, log
from tracklayer.identity import PARENT_TAG, TAKEN_OVER_TAG, key_tag, member_tag, workflow_run_key
from tracklayer.linking import consumers_of, read_links, ref_of
from tracklayer.opening import milliseconds
from tracklayer.parent import find_parent
from tracklayer.redaction import Redaction
from tracklayer.store.failure import failure_of_one

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracklayer.backend import Backend
    from tracklayer.context import RunContext, RunRef, Status
    from tracklayer.ending import RealEnd
    from tracklayer.settings import Settings
    from tracklayer.store import Run, Store

MEMBERS: Final = 10_000
"""So many stage runs of one workflow run are looked at when it ends."""

CLOCKS: Final = 10_000
"""Milliseconds by which the clocks of two machines may differ: what seems later by no more than that need not be so."""

NOBODY: Final[Mapping[str, RealEnd]] = MappingProxyType({})
"""Nobody has told how any try ended."""

DESCRIBED: Final = 100
"""At most so many upstream runs get their list of downstream runs written anew when a workflow run ends."""


def close(
    context: RunContext,
    status: Status,
    settings: Settings,
    backend: Backend,
    *,
    parent: RunRef | None = None,
    error: str | None = None,
    ended_at: int | None = None,
    told: Mapping[str, RealEnd] = NOBODY,
    patient: bool = False,
    instead: bool = False,
) -> bool:
    """End the parent of a workflow run, safe to repeat.

    Stage runs that are still RUNNING are ended as their orchestrator tells, where it does (`told`), else KILLED: their
    processes died without a word. Those that are open in
    this very process are not; they will end themselves. Neither are those that have started since `ended_at`, by more
    than clocks may differ: the word of the end came late, and the workflow run goes on meanwhile (it was cleared, or is
    retried), or a task has come to start all the same, which its orchestrator will stop. Then the parent is left open,
    too: it is worth another try when they have ended. In the end the runs that fed this workflow
    run get their lists of downstream runs.

    Args:
        context: the workflow run (its task does not matter).
        status: how it ended.
        settings: the settings.
        backend: the tracking back end.
        parent: the parent, if the caller knows it; else it is found by key. There may be none, if no task of the
            workflow run was tracked: then nothing is done.
        error: what it failed with, for the parent's tags.
        ended_at: when it ended, in milliseconds since the epoch; None is now.
        told: how tries ended of which no process was there then (a trigger ended them), by key.
        patient: True if stage runs that are still RUNNING may be ended by their own processes at any moment: then
            nothing is done as long as there are any. To look for them before would not do: one may begin in between.
        instead: True if it is ended in place of its own process: if that has ended it, nothing is done.

    Returns:
        False if it goes on, so that its parent was left open.

    Raises:
        StoreError: the back end cannot be reached; nothing is half done that a repetition does not do.
    """
    ended_at = milliseconds(None) if ended_at is None else ended_at
    key = workflow_run_key(context.workflow_run)
    found = parent or backend.parent(key) or _find(context, settings, backend, key)
    if found is None:
        log.debug("no stage of %s was tracked: there is no parent to end", key)
        return True
    store = backend.store
    if instead and store.get_run(found.run_id).status != "RUNNING":
        return True
    members = members_of(backend, key)
    running = [run for run in members if run.status == "RUNNING"]
    if patient and running:
        return False
    _end_members(members, settings, store, ended_at, told)
    # A script's process is its whole life: what began after it is no second one.
    if context.workflow_run.orchestrator != SCRIPT and any(began(run) > ended_at + CLOCKS for run in running):
        log.info("%s goes on: it ended once, and tasks of it have started since", key)
        return False
    if error:
        message = str(Redaction(settings.redact).mask("error", error))[:1_000]
        store.log_batch(found.run_id, tags={"tracklayer.error.message": message})
    if not instead:
        store.update_run(found.run_id, status=status, end_time=ended_at)
    elif not end_instead(store, found.run_id, status, ended_at, {}):
        return True  # its own process has, meanwhile
    backend.forget(key)
    dispatch.run_ended(registry.load(settings), found, status, strict=settings.on_error == "raise")
    if settings.describe_upstream:
        with fence("describing the runs upstream", settings.on_error):
            describe_upstream(backend, [*members, store.get_run(found.run_id)])
    return True


def _end_members(
    members: list[Run], settings: Settings, store: Store, ended_at: int, told: Mapping[str, RealEnd]
) -> None:
    """End those of a workflow run's stage runs that nobody has ended, see `close`.

    One that may only be read (another team's experiment) or is gone keeps no other, nor the parent, from its end.
    """
    alive = open_here()
    for run in members:
        if run.run_id in alive:
            end, left_at = None, None
        else:
            end = told.get(run.tags.get("tracklayer.key", ""))
            left_at = ended_at if run.status == "RUNNING" and began(run) <= ended_at + CLOCKS else None
        as_told: list[Status] = []
        error = failure_of_one(partial(_end_member, store, run, end, left_at, as_told.append), store)
        if error is not None:
            bug = None if isinstance(error, StoreError) else error
            log.warning("tracking: run %s does not end with its workflow run: %s", run.run_id, error, exc_info=bug)
        for status in as_told:
            dispatch.run_ended(registry.load(settings), ref_of(run), status, strict=settings.on_error == "raise")


def _end_member(
    store: Store, run: Run, end: RealEnd | None, left_at: int | None, as_told: Callable[[Status], object]
) -> None:
    """End a stage run as was told, or at `left_at` if nobody has ended it by itself; None leaves it as it is."""
    take_back(store, run)
    if end is not None and end_as_told(store, run, end):
        as_told(end.status)
    if left_at is not None:
        leave = leave_untold if is_untold(run) else leave_open
        leave(store, run.run_id, left_at)  # nothing is left to do where it was told


def began(run: Run) -> int:
    """When the try began that is in a run now, in milliseconds since the epoch: a later one than the first may go on with it."""
    told = run.tags.get(TAKEN_OVER_TAG, "")
    again = int(told) if told.isascii() and told.isdigit() and len(told) < 16 else 0
    return max(run.start_time or 0, again)


def give_up(store: Store, key: str, ended_at: int) -> None:
    """End the runs of a try whose process the orchestrator has lost, and those that user code has open below them.

    Safe to repeat. A real end that comes even later wins. What was never created is not missed here. A run with which a
    later try goes on (``attempts = "reuse"``) is that one's.

    Args:
        store: where the runs are.
        key: the try's key.
        ended_at: when the orchestrator gave it up, in milliseconds since the epoch.

    Raises:
        StoreError: the back end cannot be reached; nothing is half done that a repetition does not do.
    """
    found = store.search_runs([], f"tags.`{key_tag(key)}` != ''", limit=MEMBERS)
    runs = [run for run in found if run.tags.get("tracklayer.key", key) == key]
    seen = {run.run_id for run in runs}
    while runs:
        run = runs.pop()
        leave_open(store, run.run_id, ended_at)
        below = f"tags.`{PARENT_TAG}` = '{run.run_id}' and attributes.status = 'RUNNING'"  # of a sweep, few
        for child in store.search_runs([], below, limit=MEMBERS):
            if child.run_id not in seen:
                seen.add(child.run_id)
                runs.append(child)


def describe_upstream(backend: Backend, runs: list[Run]) -> None:
    """Write anew the lists of downstream runs in the descriptions of the runs that feed `runs`."""
    upstream = list(dict.fromkeys(link.run.run_id for run in runs for link in read_links(run.tags)))
    for run_id in upstream[:DESCRIBED]:
        describe_downstream(backend, run_id)


def describe_downstream(backend: Backend, run_id: str) -> None:
    """Write anew the list of downstream runs in a run's description."""
    store = backend.store
    try:
        run = store.get_run(run_id)
        before = run.tags.get(NOTE_TAG, "")
        after = with_downstream(before, consumers_of(store, run_id))
        if after != before and not run.deleted:
            store.log_batch(run_id, tags={NOTE_TAG: after})
    except StoreError as error:  # it may be gone, or somebody else's to write to; the links stand all the same
        log.info("the description of run %s was not brought up to date: %s", run_id, error)


def _find(context: RunContext, settings: Settings, backend: Backend, key: str) -> RunRef | None:
    plugins = registry.load(settings)
    own = context.of_workflow_run()
    name = dispatch.experiment_name(plugins, own, strict=settings.on_error == "raise")
    named = naming.valid_experiment_name(name) if name else naming.experiment_name(own, settings)
    experiment = backend.store.get_experiment_by_name(named)
    if experiment is None:
        return None
    found = find_parent(backend.store, experiment.experiment_id, key, alone=context.owns_workflow_run)
    return ref_of(found) if found else None


def members_of(backend: Backend, key: str, *, running: bool = False, limit: int = MEMBERS) -> list[Run]:
    """The stage runs of a workflow run, in whatever experiment, and the runs of user code below them.

    An argument, a plugin or the user's own code may have placed any of them, in a process that nobody can ask any more.
    So it is not guessed where they are: all experiments are searched.

    Args:
        backend: the tracking back end.
        key: the workflow run's key.
        running: only those that are running.
        limit: at most so many.

    Raises:
        StoreError: the back end cannot be reached.
    """
    wanted = f"tags.`{member_tag(key)}` != ''" + (" and attributes.status = 'RUNNING'" if running else "")
    return list(backend.store.search_runs([], wanted, limit=limit))
