"""Every order in which the steps of several processes can happen, with real code and a store in memory.

A step is one call of the store. The code between two calls depends on nothing but the answers so far, so a process is
its answers: to find out what it does next, its code is run again from the start with the answers that it had, up to
the call that has no answer yet. So nothing has to be stopped and resumed, every state can be kept and compared, and a
state that two schedules lead to is explored once. How many schedules went through it is counted all the same.

Beside the steps there are faults, each with a budget: a process dies before its next call; a call's answer is lost,
and the store does what was asked right then, any time later, or never; somebody deletes a run by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.memory_store import Contents, MemoryStore
from tracklayer.exceptions import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tracklayer.store import Run

WRITES = frozenset({"create_run", "log_inputs", "delete_run"})
TORN = {"search_runs": "read_datasets_of", "log_inputs": "insert_inputs"}
"""Calls that a server serves in two transactions, and what the second one of them is."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Processes that do the same.

    Attributes:
        first: what each of them does; it returns a run and whether it made it.
        again: what one does whose call failed; None for the same.
        count: how many there are.
        waits: True if they start when one of the actor before them has got its answer, or died.
    """

    first: Callable[[Any], tuple[Run, bool]]
    again: Callable[[Any], tuple[Run, bool]] | None = None
    count: int = 1
    waits: bool = False


@dataclass(frozen=True, kw_only=True)
class End:
    """What is left when every process has got its answer or died, and one more has come and gone.

    Attributes:
        live: runs that were not deleted, before the late comer.
        left: runs that were not deleted, after the late comer.
        told: what the processes got: the run's id, whether that process made it, and whether it was under way when a
            run was deleted by hand.
        late: what the late comer got.
        by_hand: what was deleted by hand.
        disturbed: True if a process died or an answer was lost.
    """

    live: Sequence[str]
    left: Sequence[str]
    told: Sequence[tuple[str, bool, bool]]
    late: str
    by_hand: Sequence[str]
    disturbed: bool


@dataclass(frozen=True, kw_only=True)
class Explored:
    """How much was explored: different states, schedules through them, and schedules' ends that were checked."""

    states: int
    schedules: int


class Violation(AssertionError):
    """A schedule that ends as it must not; `schedule` is a shortest one."""

    def __init__(self, what: str, schedule: Sequence[str]) -> None:
        super().__init__("\n".join([what, *(f"  {number}. {step}" for number, step in enumerate(schedule, 1))]))
        self.schedule = schedule


class _Asked(BaseException):
    """A call that has no answer yet; no code that is under test catches it."""

    def __init__(self, call: _Call) -> None:
        super().__init__(call)
        self.call = call


class _Call(NamedTuple):
    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def on(self, store: MemoryStore) -> Any:
        try:
            return getattr(store, self.method)(*self.arguments, **self.options)
        except StoreError as error:
            return error


