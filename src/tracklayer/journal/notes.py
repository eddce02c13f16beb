"""What is written down about the delivery of a journal, so that it is known when the records themselves are gone."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from tracklayer.context import SCRIPT, RunContext
from tracklayer.journal.operations import Begin, Named, NamedModel


class Delivered(msgspec.Struct, frozen=True, array_like=True, tag="delivered"):
    """Everything before this position is delivered."""

    position: int


class Settled(msgspec.Struct, frozen=True, array_like=True, tag="settled"):
    """Everything before a position is delivered, but for some runs.

    Attributes:
        position: the position.
        held: these runs, by their lanes (see `tracklayer.journal.lanes`): from where on nothing of them is delivered.
    """

    position: int = 0
    held: dict[str, int] = {}


class Trying(msgspec.Struct, frozen=True, array_like=True, tag="trying"):
    """The run or model with this local id is about to be asked for: whoever comes later looks for it first."""

    id: str


class Begun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    """The run with this local id says more about its workflow run than that it belongs to it.

    Attributes:
        id: local id of the run.
        parent: True for the parent of a workflow run, which its process must not be taken to end with itself.
        script: the context of the workflow run where that is the process's own, a script's; None for an orchestrator's.
    """

    id: str
    parent: bool
    script: RunContext | None = None

    @classmethod
    def of(cls, operation: Begin) -> Begun | None:
        """What is to be remembered of a run that was begun; None for the run of an orchestrator's task."""
        context = operation.opening.context
        own = context.owns_workflow_run and context.workflow_run.orchestrator == SCRIPT
        if context.task_run is not None and not own:
            return None
        return cls(operation.id, context.task_run is None, context.of_workflow_run().bare() if own else None)


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """The run with this local id has the end that its process gave it, or was left open on purpose.

    `again`: that process has begun it, or opened it, again.
    """

    id: str
    again: bool = False


class Reopened(msgspec.Struct, frozen=True, array_like=True, tag="reopened"):
    """The run with this id was over, and this process has opened it again: it is to end it, whoever began it."""

    id: str


class Closed(msgspec.Struct, frozen=True, array_like=True, tag="closed"):
    """The workflow run of this key has the end that this process gave it."""

    key: str


class Told(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    """The run or model of this id knows that so many of its values were refused, or cannot be told any more."""

    id: str
    count: int


Note: TypeAlias = Delivered | Settled | Trying | Named | NamedModel | Begun | Ended | Reopened | Closed | Told


class Remembered:
    """What of the notes is asked for only when a journal is taken over.

    Attributes:
        begun: by local ids, what is to be remembered of runs.
        ended: local ids of runs that were ended, or left open on purpose, and not opened again.
        reopened: ids of runs that were over, were opened again and not ended since.
        closed: keys of workflow runs that were ended.
        told: by the server's ids, of how many refused values runs and models know.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.begun: dict[str, Begun] = {}
        self.ended: set[str] = set()
        self.reopened: set[str] = set()
        self.closed: set[str] = set()
        self.told: dict[str, int] = {}

    def take(self, note: Begun | Ended | Reopened | Closed | Told) -> bool:
        """Remember it; False if it says nothing new."""
        if isinstance(note, Begun):
            fresh = self.begun.get(note.id) != note
            self.begun[note.id] = note
        elif isinstance(note, Closed):
            fresh = note.key not in self.closed
            self.closed.add(note.key)
        elif isinstance(note, Told):
            fresh = self.told.get(note.id) != note.count
            self.told[note.id] = note.count
        elif isinstance(note, Reopened):
            fresh = note.id not in self.reopened
            self.reopened.add(note.id)
        elif note.again:
            fresh = note.id in self.ended
            self.ended.discard(note.id)
        else:
            fresh = note.id not in self.ended or note.id in self.reopened
            self.ended.add(note.id)
            self.reopened.discard(note.id)
        return fresh

    def notes(self) -> list[Note]:
        """All of it, in as few notes as it takes."""
        notes: list[Note] = [*self.begun.values(), *map(Closed, sorted(self.closed))]
        notes += map(Ended, sorted(self.ended))
        notes += map(Reopened, sorted(self.reopened))
        notes += (Told(run, count) for run, count in self.told.items())
        return notes
