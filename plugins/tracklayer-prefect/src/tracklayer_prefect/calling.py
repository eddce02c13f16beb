"""Who called a flow run, and what it was given: the runs to which its own run is linked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracklayer.context import Token
from tracklayer.identity import parse_token
from tracklayer_prefect.carrier import parent_of
from tracklayer_prefect.flow_runs import is_constant, notes_on
from tracklayer_prefect.inputs import ids_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun, TaskRun

    from tracklayer.stage import StageRun


@dataclass(frozen=True, slots=True)
class Called:
    """How a flow run came to be.

    Attributes:
        inputs: runs whose results it was given; its tasks are linked to them as well.
        caller: the run within which it was called, or that triggered its deployment; None if it was started alone.
    """

    inputs: tuple[Token, ...] = ()
    caller: Token | None = None


def called(flow_run: FlowRun, parameters: Mapping[str, Any] | None, current: StageRun | None) -> Called:
    """How a flow run came to be, as this process and the Prefect server know.

    Args:
        flow_run: the flow run that starts.
        parameters: what it was called with.
        current: the run that was current when it was called; None if there was none.

    Raises:
        Exception: whatever Prefect's client raises when its server does not answer.
    """
    text = current.token if current is not None and current.context.workflow_run.run_id != str(flow_run.id) else None
    caller = parse_token(text) if text else None
    if flow_run.parent_task_run_id is None:
        return Called(caller=caller)
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        stand_in = client.read_task_run(flow_run.parent_task_run_id)
        if caller is None and stand_in.flow_run_id is not None:  # another process: a deployment that was triggered
            found = parent_of(client.read_flow_run(stand_in.flow_run_id))
            return Called(inputs=(found,) if found else (), caller=found)
    return Called(inputs=_inputs(stand_in, parameters or {}), caller=caller)


def _inputs(stand_in: TaskRun, parameters: Mapping[str, Any]) -> tuple[Token, ...]:
    """The runs that stand for the inputs of the task run that stands for a subflow in the flow that calls it."""
    if stand_in.flow_run_id is None:
        return ()
    notes = notes_on(stand_in.flow_run_id)
    ids: dict[UUID, None] = {}
    for name, inputs in sorted(stand_in.task_inputs.items()):
        if name != "__parents__" and not is_constant(parameters.get(name)):
            ids.update(dict.fromkeys(sorted(ids_of(inputs))))
    refs = [notes.run(run_id) for run_id in ids]
    return tuple(Token(run=ref) for ref in refs if ref is not None)
