"""What the server refused for good: written down, told on the run, and never tried again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tracklayer.ending import REAL_END_TAG
from tracklayer.exceptions import StoreError
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
    Inputs,
    Log,
    Lost,
    Outputs,
    Register,
    Rename,
)
from tracklayer.store.delivery import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracklayer.journal.operations import Operation
    from tracklayer.journal.progress import Progress
    from tracklayer.store import Store

log = logging.getLogger("tracklayer")

REFUSED_TAG: Final = "tracklayer.refused"
"""Tag that says how many values the server refused, and why."""

TOLD: Final = 10
"""So many of them are told on the run; the file has them all."""


class DeadLetters:
    """Keeps what was refused in the journal's file of refused values, and tells each run how many and why."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._counts: dict[str, int] = {}
        self._told: dict[str, list[str]] = {}

    def keep(self, run: str, refusals: Sequence[Refusal], *, tell: bool = True) -> None:
        """Keep what was refused of a run.

        Args:
            run: the server's id of the run or model, or the local one where there is no other.
            refusals: what was refused.
            tell: whether the run can be told, with a tag.
        """
        refusals = [item for item in refusals if item.key != REAL_END_TAG]  # nobody logged that: the end itself follows
        if not refusals:
            return
        for refusal in refusals:
            self._progress.refuse(refusal.kind, run, refusal.key, refusal.value, refusal.reason)
        count = self._counts[run] = self._counts.get(run, 0) + len(refusals)
        told = self._told.setdefault(run, [])
        told += [f"{item.kind} {item.key}: {item.reason}" for item in refusals[: TOLD - len(told)]]
        log.warning(
            "the tracking server refused %d of the values of run %s, they are kept in the journal: %s",
            len(refusals),
            run,
            f"{refusals[0].kind} {refusals[0].key}: {refusals[0].reason}",
        )
        if tell:
            try:
                self._store.log_batch(run, tags={REFUSED_TAG: f"{count}: {'; '.join(told)}"[:1_000]})
            except StoreError as error:
                log.info("run %s was not told what was refused: %s", run, error)


def letters(operation: Operation, reason: str) -> list[Refusal]:
    """What an operation holds, as values that were refused."""
    told = _HOLDS.get(type(operation), lambda _: [])(operation)
    return [Refusal(kind=kind, key=key, value=value, reason=reason) for kind, key, value in told]


_Letters: TypeAlias = "list[tuple[str, str, str]]"


def _of_log(log: Log) -> _Letters:
    told = [("metric", point.key, str(point.value)) for point in log.points]
    told += [("param", key, value) for key, value in log.params.items()]
    return told + [("tag", key, value) for key, value in log.tags.items()]


def _of_model(change: ChangeModel) -> _Letters:
    told = [("model param", key, value) for key, value in change.params.items()]
    told += [("model tag", key, value) for key, value in change.tags.items()]
    return told + ([("model status", change.model, change.status)] if change.status else [])


def _of_inputs(inputs: Inputs) -> _Letters:
    told = [("input", dataset.name, dataset.source) for dataset in inputs.datasets]
    return told + [("input model", model, "") for model in inputs.models]


_HOLDS: Final[Mapping[type, Callable[[Any], _Letters]]] = {
    Log: _of_log,
    ChangeModel: _of_model,
    Inputs: _of_inputs,
    Outputs: lambda made: [("output model", model, str(step)) for model, step in made.models],
    Artifact: lambda artifact: [("artifact", artifact.path, artifact.file)],
    Begin: lambda begin: [("run", begin.opening.name, begin.opening.key)],
    Create: lambda create: [("run", create.name or "", create.id)],
    CreateModel: lambda create: [("model", create.name or "", create.id)],
    End: lambda end: [("end", end.status, str(end.end_time))],
    Rename: lambda rename: [("name", rename.name, "")],
    DeleteTag: lambda deleted: [("deleted tag", deleted.key, "")],
    Consumed: lambda consumed: [("input", consumed.uri, consumed.digest or "")],
    Lost: lambda lost: [("end of the try", "KILLED", str(lost.ended_at))],
    Close: lambda close: [("end of the workflow run", close.status, "")],
    Register: lambda register: [("registration", register.name, register.model)],
}
