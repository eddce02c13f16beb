"""Exactly one parent, in every order in which the steps of the processes that want it can happen.

The real `make_parent` of two and three processes, step by step, against a store in memory that does what MLflow does
(`tests/integration/test_parent_race.py` holds it against real servers). Explored exhaustively, with:

- processes that die before any of their calls: also between creating a candidate and publishing it;
- answers that are lost, after which the process starts again, while what it asked for is done right then, or any time
  later, or never (a server that was stopped does it when it goes on);
- a run that somebody deletes by hand, at any moment;
- searches and votes that are two transactions on the server, and something happens in between;
- clocks that disagree, so that the newest run looks like the oldest.

What is bounded is how much of that comes together: the table below says it, and every row of it is complete. Run with
``-s`` to see how many schedules there were.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from harness.interleaving import Actor, End, Explorer, Violation
from harness.memory_store import Contents, MemoryStore
from tracklayer.identity import key_tag
from tracklayer.parent import make_parent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.store import Run

KEY = "airflow:default/flights/r1"
EXPERIMENT = "1"


def elect(store: Any) -> tuple[Run, bool]:
    """One of many processes wants the parent."""
    return make_parent(store, EXPERIMENT, KEY, name="r1", start_time=1_000, tags={"a": "1"}, alone=False)


def alone(store: Any) -> tuple[Run, bool]:
    """The one process of a flow wants its parent."""
    return make_parent(store, EXPERIMENT, KEY, name="r1", start_time=1_000, tags={"a": "1"}, alone=True)


def exactly_one(end: End) -> str | None:
    """What is wrong with the end of a schedule: None if there is one live parent, and everybody has it."""
    if list(end.left) != [end.late]:
        return f"{end.left} are left, and the last to come got {end.late}"
    if not end.disturbed and not end.by_hand and len(end.live) != 1:
        return f"nothing went wrong, and {end.live} were left"
    for run_id, _, under_way in end.told:
        # Whoever was under way when somebody deleted the parent may have got just that one.
        if run_id != end.late and not (under_way and run_id in end.by_hand):
            return f"one got {run_id}, and the parent is {end.late}"
    if sum(made for _, made, _ in end.told) > 1 + len(end.by_hand):
        return "two were told that they made it"
    return None


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much may happen in one schedule."""

    processes: int
    deaths: int = 0
    losses: int = 0
    deletions: int = 0
    torn: bool = False


BOUNDS = [
    Bounds(processes=2, deaths=2, losses=1),
    Bounds(processes=2, deaths=2, losses=1, torn=True),
    Bounds(processes=2, deaths=1, losses=2),
    Bounds(processes=2, deletions=2),
    Bounds(processes=2, deletions=1, deaths=1),
    Bounds(processes=2, deletions=1, losses=1),
    Bounds(processes=3),
    Bounds(processes=3, torn=True),
    Bounds(processes=3, deaths=1, torn=True),
    Bounds(processes=3, losses=1, torn=True),
    Bounds(processes=3, deletions=1),
]
"""What is explored, each with clocks that agree and with clocks that do not. Three processes are bounded to one fault."""


def named(bounds: Bounds) -> str:
    faults = {"deaths": bounds.deaths, "losses": bounds.losses, "deletions": bounds.deletions}
    told = [f"{bounds.processes}-processes", *(f"{count}-{name}" for name, count in faults.items() if count)]
    return "-".join([*told, *(["torn"] if bounds.torn else [])])


def report(what: object) -> None:
    print(what)  # noqa: T201 — shown with -s, or when the test fails


@pytest.mark.parametrize("backwards", [False, True], ids=["clocks-agree", "clocks-disagree"])
@pytest.mark.parametrize("bounds", BOUNDS, ids=named)
def test_every_schedule_leaves_one_parent_that_everybody_has(bounds: Bounds, backwards: bool) -> None:
    began = time.perf_counter()
    explored = Explorer(
        [Actor(first=elect, count=bounds.processes)],
        exactly_one,
        deaths=bounds.deaths,
        losses=bounds.losses,
        deletions=bounds.deletions,
        torn=bounds.torn,
        backwards=backwards,
    ).explore()
    taken = time.perf_counter() - began
    report(f"\n{named(bounds)}: {explored.schedules:,} schedules, {explored.states:,} states, {taken:.1f} s")
    assert explored.schedules > explored.states


