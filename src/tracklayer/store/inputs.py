"""Delivering the datasets and models of a run: in requests of a bounded size, and so that one bad one stops no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tracklayer.exceptions import NotFound, Refused
from tracklayer.store.delivery import BYTES, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tracklayer.store import Dataset, Store

_AROUND: Final = 200
"""About so many bytes a dataset or a model takes beside what is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    kind: str
    key: str
    value: str
    content: Any
    size: int = _AROUND

    def refused(self, reason: str) -> Refusal:
        return Refusal(kind=self.kind, key=self.key, value=self.value, reason=reason)


def deliver_inputs(store: Store, run_id: str, datasets: Sequence[Dataset], models: Sequence[str]) -> list[Refusal]:
    """Log what a run read (or, by its context, made); what is refused is left out and returned.

    Args:
        store: the back end.
        run_id: the run.
        datasets: any number of them; schemas and profiles may be large.
        models: ids of logged models.

    Returns:
        What was refused; empty if everything was stored.

    Raises:
        StoreError: as `tracklayer.store.delivery.deliver`. Safe to repeat as a whole.
    """

    def send(parts: Sequence[_Part]) -> None:
        inputs = [part.content for part in parts if part.kind == "input"]
        store.log_inputs(run_id, inputs, [part.content for part in parts if part.kind != "input"])

    return _delivered(store, run_id, _inputs(datasets, models), send)


def deliver_outputs(store: Store, run_id: str, models: Sequence[tuple[str, int]]) -> list[Refusal]:
    """Log models that a run made, as pairs of model id and step; as `deliver_inputs`."""
    return _delivered(
        store, run_id, _outputs(models), lambda parts: store.log_outputs(run_id, [part.content for part in parts])
    )


def all_refused(
    datasets: Sequence[Dataset], models: Sequence[str], outputs: Sequence[tuple[str, int]], reason: str
) -> list[Refusal]:
    """All of it, as refused."""
    return [part.refused(reason) for part in [*_inputs(datasets, models), *_outputs(outputs)]]


def _inputs(datasets: Sequence[Dataset], models: Sequence[str]) -> list[_Part]:
    # As JSON text, because a schema is JSON itself: each of its quotes takes two bytes on the way.
    parts = [
        _Part(
            kind="input",
            key=item.name,
            value=item.source,
            content=item,
            size=_AROUND + len(msgspec.json.encode(item)),
        )
        for item in datasets
    ]
    return parts + [_Part(kind="input model", key=model, value="", content=model) for model in models]


def _outputs(models: Sequence[tuple[str, int]]) -> list[_Part]:
    return [_Part(kind="output model", key=pair[0], value=str(pair[1]), content=pair) for pair in models]


def _delivered(
    store: Store, run_id: str, parts: Sequence[_Part], send: Callable[[Sequence[_Part]], None]
) -> list[Refusal]:
    refusals: list[Refusal] = []
    looked = False
    for number, batch in enumerate(batches := list(_batches(parts))):
        try:
            send(batch)
        except (Refused, NotFound) as error:  # the latter: a model that there is not, or the run
            if not looked and store.get_run(run_id).deleted:  # nothing will be taken, so nothing more is asked
                return refusals + [part.refused(str(error)) for rest in batches[number:] for part in rest]
            looked = True
            refusals += _halved(batch, send, error)
    return refusals


def _halved(
    batch: Sequence[_Part], send: Callable[[Sequence[_Part]], None], error: Refused | NotFound
) -> list[Refusal]:
    """What is refused of a batch that was refused as a whole."""
    if len(batch) == 1:
        return [batch[0].refused(str(error))]
    middle = len(batch) // 2
    refusals: list[Refusal] = []
    for half in (batch[:middle], batch[middle:]):
        try:
            send(half)
        except (Refused, NotFound) as again:
            refusals += _halved(half, send, again)
    return refusals


def _batches(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    batch: list[_Part] = []
    room = BYTES
    for part in parts:
        if batch and part.size > room:
            yield batch
            batch, room = [], BYTES
        batch.append(part)
        room -= part.size
    if batch:
        yield batch
