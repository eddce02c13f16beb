from __future__ import annotations

import pytest

from tracklayer.store.breaker import PAUSE, Breaker


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(probe=6, clock=clock)


def test_a_server_that_failed_is_left_alone_for_a_while(breaker: Breaker, clock: Clock) -> None:
    assert breaker.left() == 0
    breaker.failed()
    assert breaker.left() == PAUSE
    clock.now += PAUSE - 1
    assert breaker.left() == 1
    clock.now += 1
    assert breaker.left() == 0


def test_after_the_pause_one_call_tries_for_all(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.now += PAUSE
    assert breaker.left() == 0
    assert breaker.left() == 6  # the others wait for what the first one finds
    breaker.reached()
    assert breaker.left() == 0


def test_a_trial_that_nobody_ends_does_not_last_for_ever(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.now += PAUSE
    breaker.left()
    clock.now += 6
    assert breaker.left() == 0


def test_two_time_outs_in_a_row(breaker: Breaker) -> None:
    breaker.timed_out()
    assert breaker.left() == 0
    breaker.reached()
    breaker.timed_out()
    assert breaker.left() == 0
    breaker.timed_out()
    assert breaker.left() == PAUSE


def test_a_trial_that_times_out_is_enough(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.now += PAUSE
    assert breaker.left() == 0
    breaker.timed_out()
    assert breaker.left() == PAUSE
