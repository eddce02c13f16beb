"""What a task was handed over: the tokens of the nearest tracked tasks upstream, and of the assets that started it.

A tracked task pushes its token as XCom `TOKEN_XCOM`. A later one walks from itself against the arrows and stops at
every task that has pushed one: tasks that are not tracked (and so have none) are walked through, tasks that did not
run (a branch that was not taken) are not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tracklayer_airflow.supervisor import ask

if TYPE_CHECKING:
    from tracklayer.context import Token

TOKEN_XCOM: Final = "tracklayer"  # noqa: S105  # the name of a key
"""Key of the XCom that holds a tracked task's token, and of its place in the extra of asset events."""

LOOKUPS: Final = 200
"""No more tasks than this are asked for their token, however wide the DAG."""

LONGEST: Final = 5.0
"""Seconds after which no further task is asked: each question is a request to Airflow, and the task waits to begin."""

_DID_NOT_RUN: Final = frozenset({"skipped", "upstream_failed", "removed", "None", ""})

log = logging.getLogger("tracklayer")


@dataclass(frozen=True, slots=True)
class _Walk:
    """The answer for one try, kept because more than one hook of the same opening asks for it."""

    place: tuple[object, ...]
    tokens: tuple[Token, ...]


_last_walk: ContextVar[_Walk | None] = ContextVar("tracklayer_airflow_last_walk", default=None)


def tokens(task: Mapping[str, Any]) -> tuple[Token, ...]:
    """The tokens of the nearest tracked tasks upstream of the one that runs in Airflow's task context `task`.

    Of a mapped task upstream it is that of the map index that feeds this one, where that can be told (same mapped
    task group, or one expanded over the other's results), else those of all.
    """
    ti = task["ti"]
    place = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)
    last = _last_walk.get()
    if last is not None and last.place == place:
        return last.tokens
    walk = _Walk(place, tuple(_walk(ti, task["dag"])))
    _last_walk.set(walk)
    return walk.tokens


def token_of(ti: Any, task_id: str) -> Token | None:
    """The token of one task of the same DAG run, of its lowest map index if it is mapped; None if it has none."""
    return next(iter(parsed(_pull(ti, task_id, None))), None)


def own_token(ti: Any) -> Token | None:
    """The token that this very task instance has pushed; None if it has pushed none."""
    index = None if ti.map_index is None or ti.map_index < 0 else ti.map_index
    return next(iter(parsed(_pull(ti, ti.task_id, index))), None)


def event_tokens(task: Mapping[str, Any]) -> Sequence[tuple[str, Token]]:
    """Asset URI and token for every asset event that started this DAG run and was made by a tracked task."""
    found: list[tuple[str, Token]] = []
    events = task.get("triggering_asset_events") or {}
    for asset in events:
        uri = getattr(asset, "uri", None)
        if uri is None:  # an alias: its events stand at their assets too
            continue
        for event in events[asset]:
            found.extend((uri, token) for token in parsed([(event.extra or {}).get(TOKEN_XCOM)]))
    return found


def _walk(ti: Any, dag: Any) -> Iterable[Token]:
    tasks = dag.task_dict
    here = tasks.get(ti.task_id, ti.task)
    level = sorted(here.upstream_task_ids)
    seen = set(level)
    lookups, until = 0, time.monotonic() + LONGEST
    while level:
        bare = []
        for task_id in level:
            lookups += 1
            if lookups > LOOKUPS:
                log.warning("tracking: %s has too many untracked tasks upstream; not all were asked", ti.task_id)
                return
            if time.monotonic() > until:
                log.warning("tracking: Airflow answers slowly; not all tasks upstream of %s were asked", ti.task_id)
                return
            found = parsed(_pull(ti, task_id, _relevant_index(ti, here, tasks[task_id])))
            yield from found
            if not found and tasks[task_id].upstream_task_ids:
                bare.append(task_id)
        further = {
            name for one in _that_ran(ti, [tasks[task_id] for task_id in bare]) for name in one.upstream_task_ids
        }
        level = sorted(further - seen)
        seen |= further


def _pull(ti: Any, task_id: str, index: int | None) -> list[Any]:
    if index is None:
        return list(ask(ti, partial(ti.xcom_pull, task_ids=[task_id], key=TOKEN_XCOM)))
    return [ask(ti, partial(ti.xcom_pull, task_ids=task_id, key=TOKEN_XCOM, map_indexes=index))]


def parsed(texts: Iterable[object]) -> list[Token]:
    """The tokens that can be read; of one that cannot, the log tells."""
    found: list[Token] = []
    for text in texts:
        if not isinstance(text, str) or not text:  # none, or what a task of somebody's has under our name
            continue
        # Not at the top: where nothing is tracked there are none, and macros come here all the same.
        from tracklayer.exceptions import TokenError
        from tracklayer.identity import parse_token

        try:
            found.append(parse_token(text))
        except TokenError as error:
            log.warning("tracking: a token that was handed over is of no use: %s", error)
    return found


def _that_ran(ti: Any, tasks: Collection[Any]) -> Iterable[Any]:
    """Those of the tasks of this DAG run of which at least one instance was run."""
    if not tasks:
        return ()
    names = [one.task_id for one in tasks]
    told = ask(ti, partial(ti.get_task_states, dag_id=ti.dag_id, task_ids=names, run_ids=[ti.run_id]))
    states = told.get(ti.run_id, {})
    ran = {name for name, state in states.items() if str(getattr(state, "value", state)) not in _DID_NOT_RUN}
    # The answer names an instance of a mapped task "<task id>_<map index>", which another task may be called, too.
    of_mapped = {name.rpartition("_")[0] for name in ran if name.rpartition("_")[2].isdecimal()}
    return [one for one in tasks if one.task_id in ran or (_is_mapped(one) and one.task_id in of_mapped)]


def _is_mapped(task: Any) -> bool:
    """Whether a task may have several instances, by itself or by a task group around it."""
    return getattr(task, "is_mapped", False) or any(True for _ in task.iter_mapped_task_groups())


def _relevant_index(ti: Any, here: Any, other: Any) -> int | None:
    """The map index of `other` that feeds this task instance; None where it is not mapped, or all of them do."""
    if ti.map_index is None or ti.map_index < 0:
        return None
    groups = {group.group_id for group in here.iter_mapped_task_groups()}
    if any(group.group_id in groups for group in other.iter_mapped_task_groups()):
        return int(ti.map_index)
    if _expanded_over(here) is other and _instances(ti, here) == _instances(ti, other):
        return int(ti.map_index)
    return None


def _expanded_over(task: Any) -> Any:
    """The mapped task whose results, and nothing else, this task is expanded over, one for one; None if none."""
    # TaskFlow keeps what a function is expanded over apart from what an operator is.
    inputs = (getattr(task, "op_kwargs_expand_input", None), getattr(task, "expand_input", None))
    source = next((given.value for given in inputs if given is not None and given.value), None)
    if isinstance(source, Mapping):
        source = next(iter(source.values())) if len(source) == 1 else None
    operator = getattr(source, "operator", None)
    is_plain = getattr(source, "key", None) == "return_value"
    return operator if is_plain and getattr(operator, "is_mapped", False) else None


def _instances(ti: Any, task: Any) -> int:
    """How many instances of a task there are in this DAG run."""
    return int(ask(ti, partial(ti.get_ti_count, dag_id=ti.dag_id, task_ids=[task.task_id], run_ids=[ti.run_id])))
