"""What the server fails with every time, although it serves everything else, is found, so that it holds up nothing.

That a server fails (an internal error) mostly says nothing about what was asked: it is asked again for as long as need
be. So a value is given up only after it has failed alone, again and again, over minutes, each time while the server
took something else of the same run. What counts is written down: whoever delivers next goes on counting.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Final, TypeAlias

from tracklayer.exceptions import Refused, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracklayer.journal.progress import Progress
    from tracklayer.store import Dataset, Metric, Run, Store

FAILURES: Final = 10
"""So often the server has to fail with one thing alone, and with nothing else, before it is given up."""

APART: Final = 30_000
"""A failure counts if the one before it is so many milliseconds ago."""

LONG: Final = 24 * 3_600_000
"""Milliseconds for which a thing has to have failed if nothing else of its kind was taken: all of them may come to be
taken, once somebody has mended the server."""

BUDGET: Final = 24
"""Most requests of one pass that may fail: the other runs wait meanwhile. The next pass goes on from there."""

WITNESS_TAG: Final = "mlflow.tracklayer.in_doubt"
"""The tag by which a run is asked whether it takes anything; MLflow's pages do not show it."""

_NOTE: Final = "failing:"

_TAKEN: Final = "taken:"
"""How the note begins that a run took something, while something else was in doubt; then its id, and the kind."""

Thing: TypeAlias = "tuple[str, str]"
"""A part of a request: its kind, and what it is told by, in every process."""


class Suspects:
    """What the server has failed with alone, in one journal, and when."""

    def __init__(self, progress: Progress) -> None:
        """Read what was noted before."""
        self._progress = progress
        self._failures: dict[str, list[int]] = {}
        self._said: dict[str, StoreUnavailable] = {}
        self._taken: set[tuple[str, str]] = set()
        for note in progress.notes(_TAKEN):
            run_id, _, kind = note.partition(":")
            self._taken.add((run_id, kind))
        for note in progress.notes(_NOTE):
            print_, _, at = note.partition(":")
            self._failures.setdefault(print_, []).append(int(at) if at.isdecimal() else 0)
        for failures in self._failures.values():
            failures.sort()

    def knows(self, thing: Thing) -> bool:
        """Whether the server has failed with it alone, and has not taken it since."""
        return thing[1] in self._failures

    def is_due(self, thing: Thing) -> bool:
        """Whether a failure would count by now."""
        failures = self._failures.get(thing[1])
        return not failures or abs(_now() - failures[-1]) >= APART

    def failed(self, thing: Thing, error: StoreUnavailable) -> None:
        """The server has failed with it alone, and has taken something else since."""
        self._said[thing[1]] = error
        if self.is_due(thing):
            at = _now()
            self._failures.setdefault(thing[1], []).append(at)
            self._progress.trying(f"{_NOTE}{thing[1]}:{at}")

    def taken(self, run_id: str, things: Sequence[Thing]) -> None:
        """The server has taken these."""
        if not self._failures:
            return
        for kind in {kind for kind, _ in things}:
            if (run_id, kind) not in self._taken:
                self._taken.add((run_id, kind))
                self._progress.trying(f"{_TAKEN}{run_id}:{kind}")
        for _, print_ in things:
            self._failures.pop(print_, None)

    def is_hopeless(self, run_id: str, thing: Thing) -> bool:
        """Whether it is to be given up."""
        failures = self._failures.get(thing[1], [])
        if len(failures) < FAILURES:
            return False
        kind = thing[0]
        return kind == "tag" or (run_id, kind) in self._taken or failures[-1] - failures[0] >= LONG

    def said(self, thing: Thing) -> StoreUnavailable:
        """What the server said about it last, as far as this process knows."""
        return self._said.get(thing[1]) or StoreUnavailable("the server failed with it before")

    def count(self, thing: Thing) -> int:
        """How often the server has failed with it."""
        return len(self._failures.get(thing[1], ()))


