"""Delivering what was logged: in as few batches as MLflow's limits allow, and so that one bad value stops no other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from tracklayer.exceptions import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tracklayer.store import Metric, Run, Store

ITEMS: Final = 1000
"""Most items of one batch, and most metrics."""
PAIRS: Final = 100
"""Most params of one batch, and most tags."""
BYTES: Final = 900_000
"""Most bytes of one batch: servers and the proxies before them take a megabyte."""

_POINT: Final = 100
"""About so many bytes a metric point takes, beside its key."""

Kind = Literal["metric", "param", "tag"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One item that the back end refused for good.

    Attributes:
        kind: what it is: ``metric``, ``param``, ``tag``, or what else was to be logged.
        key: its key.
        value: its value as text.
        reason: what the back end said.
        timestamp: of a metric point, in milliseconds since the epoch; None for everything else.
        step: of a metric point; None for everything else.
    """

    kind: str
    key: str
    value: str
    reason: str
    timestamp: int | None = None
    step: int | None = None

    @classmethod
    def of_point(cls, point: Metric, reason: str) -> Refusal:
        """That of a metric point."""
        value = str(point.value)
        return cls(kind="metric", key=point.key, value=value, reason=reason, timestamp=point.timestamp, step=point.step)


@dataclass(frozen=True, slots=True)
class _Item:
    kind: Kind
    content: Metric | tuple[str, str]

    def refused(self, reason: str) -> Refusal:
        if not isinstance(self.content, tuple):
            return Refusal.of_point(self.content, reason)
        key, value = self.content
        return Refusal(kind=self.kind, key=key, value=value, reason=reason)


@dataclass(slots=True)
class _Batch:
    """What goes into one request. The items have no object each: there may be a million of them."""

    metrics: Sequence[Metric] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def items(self) -> list[_Item]:
        """All of it, one by one."""
        told = [_Item("tag", pair) for pair in self.tags.items()]
        told += [_Item("param", pair) for pair in self.params.items()]
        return told + [_Item("metric", metric) for metric in self.metrics]


def deliver(
    store: Store,
    run_id: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[Refusal]:
    """Log everything to a run; what is refused is left out and returned.

    Safe to repeat as a whole, for example after `StoreUnavailable`: params and tags are then set to what they are,
    and MLflow tells metrics apart by key, timestamp, step and value.

    Args:
        store: the back end.
        run_id: the run.
        metrics: any number of points.
        params: any number of params. One that the run already has with another value is refused: MLflow never
            changes a param.
        tags: any number of tags; a tag that the run has is overwritten.

    Returns:
        What was refused, in no particular order; empty if everything was stored.

    Raises:
        StoreError: the back end cannot be reached, does not know the run, or takes nothing from this user
            (any error but `Refused`). Some of the items may have been stored.
    """
    refusals: list[Refusal] = []
    run: Run | None = None
    for number, batch in enumerate(batches := list(_batches(metrics, params or {}, tags or {}))):
        try:
            store.log_batch(run_id, metrics=batch.metrics, params=batch.params, tags=batch.tags)
        except Refused as error:
            if run is None:
                run = store.get_run(run_id)
            if run.deleted:  # nothing will be taken, so nothing more is asked
                return refusals + [item.refused(str(error)) for rest in batches[number:] for item in rest.items()]
            conflicts, others = _compared(batch.items(), run.params)
            refusals += [item.refused(f"the run has it as {run.params[key]!r}") for key, item in conflicts]
            refusals += _halved(store, run_id, others) if not conflicts else _retried(store, run_id, others)
    return refusals


def prepared(store: Store, run_id: str, metrics: Sequence[Metric]) -> Callable[[], list[Refusal]]:
    """Do all of `deliver` that needs no server, as far as the back end can: it has a method `prepared_batch` then.

    Args:
        store: the back end.
        run_id: the run.
        metrics: any number of points.

    Returns:
        What does the rest, and returns and raises what `deliver` does.
    """
    prepare = getattr(store, "prepared_batch", None)
    batches = list(_batches(metrics, {}, {}))
    if prepare is None or len(batches) != 1:
        return partial(deliver, store, run_id, metrics=metrics)
    try:
        send = prepare(run_id, metrics=metrics)
    except Exception:  # one of them is no number, perhaps: `deliver` finds out which, or fails where that is judged
        return partial(deliver, store, run_id, metrics=metrics)

    def deliver_prepared() -> list[Refusal]:
        try:
            send()
        except Refused:
            return deliver(store, run_id, metrics=metrics)
        return []

    return deliver_prepared


def _batches(metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> Iterator[_Batch]:
    left_tags, left_params, begin = list(tags.items()), list(params.items()), 0
    while left_tags or left_params or begin < len(metrics):
        batch, room = _Batch(), BYTES
        batch.tags, room = _filled(left_tags, room)
        batch.params, room = _filled(left_params, room)
        end = min(begin + ITEMS - len(batch.tags) - len(batch.params), len(metrics))
        if sum(len(metric.key) for metric in metrics[begin:end]) * 2 + (end - begin) * _POINT > room:
            end = begin + _fitting(metrics[begin:end], room)
            if end == begin and not (batch.tags or batch.params):
                end += 1
        batch.metrics = metrics[begin:end]
        begin = end
        yield batch


def _filled(pairs: list[tuple[str, str]], room: int) -> tuple[dict[str, str], int]:
    """As many pairs as a batch takes, which are taken away, and the bytes that are left then."""
    taken: dict[str, str] = {}
    for key, value in pairs[:PAIRS]:
        size = 30 + len(key.encode("utf-8", "replace")) + len(value.encode("utf-8", "replace"))
        if size > room and (taken or room < BYTES):
            break
        taken[key] = value
        room -= size
    del pairs[: len(taken)]
    return taken, room


def _fitting(metrics: Sequence[Metric], room: int) -> int:
    """How many of the metrics fit into so many bytes."""
    for count, metric in enumerate(metrics):
        room -= _POINT + 2 * len(metric.key)
        if room < 0:
            return count
    return len(metrics)


def _send(store: Store, run_id: str, batch: Sequence[_Item]) -> None:
    contents: dict[Kind, list[Any]] = {"metric": [], "param": [], "tag": []}
    for item in batch:
        contents[item.kind].append(item.content)
    store.log_batch(run_id, metrics=contents["metric"], params=dict(contents["param"]), tags=dict(contents["tag"]))


def _compared(batch: Sequence[_Item], params: Mapping[str, str]) -> tuple[list[tuple[str, _Item]], list[_Item]]:
    """Split off the params that the run has with another value: the usual reason, known without trying each."""
    conflicts: list[tuple[str, _Item]] = []
    others: list[_Item] = []
    for item in batch:
        if item.kind == "param" and isinstance(item.content, tuple):
            key, value = item.content
            if params.get(key, value) != value:
                conflicts.append((key, item))
                continue
        others.append(item)
    return conflicts, others


def _retried(store: Store, run_id: str, batch: Sequence[_Item]) -> list[Refusal]:
    if not batch:
        return []
    try:
        _send(store, run_id, batch)
    except Refused as error:
        if len(batch) == 1:
            return [batch[0].refused(str(error))]
        return _halved(store, run_id, batch)
    return []


def _halved(store: Store, run_id: str, batch: Sequence[_Item]) -> list[Refusal]:
    if len(batch) <= 1:
        return _retried(store, run_id, batch)
    middle = len(batch) // 2
    return _retried(store, run_id, batch[:middle]) + _retried(store, run_id, batch[middle:])
