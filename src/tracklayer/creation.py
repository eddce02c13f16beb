"""Creating the run of an opening: under its parent, with its links, once.

All requests of that are made here, by whoever delivers the opening: the sender of the process that opened the stage,
or a process that took over what it left behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tracklayer.context import Link, RunRef
from tracklayer.description import NOTE_TAG, compose
from tracklayer.ending import NO_END, REAL_END_TAG, end_instead, reopen
from tracklayer.exceptions import NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.fence import OnError, fence, log
from tracklayer.identity import (
    PARENT_TAG,
    ROOT_TAG,
    SUPERSEDED_TAG,
    TAKEN_OVER_TAG,
    attempt_tag,
    key_tag,
    member_tag,
    task_key,
    workflow_run_key,
)
from tracklayer.linking import link_tags, ref_of
from tracklayer.machine import PROCESS_TAG
from tracklayer.opening import Opened, Opening
from tracklayer.outcome import ELSEWHERE, OF_AN_END, OUTCOME_TAG
from tracklayer.parent import make_parent
from tracklayer.provisional import EXPECTED, EXPECTED_TAG, PENDING, id_tag, is_provisional, provisional_id
from tracklayer.store.delivery import deliver
from tracklayer.tags import run_tags

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.backend import Backend
    from tracklayer.context import Upstream
    from tracklayer.store import Run


def create(
    opening: Opening,
    backend: Backend,
    *,
    again: bool = False,
    given_out: str | None = None,
    resolve: Callable[[str], str] = str,
) -> Opened:
    """Create (or, for the same try, resume) the run, under its parent.

    Args:
        opening: what is known about the run.
        backend: where to create it.
        again: True if it was tried before and no answer came, or if another process may have tried: the run may be
            there all the same, so it is looked for.
        given_out: the provisional id under which it was given out while the server was away; None if it was not.
        resolve: the server's id for a local one; the local one itself while there is none.

    Raises:
        StoreError: the back end cannot be reached or refuses.
    """
    opening = _resolved(opening, resolve)
    try:
        return _create(opening, backend, again=again, given_out=given_out)
    except (NotFound, Refused) as error:
        # The experiment or the parent that was remembered, or handed over, may be gone by now: look anew, once.
        log.info("opening %s once more, from the start: %s", opening.key, error)
        backend.forget(workflow_run_key(opening.context.workflow_run))
        backend.experiments.forget()
        opening = replace(opening, context=replace(opening.context, parent=None))
        return _create(opening, backend, again=again, given_out=given_out)


def _resolved(opening: Opening, resolve: Callable[[str], str]) -> Opening:
    """The opening with the server's ids, as far as they are known."""

    def known(run: RunRef) -> RunRef:
        return replace(run, run_id=resolve(run.run_id)) if is_provisional(run.run_id) else run

    parent = opening.context.parent
    if parent is not None:
        parent = known(parent)
        # Everybody can find the parent by its key, so nobody need wait for the one who gave this id out.
        parent = None if is_provisional(parent.run_id) else parent
    upstream = tuple(replace(item, run=known(item.run)) for item in opening.upstream)
    tokens = tuple(
        replace(token, run=known(token.run), root=resolve(token.root) if token.root else None)
        for token in opening.context.tokens
    )
    return replace(
        opening,
        context=replace(opening.context, parent=parent, tokens=tokens),
        upstream=upstream,
        outer=known(opening.outer) if opening.outer else None,
        parent=_resolved(opening.parent, resolve) if opening.parent else None,
    )


