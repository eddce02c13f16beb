"""Processes that wait for the same server do not all ask it again at the same moment, whatever it is that they wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from urllib3.exceptions import ProtocolError

from tracklayer.exceptions import StoreUnavailable
from tracklayer.journal import holding
from tracklayer.journal import sender as senders
from tracklayer.store import transport as transports
from tracklayer.store.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESSES = 40


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Waiting(senders.Sender):
    """A sender that waits by this clock."""

    clock: Clock

    def _wait(self, seconds: float | None) -> None:
        assert seconds is not None
        self.clock.sleep(seconds)


class Store:
    """A server that is away."""

    uri = "http://away.example.com"

    def try_again(self) -> None:
        pass


class Broken(transports.Transport):
    """A server that closes each connection."""

    def _exchange(self, *_: Any) -> Any:
        raise ProtocolError("closed")


def attempts_of_a_sender(clock: Clock, count: int) -> list[float]:
    nothing: Any = None
    sender = Waiting(
        nothing,
        nothing,
        cast("Any", Store()),
        interval=5.0,
        on_failure=lambda _: None,
        on_idle=lambda: None,
        on_turn=lambda: False,
    )
    sender.clock = clock
    for _ in range(count):
        sender._rest(StoreUnavailable("away"))
    return clock.waits


def repeats_of_a_request(clock: Clock, count: int) -> list[float]:
    transport = Broken(Endpoint(scheme="http", host="broken.example.com", port=80), connect_timeout=1.0, timeout=60.0)
    with pytest.raises(StoreUnavailable):
        transport.send("GET", "/", what="be asked", repeat=True, read=bytes)
    assert len(clock.waits) == count
    return clock.waits


def tries_of_a_run_that_is_held(clock: Clock, count: int) -> list[float]:
    holds = holding.Holds()
    for _ in range(count):
        holds.hold("run", 0, "it is not there yet")
        assert holds.retry_at is not None
        clock.sleep(holds.retry_at - clock.now)
    return clock.waits


@pytest.mark.parametrize(
    ("module", "waits", "expected", "low", "high"),
    [
        (senders, attempts_of_a_sender, (0.2, 0.4, 0.8, 1.6), 0.6, 1.0),
        (transports, repeats_of_a_request, transports.DELAYS, 0.75, 1.25),
        (holding, tries_of_a_run_that_is_held, (2.0, 4.0, 8.0, 16.0), 0.75, 1.25),
    ],
    ids=["the server is away", "a request is repeated", "a run is held"],
)
def test_waits_grow_and_are_as_long_in_no_two_processes(
    module: Any,
    waits: Callable[[Clock, int], list[float]],
    expected: tuple[float, ...],
    low: float,
    high: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for _ in range(PROCESSES):
        clock = Clock()
        monkeypatch.setattr(module, "time", clock)
        found.append(waits(clock, len(expected)))
    for of_one, about in zip(zip(*found, strict=True), expected, strict=True):
        parts = [wait / about for wait in of_one]
        assert all(low - 1e-9 <= part <= high + 1e-9 for part in parts)
        assert len(set(parts)) == PROCESSES
        assert max(parts) - min(parts) > (high - low) / 2, "they are spread, not only different"
