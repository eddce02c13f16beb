"""What the server refused for good: written down, told on the run, and never tried again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from tracklayer.ending import REAL_END_TAG
from tracklayer.exceptions import AccessDenied, Refused, StoreError, StoreUnavailable
from tracklayer.journal.isolation import WITNESS_TAG
from tracklayer.journal.lanes import MODEL
from tracklayer.journal.notes import Told
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
    NewExperiment,
    Outputs,
    Register,
    Rename,
)
from tracklayer.journal.refusals import ARTIFACT
from tracklayer.provisional import is_provisional
from tracklayer.store.delivery import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracklayer.journal.operations import Operation
    from tracklayer.journal.progress import Progress
    from tracklayer.store import Metric, Store

log = logging.getLogger("tracklayer")

REFUSED_TAG: Final = "tracklayer.refused"
"""Tag that says how many values the server refused, and why."""

_OWN: Final = (REAL_END_TAG, REFUSED_TAG, WITNESS_TAG)

TOLD: Final = 10
"""So many of them are told on the run; the file has them all."""


class DeadLetters:
    """Keeps what was refused in the journal's file of refused values, and tells each run how many and why.

    A run that could not be told is told later: see `tell`. So is one of which an earlier delivery has kept something
    and did not note that it had told it. Once is enough: a journal in which something waits is tried again and again.
    """

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._told: dict[str, list[str]] = {}
        told = progress.remembered.told
        self._untold = {
            run for run in progress.refused_runs if _can_be_told(run) and told.get(run, 0) < progress.refused_of(run)
        }

    def keep(self, run: str, refusals: Sequence[Refusal], *, tell: bool = True) -> None:
        """Keep what was refused of a run.

        Args:
            run: the server's id of the run or model, or the local one where there is no other.
            refusals: what was refused.
            tell: whether the run can be told, with a tag.
        """
        refusals = [item for item in refusals if item.key not in _OWN]  # nobody logged that
        if not refusals:
            return
        told = self._reasons(run)
        before = self._progress.refused_of(run)
        for refusal in refusals:
            self._progress.refuse(
                refusal.kind, run, refusal.key, refusal.value, refusal.reason, at=refusal.timestamp, step=refusal.step
            )
        if self._progress.refused_of(run) == before:  # all of it was told before
            return
        texts = (f"{item.kind} {item.key}: {item.reason}" for item in refusals)
        told += [text for text in texts if text not in told][: max(TOLD - len(told), 0)]
        log.warning(
            "the tracking server refused %d of the values of run %s, they are kept in the journal: %s",
            len(refusals),
            run,
            f"{refusals[0].kind} {refusals[0].key}: {refusals[0].reason}",
        )
        if tell and _can_be_told(run):
            self._untold.add(run)
            self.tell(run)

    def tell(self, run: str) -> None:
        """Tell a run or model what was refused of it, if it has yet to be told. A failure is left for the next time."""
        if run not in self._untold:
            return
        count = self._progress.refused_of(run)
        try:
            try:
                self._tag(run, f"{count}: {'; '.join(self._reasons(run))}"[:1_000])
            except (Refused, StoreUnavailable) as error:
                if isinstance(error, StoreUnavailable) and not error.internal:
                    raise
                self._tag(run, f"{count}: what and why is in the journal")  # it may be what is quoted that is not taken
        except (AccessDenied, StoreUnavailable) as error:  # credentials may be restored, as everywhere in delivery
            log.info("run %s is told later what was refused: %s", run, error)
            return
        except StoreError as error:
            log.info("run %s was not told what was refused: %s", run, error)
        self._untold.discard(run)
        self._progress.remember(Told(run, count))

    def _reasons(self, run: str) -> list[str]:
        """What is told of a run; another process may have kept some of it."""
        told = self._told.get(run)
        if told is None:
            told = self._told[run] = self._progress.reasons(run, TOLD)
        return told

    def _tag(self, run: str, text: str) -> None:
        if run.startswith(MODEL):
            self._store.change_logged_model(run, tags={REFUSED_TAG: text})
        else:
            self._store.log_batch(run, tags={REFUSED_TAG: text})

    def tell_all(self) -> None:
        """Tell whoever has yet to be told."""
        for run in list(self._untold):
            self.tell(run)


def _can_be_told(run: str) -> bool:
    """Whether it is the server's id of a run or model: not a local one, and not the name of anything else."""
    return ":" not in run and not is_provisional(run)


def living(operation: Inputs | Outputs, dead: Mapping[str, str | None]) -> tuple[Inputs | Outputs, list[Refusal]]:
    """An operation without the models that are not to be, and those, as refused; `dead` says why each is not."""
    if isinstance(operation, Inputs):
        gone = [model for model in operation.models if model in dead]
        left: Inputs | Outputs = Inputs(
            operation.run, operation.datasets, tuple(model for model in operation.models if model not in dead)
        )
        kind = "input model"
    else:
        gone = [model for model, _ in operation.models if model in dead]
        left = Outputs(operation.run, tuple(pair for pair in operation.models if pair[0] not in dead))
        kind = "output model"
    told = [(model, reason) for model in gone if (reason := dead[model]) is not None]
    return left, [Refusal(kind=kind, key=model, value="", reason=reason) for model, reason in told]


def told_of(operation: Operation) -> str | None:
    """Local id of the run that is told of it if this cannot be had; None if that is the operation's own."""
    if isinstance(operation, Create):
        return operation.stage
    return operation.run if isinstance(operation, CreateModel) else None


def letters(operation: Operation, reason: str) -> list[Refusal]:
    """What an operation holds, as values that were refused."""
    told = _HOLDS.get(type(operation), lambda _: [])(operation)
    points = operation.points if isinstance(operation, Log) else ()
    found = [Refusal.of_point(cast("Metric", point), reason) for point in points]  # it has all that a metric has
    return found + [Refusal(kind=kind, key=key, value=value, reason=reason) for kind, key, value in told]


_Letters: TypeAlias = "list[tuple[str, str, str]]"


def _of_log(log: Log) -> _Letters:
    told = [("param", key, value) for key, value in log.params.items()]
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
    Artifact: lambda artifact: [(ARTIFACT, artifact.path, artifact.file)],
    Begin: lambda begin: [("run", begin.opening.name, begin.opening.key)],
    Create: lambda create: [("run", create.name or "", create.id)],
    CreateModel: lambda create: [("model", create.name or "", create.id)],
    End: lambda end: [("end", end.status, str(end.end_time))],
    Rename: lambda rename: [("name", rename.name, "")],
    DeleteTag: lambda deleted: [("deleted tag", deleted.key, "")],
    Consumed: lambda consumed: [("input", consumed.uri, consumed.digest or "")],
    Lost: lambda lost: [("end of the try", "KILLED", str(lost.ended_at))],
    NewExperiment: lambda new: [("experiment", new.name, "")],
    Close: lambda close: [("end of the workflow run", close.status, "")],
    Register: lambda register: [("registration", register.name, register.model)],
}