def _create(opening: Opening, backend: Backend, *, again: bool, given_out: str | None) -> Opened:
    context = opening.context
    if context.task_run is None:
        return _open_parent(opening, backend, again=again, given_out=given_out)
    made_parent: Opened | None = None
    parent = opening.outer or context.parent
    if parent is None:
        made_parent = _parent_of(opening, backend, again=again, given_out=given_out is not None)
        parent = made_parent.ref
    root = context.tokens[0].root or context.tokens[0].run.run_id if context.tokens else parent.run_id
    experiment_id = _experiment_id(opening, backend, parent)
    told_parent = made_parent if made_parent is not None and made_parent.made else None
    resumed = _resumed(opening, backend, experiment_id, again=again)
    if resumed is not None:
        over = resumed.status != "RUNNING" and not _is_of_a_later_try(opening, resumed)
        if over and (given_out is None or resumed.end_time is None or resumed.end_time <= opening.start_time):
            # Else it went on elsewhere, and has ended, before this part of it was delivered.
            reopen(backend.store, resumed)
        if _is_of_an_earlier_try(opening, resumed):
            _take_over(opening, backend, resumed, late=given_out is not None)
        elif resumed.tags.get(OUTCOME_TAG) == ELSEWHERE:  # and has come back all the same: its trigger failed
            backend.store.delete_tag(resumed.run_id, OUTCOME_TAG)
        if again:  # whoever created it may have died, or lost the answer, before
            _among_tries(opening, backend, _ref(opening, resumed), late=given_out is not None, again=True)
        if given_out is not None:
            backend.store.log_batch(resumed.run_id, tags={id_tag(given_out): "1"})
        return Opened(ref=_ref(opening, resumed), parent=parent, root=root, made=False, made_parent=told_parent)
    # A worker process of a flow inherits the flow's own token: a run is not linked to its own parent.
    fed = [item for item in opening.upstream if item.run.run_id != parent.run_id]
    upstream = [item for item in fed if not is_expected(item)]
    tags = {
        **opening.tags,
        **link_tags(upstream),
        **{EXPECTED_TAG + item.run.run_id: item.kind for item in fed if is_expected(item)},
        key_tag(opening.key): "1",
        attempt_tag(task_key(context.workflow_run, context.task_run)): str(context.task_run.try_number),
        member_tag(workflow_run_key(context.workflow_run)): "1",
        PARENT_TAG: parent.run_id,
        ROOT_TAG: root,
        NOTE_TAG: compose(context, parent=parent, upstream=upstream, user=opening.note),
    }
    if given_out is not None:
        tags[id_tag(given_out)] = "1"
    run = backend.store.create_run(experiment_id, name=opening.name, start_time=opening.start_time, tags=tags)
    ref = _ref(opening, run)
    _among_tries(opening, backend, ref, late=given_out is not None, again=again)
    links = tuple(Link(consumer=ref, upstream=item) for item in upstream)
    return Opened(ref=ref, parent=parent, root=root, links=links, made_parent=told_parent)


def is_expected(upstream: Upstream) -> bool:
    """True for a run that ought to be there, and that nobody has found yet; see `tracklayer.lookup.find`."""
    return upstream.run.experiment_id == EXPECTED and is_provisional(upstream.run.run_id)


def _parent_of(opening: Opening, backend: Backend, *, again: bool, given_out: bool) -> Opened:
    """The workflow-run parent of a stage's opening: remembered, found, or made with all that was said about it."""
    key = workflow_run_key(opening.context.workflow_run)
    with backend.electing:
        known = backend.parent(key)
        if known is not None:
            return Opened(ref=known, parent=None, root=known.run_id, made=False)
        own = provisional_id(key) if given_out else None  # which the stage has told as its parent
        return _open_parent(opening.parent or _parent_opening(opening), backend, again=again, given_out=own)


def _parent_opening(opening: Opening) -> Opening:
    """What a stage's opening says about its parent; for a parent that was known to be there, and is gone."""
    context = opening.context.of_workflow_run()
    name = context.workflow_run.name or context.workflow_run.run_id
    return Opening(
        context=context,
        key=workflow_run_key(context.workflow_run),
        experiment=opening.home,
        home=opening.home,
        experiment_tags=opening.experiment_tags,
        name=name,
        start_time=opening.start_time,
        tags=run_tags(context),
    )


