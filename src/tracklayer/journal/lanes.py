"""What an operation is about: the run or model whose order it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracklayer.identity import run_key, workflow_run_key
from tracklayer.journal.operations import (
    Artifact,
    Begin,
    ChangeModel,
    Close,
    Consumed,
    Create,
    CreateModel,
    DeleteTag,
    End,
    GivenOut,
    Inputs,
    LeftOpen,
    Linked,
    Log,
    Lost,
    Named,
    NamedModel,
    NewExperiment,
    Outputs,
    Register,
    Rename,
)

if TYPE_CHECKING:
    from tracklayer.journal.operations import Operation

FILES: Final = "files:"
"""How a run's artifacts are told from the rest of it: what stores them may be away when the server is not."""

MODEL: Final = "m-"


def lane_of(operation: Operation) -> str:
    """What operations have in common that are delivered one after the other: their run, mostly."""
    match operation:
        case Log() | DeleteTag() | Inputs() | Outputs() | Consumed() | Linked() | Rename() | End() | LeftOpen():
            return operation.run
        case Begin() | Create() | GivenOut() | CreateModel() | Named() | NamedModel():
            return operation.id
        case Artifact():
            return operation.owner if operation.owner.startswith(MODEL) else FILES + operation.owner
        case ChangeModel() | Register():
            return operation.model
        case Close():
            return f"close:{workflow_run_key(operation.context.workflow_run)}"
        case Lost():
            return f"lost:{run_key(operation.context)}"
        case NewExperiment():
            return f"experiment:{operation.name}"
        case _:
            return "header"


def owner_of(operation: Operation) -> str:
    """Local id of the run or model that an operation is for."""
    return lane_of(operation).removeprefix(FILES)