class _Replayed:
    """A store that gives the answers of before, and then stops the process at its next call."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self._answers = iter(answers)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def ask(*arguments: Any, **options: Any) -> Any:
            for answer in self._answers:
                if isinstance(answer, StoreError):
                    raise answer
                return answer
            raise _Asked(_Call(method, arguments, options))

        return ask


@dataclass(eq=False, slots=True)
class _Point:
    """Where a process is: between two calls, or at its end (`asked` is None; `told` is None if it died or failed)."""

    number: int
    actor: Actor
    answers: tuple[Any, ...]
    asked: _Call | None = None
    told: tuple[str, bool] | None = None
    failed: bool = False
    begun: bool = True
    after: dict[object, _Point] = field(default_factory=dict)


class _State(NamedTuple):
    """Everything that the future depends on. Processes are (actor, point, under way at a deletion), in order."""

    contents: int
    processes: tuple[tuple[int, int, bool], ...]
    late: tuple[int, ...]
    deaths: int
    losses: int
    deletions: int
    by_hand: tuple[str, ...]


class Explorer:
    """Explores what `actors` can do to one store.

    Args:
        actors: who is there.
        contents: what is in the store at first.
        deaths: at most so many processes die.
        losses: at most so many answers are lost.
        deletions: so many runs are deleted by hand, at most.
        torn: True if searches and votes are two steps each, as on a server that serves them in two transactions.
        backwards: True if what was created last seems to be the oldest.
        judge: what is wrong with an end; None if nothing is.
    """

    def __init__(
        self,
        actors: Sequence[Actor],
        judge: Callable[[End], str | None],
        *,
        contents: Contents | None = None,
        deaths: int = 0,
        losses: int = 0,
        deletions: int = 0,
        torn: bool = False,
        backwards: bool = False,
    ) -> None:
        self._actors = [replace(actor) for actor in actors]
        self._judge = judge
        self._torn, self._backwards = torn, backwards
        self._telling = False
        self._disturbances = deaths + losses
        self._points: list[_Point] = []
        self._contents: dict[Contents, int] = {}
        self._all_contents: list[Contents] = []
        self._calls: dict[str, tuple[int, _Call]] = {}
        self._all_calls: list[_Call] = []
        self._served: dict[tuple[int, int], tuple[int, Any, str]] = {}
        self._ends: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._dead = _Point(0, self._actors[0], ())
        self._points.append(self._dead)
        first = [self._point(actor, ()) for actor in self._actors]
        again = [self._point(replace(actor, first=actor.again or actor.first), ()) for actor in self._actors]
        for point in first:
            point.begun = False
        self._again = [point.number for point in again]
        processes = tuple(
            (number, first[number].number, False)
            for number, actor in enumerate(self._actors)
            for _ in range(actor.count)
        )
        start = self._number_of(contents or Contents())
        self._start = _State(start, processes, (), deaths, losses, deletions, ())

    def explore(self) -> Explored:
        """Go every way.

        Raises:
            Violation: an end was wrong, or the processes can go round in circles.
        """
        schedules: dict[_State, int] = {}
        under_way = {self._start}
        stack = [(self._start, self._successors(self._start), [0])]
        while stack:
            state, successors, count = stack[-1]
            following = next(successors, None)
            if following is None:
                stack.pop()
                under_way.discard(state)
                if self._is_end(state):
                    count[0] += 1
                    if (wrong := self._wrong(state)) is not None:
                        raise Violation(wrong, self._shortest())
                schedules[state] = count[0]
                if stack:
                    stack[-1][2][0] += count[0]
            elif following[1] in schedules:
                count[0] += schedules[following[1]]
            elif following[1] in under_way:
                raise Violation("the processes can go round in circles", [following[0]])
            else:
                under_way.add(following[1])
                stack.append((following[1], self._successors(following[1]), [0]))
        return Explored(states=len(schedules), schedules=schedules[self._start])

    def _shortest(self) -> Sequence[str]:
        """A shortest schedule to a wrong end: breadth first."""
        self._telling = True
        came: dict[_State, tuple[_State, str] | None] = {self._start: None}
        level = [self._start]
        while level:
            following = []
            for state in level:
                if self._is_end(state) and self._wrong(state) is not None:
                    steps: list[str] = []
                    at = came[state]
                    while at is not None:
                        steps.append(at[1])
                        at = came[at[0]]
                    return steps[::-1]
                for step, successor in self._successors(state):
                    if successor not in came:
                        came[successor] = (state, step)
                        following.append(successor)
            level = following
        return []

    # What can happen next

    def _successors(self, state: _State) -> Iterator[tuple[str, _State]]:
        for place, (actor, number, disturbed) in enumerate(state.processes):
            point = self._points[number]
            if point.asked is None or (self._actors[actor].waits and not self._ended(state, actor - 1)):
                continue
            call, asked = self._number_of_call(point.asked), point.asked
            contents, answer, key = self._serve(state.contents, call)
            process = "abcdef"[place]
            name = f"{process}{' (again)' if number in self._again else ''}: {_short(asked)}"
            yield (
                f"{name} → {_brief(answer)}",
                self._moved(state, place, self._on(point, answer, key), disturbed=disturbed)._replace(
                    contents=contents
                ),
            )
            if state.deaths and point.begun:
                died = self._moved(state, place, self._dead, disturbed=disturbed)
                yield f"{process} dies before {_short(asked)}", died._replace(deaths=state.deaths - 1)
            if state.losses and not asked.method.startswith(("read_", "insert_")):
                lost = self._on(point, StoreUnavailable("no answer"), "lost")
                after = self._moved(state, place, lost, disturbed=disturbed)._replace(losses=state.losses - 1)
                late = tuple(sorted([*state.late, call])) if asked.method in WRITES else state.late
                yield f"{name} → no answer", after._replace(late=late)
        for place, call in enumerate(state.late):
            contents, _, _ = self._serve(state.contents, call)
            late = state.late[:place] + state.late[place + 1 :]
            yield f"late: {_short(self._all_calls[call])}", state._replace(contents=contents, late=late)
        if state.deletions:
            yield from self._deleted_by_hand(state)

    def _deleted_by_hand(self, state: _State) -> Iterator[tuple[str, _State]]:
        contents = self._all_contents[state.contents]
        # Whoever has begun may have seen the run that is gone now.
        processes = self._ordered(
            [(actor, number, disturbed or self._points[number].begun) for actor, number, disturbed in state.processes]
        )
        for run in contents.runs:
            if not run.deleted:
                store = MemoryStore(contents)
                store.delete_run(run.run_id)
                yield (
                    f"by hand: delete {run.run_id}",
                    state._replace(
                        contents=self._number_of(store.contents),
                        processes=processes,
                        deletions=state.deletions - 1,
                        by_hand=(*state.by_hand, run.run_id),
                    ),
                )

    def _ended(self, state: _State, actor: int) -> bool:
        return any(self._points[number].asked is None for other, number, _ in state.processes if other == actor)

    def _moved(self, state: _State, place: int, point: _Point, *, disturbed: bool) -> _State:
        actor = state.processes[place][0]
        number = self._again[actor] if point.failed else point.number
        moved = [*state.processes[:place], (actor, number, disturbed), *state.processes[place + 1 :]]
        return state._replace(processes=self._ordered(moved))

    def _ordered(self, processes: Sequence[tuple[int, int, bool]]) -> tuple[tuple[int, int, bool], ...]:
        """Processes of one actor are alike, so which of them is where does not matter, except to who reads about it."""
        return tuple(processes) if self._telling else tuple(sorted(processes))

    # What a process does with an answer, and the store with a call

    def _point(self, actor: Actor, answers: tuple[Any, ...]) -> _Point:
        point = _Point(len(self._points), actor, answers)
        self._points.append(point)
        try:
            run, made = actor.first(_Replayed(answers))
        except _Asked as asked:
            point.asked = asked.call
        except StoreError:
            point.failed = True
        else:
            point.told = (run.run_id, made)
        return point

    def _on(self, point: _Point, answer: Any, key: object) -> _Point:
        """Where `point` gets with this answer to its call."""
        following = point.after.get(key)
        if following is None:
            second = TORN.get(point.asked.method) if point.asked and self._torn else None
            if second is not None and not isinstance(answer, StoreError):
                following = _Point(len(self._points), point.actor, point.answers)
                following.asked = _Call(second, (point.asked, answer), {})
                self._points.append(following)
            else:
                following = self._point(point.actor, (*point.answers, answer))
            point.after[key] = following
        return following

    def _serve(self, contents: int, call: int) -> tuple[int, Any, str]:
        """The contents after a call, its answer, and what tells answers apart."""
        served = self._served.get((contents, call))
        if served is None:
            asked = self._all_calls[call]
            store = MemoryStore(self._all_contents[contents], backwards=self._backwards)
            if asked.method in TORN.values():
                answer = getattr(self, f"_{asked.method}")(store, *asked.arguments)
            elif self._torn and asked.method == "log_inputs":
                answer = _Call("get_run", asked.arguments[:1], {}).on(store)
                answer = asked.on(MemoryStore(store.contents)) if answer.deleted else None
            else:
                answer = asked.on(store)
            served = self._served[contents, call] = (self._number_of(store.contents), answer, repr(answer))
        return served

    @staticmethod
    def _read_datasets_of(store: MemoryStore, _call: _Call, found: Sequence[Run]) -> Sequence[Run]:
        return [replace(run, datasets=store.get_run(run.run_id).datasets) for run in found]

    @staticmethod
    def _insert_inputs(store: MemoryStore, call: _Call, _answer: None) -> None:
        store.insert_inputs(*call.arguments)

    def _number_of(self, contents: Contents) -> int:
        number = self._contents.setdefault(contents, len(self._all_contents))
        if number == len(self._all_contents):
            self._all_contents.append(contents)
        return number

    def _number_of_call(self, call: _Call) -> int:
        key = repr(call)
        if key not in self._calls:
            self._calls[key] = (len(self._all_calls), call)
            self._all_calls.append(call)
        return self._calls[key][0]

    # Ends

    def _is_end(self, state: _State) -> bool:
        return all(self._points[number].asked is None for _, number, _ in state.processes)

    def _wrong(self, state: _State) -> str | None:
        points = [(self._points[number], disturbed) for _, number, disturbed in state.processes]
        if state.contents not in self._ends:
            store = MemoryStore(self._all_contents[state.contents], backwards=self._backwards)
            run, _ = (self._actors[-1].again or self._actors[-1].first)(store)
            self._ends[state.contents] = (run.run_id, _live(store.contents))
        late, left = self._ends[state.contents]
        return self._judge(
            End(
                live=_live(self._all_contents[state.contents]),
                left=left,
                told=[(*point.told, disturbed) for point, disturbed in points if point.told],
                late=late,
                by_hand=state.by_hand,
                disturbed=state.deaths + state.losses < self._disturbances,
            )
        )


def _live(contents: Contents) -> tuple[str, ...]:
    return tuple(run.run_id for run in contents.runs if not run.deleted)


def _short(call: _Call) -> str:
    told = [str(argument) for argument in call.arguments if isinstance(argument, str)]
    return f"{call.method}({', '.join(told)})"


def _brief(answer: Any) -> str:
    if isinstance(answer, list):
        return str([run.run_id for run in answer])
    return str(getattr(answer, "run_id", answer if answer is None else type(answer).__name__))