def _open_parent(opening: Opening, backend: Backend, *, again: bool, given_out: str | None) -> Opened:
    """Find or make the parent; a parent that had been ended is open again (a cleared DAG run, a rerun flow)."""
    context = opening.context
    root = context.tokens[0].root or context.tokens[0].run.run_id if context.tokens else None
    if context.parent is not None:
        backend.store.update_run(context.parent.run_id, status="RUNNING")
        if PROCESS_TAG in opening.tags:  # it goes on in another process: a flow that was suspended, or is run again
            backend.store.log_batch(context.parent.run_id, tags={PROCESS_TAG: opening.tags[PROCESS_TAG]})
        backend.remember(opening.key, context.parent)
        return Opened(ref=context.parent, parent=None, root=root or context.parent.run_id, made=False)
    experiment_id = backend.experiments.id_of(opening.experiment or opening.home, opening.experiment_tags)
    tags = {
        **opening.tags,
        **link_tags(opening.upstream),
        NOTE_TAG: compose(context, parent=None, upstream=opening.upstream, user=opening.note),
    }
    if given_out is not None:
        tags[id_tag(given_out)] = "1"
    run, made = make_parent(
        backend.store,
        experiment_id,
        opening.key,
        name=opening.name,
        start_time=opening.start_time,
        tags=tags,
        # Under a provisional id the parent was handed on, so other processes may be looking for it by now.
        # What was asked for before, and not answered, may still be under way: then it is not alone, but with itself.
        alone=context.owns_workflow_run and given_out is None and not again,
    )
    ref = _ref(opening, run)
    opened = Opened(ref=ref, parent=None, root=root or ref.run_id, made=made)
    # Whoever made it may have died, or lost the answer, before it had logged them.
    if opening.params and (made or not opening.params.keys() & run.params.keys()):
        _log_params(opening, backend, run)
    backend.remember(opening.key, ref)
    if not made:
        process = opening.tags.get(PROCESS_TAG)
        news = {PROCESS_TAG: process} if process is not None and process != run.tags.get(PROCESS_TAG) else {}
        if given_out is not None and id_tag(given_out) not in run.tags:
            news[id_tag(given_out)] = "1"
        if news:
            backend.store.log_batch(run.run_id, tags=news)
        # What is delivered late must not open a workflow run again that has ended since.
        if run.status != "RUNNING" and (run.end_time is None or run.end_time <= opening.start_time):
            backend.store.update_run(run.run_id, status="RUNNING")
        return opened
    return replace(opened, links=tuple(Link(consumer=ref, upstream=item) for item in opening.upstream))


def _log_params(opening: Opening, backend: Backend, run: Run) -> None:
    """Log a workflow run's params. Raises StoreError: it is then tried again, as a whole."""
    for refusal in deliver(backend.store, run.run_id, params=opening.params):
        log.warning("the tracking server refused a param of %s: %s", opening.key, refusal)
    for path, content in opening.artifacts.items():
        try:
            backend.store.log_artifact(run, path, content)
        except StoreUnavailable:
            raise
        except StoreError as error:  # a store of artifacts that takes none of this user holds up no run
            backend.store.ping()  # raises if it is the server itself that takes none
            log.warning("the whole value of a param of %s was not stored as %s: %s", opening.key, path, error)


def _experiment_id(opening: Opening, backend: Backend, parent: RunRef) -> str:
    """Id of a stage's experiment; one whose experiment has its parent's name needs no look-up."""
    if opening.experiment is None or opening.experiment == opening.home:
        return parent.experiment_id
    return backend.experiments.id_of(opening.experiment, opening.experiment_tags)


def _resumed(opening: Opening, backend: Backend, experiment_id: str, *, again: bool) -> Run | None:
    """The run to go on with: of this very try if it was resumed, of an earlier try with ``attempts = "reuse"``."""
    context = opening.context
    if context.task_run is None:
        return None
    names = []
    if context.task_run.resumed or again:
        names.append(key_tag(opening.key))
    if opening.attempts == "reuse" and context.task_run.try_number > 1:
        names.append(attempt_tag(task_key(context.workflow_run, context.task_run)))
    for name in names:
        runs = backend.store.search_runs(
            [experiment_id], f"tags.`{name}` != ''", order_by=["attributes.start_time DESC"], limit=1
        )
        if not runs and context.task_run.resumed:  # where it was begun, code may have chosen another experiment
            runs = backend.store.search_runs([], f"tags.`{name}` != ''", limit=1)
        if runs:
            return runs[0]
    return None


def _is_of_an_earlier_try(opening: Opening, run: Run) -> bool:
    """Whether a run that a try goes on with is still known as an earlier try's (``attempts = "reuse"``)."""
    return _compared(opening, run) < 0


def _is_of_a_later_try(opening: Opening, run: Run) -> bool:
    """Whether a later try goes on with a run that this one has begun, or has ended it."""
    return _compared(opening, run) > 0


def _compared(opening: Opening, run: Run) -> int:
    """By how many tries the one that is in a run now is later than that of the opening."""
    task_run = opening.context.task_run
    if task_run is None:
        return 0
    known = run.tags.get(attempt_tag(task_key(opening.context.workflow_run, task_run)), "")
    return _try_number(known) - task_run.try_number


