"""Delivery against a store that counts and that refuses what a test names; the real ones are in integration."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from tracklayer.exceptions import Refused, StoreUnavailable
from tracklayer.store import Metric, Run, Store
from tracklayer.store.delivery import deliver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Ledger:
    """As much of a store as delivery uses; keeps MLflow's limits."""

    def __init__(self, *, bad: frozenset[str] = frozenset(), params: Mapping[str, str] | None = None) -> None:
        self.bad = bad
        self.params = dict(params or {})
        self.stored: set[str] = set()
        self.batches: list[tuple[int, int, int]] = []
        self.looks = 0
        self.left: int | None = None

    def log_batch(
        self, run_id: str, *, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("down")
        self.batches.append((len(metrics), len(params), len(tags)))
        assert len(params) <= 100
        assert len(tags) <= 100
        assert len(metrics) + len(params) + len(tags) <= 1000
        keys = {f"{metric.key}@{metric.step}" for metric in metrics} | set(params) | set(tags)
        if keys & self.bad or any(self.params.get(key, value) != value for key, value in params.items()):
            raise Refused("no")
        self.params.update(params)
        self.stored |= keys

    def get_run(self, run_id: str) -> Run:
        self.looks += 1
        return Run(
            run_id=run_id,
            experiment_id="0",
            name="",
            status="RUNNING",
            start_time=1,
            end_time=None,
            artifact_uri="",
            params=dict(self.params),
        )

    @property
    def store(self) -> Store:
        return cast("Store", self)


def points(number: int) -> list[Metric]:
    return [Metric(key="m", value=step, timestamp=1, step=step) for step in range(number)]


def numbered(letter: str, number: int) -> dict[str, str]:
    return {f"{letter}{index}": "1" for index in range(number)}


def test_a_usual_stage_is_one_batch() -> None:
    ledger = Ledger()
    assert deliver(ledger.store, "r", metrics=points(10), params=numbered("p", 20), tags=numbered("t", 5)) == []
    assert ledger.batches == [(10, 20, 5)]
    assert ledger.looks == 0


def test_nothing_is_no_batch() -> None:
    ledger = Ledger()
    assert deliver(ledger.store, "r") == []
    assert ledger.batches == []


@pytest.mark.parametrize(
    ("metrics", "params", "tags", "batches"),
    [
        (1000, 0, 0, 1),
        (1001, 0, 0, 2),
        (900, 100, 0, 1),
        (901, 100, 0, 2),
        (0, 101, 0, 2),
        (0, 0, 101, 2),
        (0, 100, 100, 1),
    ],
)
def test_the_limits(metrics: int, params: int, tags: int, batches: int) -> None:
    ledger = Ledger()
    deliver(ledger.store, "r", metrics=points(metrics), params=numbered("p", params), tags=numbered("t", tags))
    assert len(ledger.batches) == batches
    assert len(ledger.stored) == metrics + params + tags


def test_a_batch_stays_below_a_megabyte() -> None:
    ledger = Ledger()
    deliver(ledger.store, "r", tags={f"t{number}": "ü" * 8000 for number in range(100)})
    assert [batch[2] for batch in ledger.batches] == [56, 44]


def test_bad_ones_are_found_among_many() -> None:
    ledger = Ledger(bad=frozenset({"m@17", "p3", "t99"}))
    refusals = deliver(ledger.store, "r", metrics=points(800), params=numbered("p", 90), tags=numbered("t", 100))
    assert {(refusal.kind, refusal.key) for refusal in refusals} == {("metric", "m"), ("param", "p3"), ("tag", "t99")}
    assert len(ledger.stored) == 800 + 90 + 100 - 3
    assert len(ledger.batches) < 60


def test_changed_params_cost_one_look_and_no_search() -> None:
    ledger = Ledger(params={"p1": "before", "p2": "1", "p3": "before"})
    refusals = deliver(ledger.store, "r", params=numbered("p", 100), metrics=points(5))
    assert [(refusal.key, refusal.value, refusal.reason) for refusal in refusals] == [
        ("p1", "1", "the run has it as 'before'"),
        ("p3", "1", "the run has it as 'before'"),
    ]
    assert ledger.batches == [(5, 100, 0), (5, 98, 0)]
    assert ledger.looks == 1


def test_a_server_that_goes_away_stops_delivery_and_a_repeat_completes_it() -> None:
    ledger = Ledger()
    ledger.left = 1
    with pytest.raises(StoreUnavailable):
        deliver(ledger.store, "r", metrics=points(2500))
    ledger.left = None
    assert deliver(ledger.store, "r", metrics=points(2500)) == []
    assert len(ledger.stored) == 2500