class Isolation:
    """A store, as far as what is gathered for one run needs it, for one pass over what the server fails with.

    A request that it fails with is `Refused` here, so that whoever delivers cuts it in halves, until what fails stands
    alone. All that is good arrives with that. Unless what is left is hopeless, the pass has failed all the same.

    Attributes:
        pending: what the server said about what is not given up yet; None if there is nothing of that kind.
    """

    def __init__(self, store: Store, suspects: Suspects) -> None:
        self.pending: StoreUnavailable | None = None
        self._store = store
        self._suspects = suspects
        self._left = BUDGET
        self._witnessed = False

    def get_run(self, run_id: str) -> Run:
        """The run."""
        return self._store.get_run(run_id)

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """As the store's."""
        things = [
            _thing("metric", run_id, item.key, str(item.value), str(item.timestamp), str(item.step)) for item in metrics
        ]
        things += [_thing("param", run_id, *pair) for pair in (params or {}).items()]
        things += [_thing("tag", run_id, *pair) for pair in (tags or {}).items()]
        self._ask(run_id, things, lambda: self._store.log_batch(run_id, metrics=metrics, params=params, tags=tags))

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str] = ()) -> None:
        """As the store's."""
        things = [_thing("input", run_id, item.name, item.digest, item.context or "") for item in datasets]
        things += [_thing("input model", run_id, model) for model in models]
        self._ask(run_id, things, lambda: self._store.log_inputs(run_id, datasets, models))

    def log_outputs(self, run_id: str, models: Sequence[tuple[str, int]]) -> None:
        """As the store's."""
        things = [_thing("output model", run_id, model) for model, _ in models]
        self._ask(run_id, things, lambda: self._store.log_outputs(run_id, models))

    def change(self, run_id: str, kind: str, what: str, error: StoreUnavailable) -> None:
        """The server has failed with a change of a run that stands alone. Raises Refused if that is hopeless."""
        thing = _thing(kind, run_id, what)
        self._witness(run_id, error)
        self._suspects.failed(thing, error)
        self._suspects.taken(run_id, [(kind, "")])  # there is nothing else of its kind that could be taken
        raise self._verdict(run_id, thing, error) from error

    def _ask(self, run_id: str, things: Sequence[Thing], request: Callable[[], None]) -> None:
        suspects = self._suspects
        known = [thing for thing in things if suspects.knows(thing)]
        if known and len(things) > 1:
            raise Refused("something in it is looked at for itself")
        if known and (suspects.is_hopeless(run_id, known[0]) or not suspects.is_due(known[0])):
            raise self._verdict(run_id, known[0], suspects.said(known[0]))
        try:
            request()
        except StoreUnavailable as error:
            self._left -= 1
            if not error.internal or self._left < 0:
                raise
            if len(things) == 1 or not self._witnessed:
                self._witness(run_id, error)
            self._witnessed = True
            if len(things) > 1:
                raise Refused(str(error)) from error
            suspects.failed(things[0], error)
            raise self._verdict(run_id, things[0], error) from error
        suspects.taken(run_id, things)

    def _verdict(self, run_id: str, thing: Thing, error: StoreUnavailable) -> Refused:
        """What is said about something that fails alone."""
        if self._suspects.is_hopeless(run_id, thing):
            return Refused(f"it failed {self._suspects.count(thing)} times, and other things did not: {error}")
        self.pending = error
        return Refused(str(error))

    def _witness(self, run_id: str, error: StoreUnavailable) -> None:
        """Raise the error, unless the run takes something else: then it says nothing about what was asked."""
        try:
            self._store.log_batch(run_id, tags={WITNESS_TAG: "1"})
        except StoreError:
            raise error from None


def _thing(kind: str, *parts: str) -> Thing:
    text = "\0".join((kind, *parts))
    return kind, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _now() -> int:
    return time.time_ns() // 1_000_000