def _take_over(opening: Opening, backend: Backend, run: Run, *, late: bool) -> None:
    """Let an earlier try's run be this try's: found by its key, ended by its end and by no word about the earlier one."""
    context = opening.context
    if context.task_run is None:
        return
    tags = {
        "tracklayer.key": opening.key,
        key_tag(opening.key): "1",
        attempt_tag(task_key(context.workflow_run, context.task_run)): str(context.task_run.try_number),
        TAKEN_OVER_TAG: str(opening.start_time),
    }
    if REAL_END_TAG in run.tags:  # whoever ends this try in its stead would take it for its end
        tags |= NO_END
    backend.store.log_batch(run.run_id, tags=tags)
    for name in OF_AN_END:
        if name in run.tags:
            backend.store.delete_tag(run.run_id, name)
    _reopen_parent(opening, backend, late=late)


def _among_tries(opening: Opening, backend: Backend, ref: RunRef, *, late: bool, again: bool) -> None:
    """Mark the earlier tries of the task as superseded by this run; and this one, if a later try was delivered first.

    Raises `StoreUnavailable` once, if the server goes away: the run is then found when it is asked for `again`.
    """
    task_run = opening.context.task_run
    strict: OnError = "raise" if opening.strict else "log"
    if task_run is None or (task_run.try_number <= 1 and not late):
        return
    if task_run.try_number > 1:
        _reopen_parent(opening, backend, late=late)
    away: StoreUnavailable | None = None
    with fence("marking the earlier tries as superseded", strict):
        try:
            _supersede(opening, backend, ref)
        except StoreUnavailable as error:
            if again or error.internal:
                raise
            away = error
    if away is not None:
        raise away


def _reopen_parent(opening: Opening, backend: Backend, *, late: bool) -> None:
    """Open the parent again if it was handed over, since nobody looked then whether it was ended before this retry."""
    parent = opening.context.parent
    if parent is not None and not late:
        with fence("opening the workflow run's parent again", "raise" if opening.strict else "log"):
            backend.store.update_run(parent.run_id, status="RUNNING")


def _supersede(opening: Opening, backend: Backend, ref: RunRef) -> None:
    """Tag the runs of earlier tries, and end those that nobody ended (their process was killed).

    In whatever experiment they are: a template, or the task's own code, may have named another one for each try.
    """
    task_run = opening.context.task_run
    if task_run is None:
        return
    name = attempt_tag(task_key(opening.context.workflow_run, task_run))
    later: list[tuple[int, str]] = []
    for run in backend.store.search_runs([], f"tags.`{name}` != ''"):
        if run.run_id == ref.run_id:
            continue
        number = _try_number(run.tags.get(name, ""))
        if number > task_run.try_number:
            later.append((number, run.run_id))
            continue
        if SUPERSEDED_TAG in run.tags:
            continue
        if run.status == "RUNNING":
            end_instead(backend.store, run.run_id, "FAILED", opening.start_time, {})
        backend.store.log_batch(run.run_id, tags={SUPERSEDED_TAG: ref.run_id})  # the last: with it a repetition passes
    if later:
        backend.store.log_batch(ref.run_id, tags={SUPERSEDED_TAG: min(later)[1]})


def _try_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _ref(opening: Opening, run: Run) -> RunRef:
    return replace(ref_of(run), key=opening.key, name=run.name or opening.name, stage=opening.context.stage)


def provisionally(opening: Opening) -> Opened:
    """The opening's run as it is given out while the server is away: under ids that will lead to it.

    The parent is the one that everybody derives from the workflow run's key.
    """
    context = opening.context
    ref = RunRef(
        run_id=provisional_id(opening.key),
        experiment_id=PENDING,
        key=opening.key,
        name=opening.name,
        stage=context.stage,
    )
    token = context.tokens[0] if context.tokens else None
    told_root = (token.root or token.run.run_id) if token else None
    if context.task_run is None:
        return Opened(ref=ref, parent=None, root=told_root or ref.run_id)
    key = workflow_run_key(context.workflow_run)
    parent = opening.outer or context.parent or RunRef(run_id=provisional_id(key), experiment_id=PENDING, key=key)
    links = tuple(Link(consumer=ref, upstream=item) for item in opening.upstream if not is_expected(item))
    return Opened(ref=ref, parent=parent, root=told_root or parent.run_id, links=links)
