"""Upstream, as Prefect sees it: the task runs whose results a task run was given.

Prefect records inputs by futures, which is certain, and by plain values, which it recognizes by the identity of
objects. That is certain too where it could check the identity (tables, models, arrays, instances of classes). It is
not for texts, numbers, paths and collections: equal constants are one object, and the address of an object that is
gone is used again. Such an input counts only if this process saw that no other task run returned the very same object;
a missing link is better than a wrong one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tracklayer_prefect.flow_runs import FlowRunNotes, is_constant, notes_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefect.client.schemas.objects import TaskRun
    from prefect.context import FlowRunContext

    from tracklayer.context import RunRef

TASK_RUN_TAG: Final = "mlflow.tracklayer.prefect."
"""Index tag, ended by the hexadecimal id of a task run or flow run in Prefect, of the run that stands for it."""

LOOKED_AT: Final = 20_000
"""So many parts of one argument are looked at; what is beyond is not linked."""

LOOKED_UP: Final = 50
"""So many inputs from other processes are looked up in MLflow, one request each."""


def upstream_runs(task_run: TaskRun, parameters: Mapping[str, Any], flow_run: FlowRunContext | None) -> list[RunRef]:
    """The runs in MLflow that stand for the inputs of a task run.

    Args:
        task_run: as Prefect made it.
        parameters: its arguments, resolved.
        flow_run: the context of its flow run; None for a task outside of a flow, which has no inputs.
    """
    if flow_run is None or flow_run.flow_run is None:
        return []
    from tracklayer.lookup import find

    notes = notes_on(flow_run.flow_run.id)
    ids = certain_inputs(task_run, parameters, flow_run, notes)
    known = {run_id: notes.run(run_id) for run_id in ids}
    strange = [run_id for run_id, ref in known.items() if ref is None]
    if strange and flow_run.detached:  # they may have run in another process
        known.update({run_id: find(TASK_RUN_TAG + run_id.hex) for run_id in strange[:LOOKED_UP]})
    return [ref for ref in known.values() if ref is not None]


def certain_inputs(
    task_run: TaskRun, parameters: Mapping[str, Any], flow_run: FlowRunContext, notes: FlowRunNotes
) -> list[UUID]:
    """Ids of the task runs and subflow runs that certainly feed this one, each once, in a stable order."""
    certain: dict[UUID, None] = {}
    for name, inputs in sorted(task_run.task_inputs.items()):
        if name == "__parents__":  # the task or flow that called it
            continue
        ids = ids_of(inputs)
        if ids and name in parameters and name != "wait_for":
            ids = _certain(ids, parameters[name], flow_run, notes)
        certain.update(dict.fromkeys(sorted(ids)))
    return list(certain)


def ids_of(inputs: Iterable[object]) -> set[UUID]:
    """Ids of the task runs and flow runs among the inputs that Prefect recorded; it records parameters too."""
    ids = (getattr(found, "id", None) for found in inputs)
    return {run_id for run_id in ids if isinstance(run_id, UUID)}


def _certain(ids: set[UUID], value: Any, flow_run: FlowRunContext, notes: FlowRunNotes) -> set[UUID]:
    """Those of `ids` that are inputs by a future, or by a value whose origin is beyond doubt."""
    if flow_run.detached:
        # The flow's own process saw what was passed; here are copies. Only of a constant could it have been mistaken.
        return set() if is_constant(value) else ids
    matched = _matches(value, flow_run)
    if matched is None:
        return set()
    by_future = ids - matched.keys()
    by_value = {
        run_id
        for run_id in ids & matched.keys()
        if any(
            verified or ((origin := notes.returned_by(part)) and origin <= ids) for part, verified in matched[run_id]
        )
    }
    return by_future | by_value


def _matches(value: Any, flow_run: FlowRunContext) -> dict[UUID, list[tuple[Any, bool]]] | None:
    """The parts of a value that Prefect knows as results: by run id, each with whether it checked the identity.

    None if there are too many parts to look at.
    """
    from prefect.utilities.collections import visit_collection

    found: dict[UUID, list[tuple[Any, bool]]] = {}
    seen = 0

    def look(part: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > LOOKED_AT:
            raise _TooManyError
        entry: tuple[Any, ...] | None = flow_run.run_results.get(id(part))
        if entry is None:
            return
        details, reference = entry[0].state_details, entry[2] if len(entry) > 2 else None
        verified = reference is not None and reference() is part and not is_constant(part)
        for run_id in (details.task_run_id, details.flow_run_id):
            if run_id is not None:
                found.setdefault(run_id, []).append((part, verified))

    try:
        visit_collection(value, visit_fn=look, return_data=False)
    except _TooManyError:
        return None
    return found


class _TooManyError(Exception):
    pass