def test_three_processes_with_a_death_and_a_lost_answer() -> None:
    """The biggest of all, so only with the clocks the other way round."""
    actors = [Actor(first=elect, count=3)]
    explored = Explorer(actors, exactly_one, deaths=1, losses=1, backwards=True).explore()
    report(f"\n{explored.schedules:,} schedules, {explored.states:,} states")
    assert explored.schedules > explored.states


def test_a_flow_that_makes_its_parent_alone_and_tasks_that_come_after_have_one_parent() -> None:
    """Also when the answer to creating it was lost: then its second try holds an election, as `creation` has it."""
    flow = Actor(first=alone, again=elect)
    tasks = Actor(first=elect, count=2, waits=True)
    explored = Explorer([flow, tasks], exactly_one, losses=2).explore()
    assert explored.schedules > 1_000
    explored = Explorer([flow, Actor(first=elect, waits=True)], exactly_one, losses=1, deaths=1, deletions=1).explore()
    assert explored.schedules > 500


def test_what_earlier_processes_left_is_dealt_with() -> None:
    """A dead process's candidate, an elected parent with a candidate beside it, a parent in the trash."""
    for situation in (_orphans(2), _elected(), _elected(deleted=True)):
        for backwards in (False, True):
            explored = Explorer(
                [Actor(first=elect, count=2)],
                exactly_one,
                contents=situation,
                deletions=1,
                deaths=1,
                backwards=backwards,
            ).explore()
            assert explored.schedules > 100


def _orphans(count: int) -> Contents:
    store = MemoryStore()
    for _ in range(count):
        store.create_run(EXPERIMENT, name="r1", start_time=1_000, tags={key_tag(KEY): "1"})
    return store.contents


def _elected(*, deleted: bool = False) -> Contents:
    store = MemoryStore()
    run, _ = elect(store)
    store.create_run(EXPERIMENT, name="r1", start_time=1_000, tags={key_tag(KEY): "1"})
    if deleted:
        store.delete_run(run.run_id)
    return store.contents


# The check can fail: protocols that look right, and are not.


def search_then_create(store: Any) -> tuple[Run, bool]:
    found = store.search_runs([EXPERIMENT], f"tags.`{key_tag(KEY)}` = '1'", order_by=["attributes.start_time ASC"])
    if found:
        return found[0], False
    return store.create_run(EXPERIMENT, name="r1", start_time=1_000, tags={key_tag(KEY): "1"}), True


def oldest_of_the_candidates(store: Any) -> tuple[Run, bool]:
    """Creates, looks who is the oldest, and deletes its own if it is not."""
    run, made = search_then_create(store)
    found = search_then_create(store)[0] if made else run
    if made and found.run_id != run.run_id:
        store.delete_run(run.run_id)
    return found, made and found.run_id == run.run_id


@pytest.mark.parametrize("protocol", [search_then_create, oldest_of_the_candidates])
def test_a_broken_protocol_is_caught(protocol: Callable[[Any], tuple[Run, bool]]) -> None:
    with pytest.raises(Violation) as caught:
        Explorer([Actor(first=protocol, count=2)], exactly_one, deaths=1, backwards=True).explore()
    report(caught.value)
    assert 3 < len(caught.value.schedule) < 10


def test_a_shortest_schedule_to_the_violation_is_told() -> None:
    with pytest.raises(Violation) as caught:
        Explorer([Actor(first=search_then_create, count=2)], exactly_one).explore()
    steps = [step.split("(")[0] for step in caught.value.schedule]
    assert sorted(steps[:2]) == ["a: search_runs", "b: search_runs"]
    assert sorted(steps[2:]) == ["a: create_run", "b: create_run"]


def test_trying_again_alone_after_a_lost_answer_would_be_caught() -> None:
    """Which is why the second try holds an election: the server may do what the first one asked for any time later."""
    with pytest.raises(Violation):
        Explorer([Actor(first=alone), Actor(first=elect, waits=True)], exactly_one, losses=1).explore()


def test_going_round_in_circles_would_be_caught() -> None:
    def waits_for_another(store: Any) -> tuple[Run, bool]:
        if not store.search_runs([EXPERIMENT], "tags.`a` = '1'", order_by=["attributes.start_time ASC"]):
            store.get_run("run-0")  # raises: there is none, and the process tries again
        return search_then_create(store)

    with pytest.raises(Violation, match="circles"):
        Explorer([Actor(first=waits_for_another)], exactly_one).explore()
