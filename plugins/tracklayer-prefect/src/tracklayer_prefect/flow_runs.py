"""What this process knows of the flow runs that it takes part in: which runs stand for their task runs and subflows.

Nothing here is needed for a run to be right; it spares look-ups, and tells which of Prefect's inputs are certain.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tracklayer.forking import ProcessLock
from tracklayer.singleton import singleton

if TYPE_CHECKING:
    from tracklayer.context import RunRef

REMEMBERED: Final = 1_000
"""So many flow runs are remembered; a worker process serves many and is not told when they end."""

SMALL: Final = 16_384
"""Values of at most so many bytes are kept to tell task runs that returned the very same one apart."""

MANY: Final = 10_000
"""So many values are kept for one flow run."""

DEEPEST: Final = 4
"""Collections that are nested deeper are not kept."""


class FlowRunNotes:
    """Notes on one flow run. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._runs: dict[UUID, RunRef] = {}
        self._returned: dict[int, tuple[Any, set[UUID]]] = {}
        self._stages = 0

    def note_run(self, run_id: UUID, ref: RunRef) -> None:
        """The task run or subflow run `run_id` is `ref` in MLflow; of several tries the last one counts."""
        with self._lock:
            self._runs[run_id] = ref

    def run(self, run_id: UUID) -> RunRef | None:
        """What stands for a task run or subflow run in MLflow; None if this process does not know."""
        with self._lock:
            return self._runs.get(run_id)

    def count_stages(self) -> int:
        """How many stages have been opened in the flow's body by user code, the next one included."""
        with self._lock:
            self._stages += 1
            return self._stages

    def note_returned(self, run_id: UUID, value: Any) -> None:
        """The task run `run_id` returned `value`.

        Only small values are kept, with a reference, so that their identity stays theirs: texts, numbers, and
        collections and records of such. For most others Prefect itself checks the identity.
        """
        if not _is_small(value):
            return
        with self._lock:
            for part in (value, *_parts(value)):
                if len(self._returned) < MANY:
                    self._returned.setdefault(id(part), (part, set()))[1].add(run_id)

    def returned_by(self, value: Any) -> set[UUID]:
        """The task runs that returned this very object; empty if it was not kept."""
        with self._lock:
            kept, runs = self._returned.get(id(value), (None, set()))
            return set(runs) if kept is value else set()


@singleton
def _known() -> OrderedDict[UUID, FlowRunNotes]:
    return OrderedDict()


@singleton
def _lock() -> ProcessLock:
    return ProcessLock()


def notes_on(flow_run_id: UUID) -> FlowRunNotes:
    """The notes on a flow run (for a task outside of any flow: on its own task run)."""
    with _lock():
        known = _known()
        notes = known.setdefault(flow_run_id, FlowRunNotes())
        known.move_to_end(flow_run_id)
        while len(known) > REMEMBERED:
            known.popitem(last=False)
        return notes


def forget(flow_run_id: UUID) -> None:
    """The flow run has ended: its notes are not needed any more."""
    with _lock():
        _known().pop(flow_run_id, None)


def is_constant(value: Any) -> bool:
    """True for what may be one and the same object in several places of a program, and of what is made of such.

    Prefect cannot tell where such a value came from: a text, a number, a path, a member of an enumeration.
    """
    return isinstance(value, _ATOMS) or (
        isinstance(value, (tuple, frozenset)) and len(value) <= MANY and all(is_constant(part) for part in value)
    )


_ATOMS = (str, bytes, int, float, complex, bool, type(None), date, time, timedelta, Decimal, UUID, PurePath, Enum)


def _is_small(value: Any, depth: int = 0) -> bool:
    """True for atoms of few bytes, and for small collections and records of such: nothing large hangs on them.

    What can be referenced weakly is not among them: of that Prefect itself checks the identity.
    """
    if isinstance(value, _ATOMS):
        return getsizeof(value) <= SMALL
    if depth > DEEPEST or getsizeof(value) > SMALL:
        return False
    return all(_is_small(part, depth + 1) for part in _parts(value)) if _has_parts(value) else False


def _has_parts(value: Any) -> bool:
    collection = isinstance(value, (list, tuple, dict, set, frozenset))
    return collection or (is_dataclass(value) and not isinstance(value, type))


def _parts(value: Any) -> list[Any]:
    """What a collection or record consists of, one level deep, as Prefect visits it; empty for anything else."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in fields(value)]
    return []
