"""A tracking back end in memory that fails by a seed, and that kills whoever asks.

It keeps what MLflow keeps, as far as a journal is delivered to it. Every request may fail before or after it was carried
out, an outage or the trouble of one run may last for some requests, and one of them may be the last of its process.
"""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tracklayer.exceptions import AccessDenied, NotFound, Refused, StoreUnavailable
from tracklayer.provisional import id_tag
from tracklayer.store import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tracklayer.store import Dataset, LoggedModel, Metric

Point: TypeAlias = tuple[str, float, int, int]
"""Key, value, timestamp and step of a metric point."""

Answer = TypeVar("Answer")

REFUSED = "refused"
"""How keys of metrics, values of params and tags, and names of datasets begin that the store refuses."""

FAILING = "failing"
"""How those begin with which it fails each time."""

_FILTER = re.compile(r"(?:attributes\.run_id IN \(([^)]*)\) and )?tags\.`([^`]+)` (!?=) '([^']*)'")


def is_bad(text: str) -> bool:
    """Whether the store takes no such key or value.

    >>> is_bad("refused.7"), is_bad("7")
    (True, False)
    """
    return text.startswith((REFUSED, FAILING))


class Killed(BaseException):
    """The process that asked has come to its end."""


class Clock:
    """A clock that is put on by hand, in milliseconds since the epoch."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@dataclass
class KeptRun:
    """A run as it is kept; metric points are a set, as in MLflow's tables."""

    run_id: str
    name: str
    start_time: int
    tags: dict[str, str]
    status: str = "RUNNING"
    end_time: int | None = None
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    points: set[Point] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    def told(self) -> Run:
        """The run as the store tells of it."""
        return Run(
            run_id=self.run_id,
            experiment_id="1",
            name=self.name,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            artifact_uri="mlflow-artifacts:/" + self.run_id,
            deleted=self.deleted,
            tags=dict(self.tags),
            params=dict(self.params),
            metrics={key: value for key, value, _, _ in self.points},
        )


class FaultyStore:
    """The part of `tracklayer.store.Store` that a delivery uses.

    Attributes:
        uri: what it is called.
        runs: what it keeps, by run id.
        failing: the part of requests that fail, about.
        outage: so many requests more are not answered.
        troubled: so many requests more fail for a run, by its id; for its artifacts, by `files_of` it.
        kill_in: in so many requests its process is killed, before or after the request was carried out; None: it lives.
        dead: whether it was; nothing is answered then.
        on_kill: called at that moment.
        on_end: called before a run ends, with its id and end time.
    """

    uri = "memory:"

    def __init__(self, seed: int, clock: Clock, *, failing: float = 0.0) -> None:
        self.runs: dict[str, KeptRun] = {}
        self.failing = failing
        self.outage = 0
        self.troubled: dict[str, int] = {}
        self.kill_in: int | None = None
        self.dead = False
        self.on_kill: Callable[[], None] = lambda: None
        self.on_end: Callable[[str, int], None] = lambda run_id, end_time: None
        self._chance = random.Random(seed)
        self._clock = clock
        self._lock = threading.RLock()
        self._driver = threading.get_ident()

    def heal(self) -> None:
        """Nothing fails any more, but what is refused."""
        self.failing, self.outage, self.kill_in, self.dead = 0.0, 0, None, False
        self.troubled.clear()

    def make(self, name: str, tags: Mapping[str, str], start_time: int = 0) -> KeptRun:
        """A new run, without a request."""
        run = KeptRun(f"{len(self.runs):032d}", name, start_time, dict(tags))
        self.runs[run.run_id] = run
        return run

    def named(self, local: str) -> list[KeptRun]:
        """The runs of a local id: one, if all is well."""
        if local in self.runs:
            return [self.runs[local]]
        return [run for run in list(self.runs.values()) if id_tag(local) in run.tags]

    # What is asked of it

    def get_run(self, run_id: str) -> Run:
        return self._answer(lambda: self._run(run_id).told(), run_id)

    def ping(self) -> str:
        return self._answer(lambda: "3")

    def try_again(self) -> None:
        pass

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        deleted: bool = False,
    ) -> list[Run]:
        asked = _FILTER.fullmatch(filter_string)
        if asked is None:
            raise NotImplementedError(filter_string)
        these, key, sign, value = asked.groups()

        def found(run: KeptRun) -> bool:
            among = these is None or f"'{run.run_id}'" in these
            return among and run.deleted == deleted and key in run.tags and (run.tags[key] == value) == (sign == "=")

        return self._answer(lambda: [run.told() for run in self.runs.values() if found(run)][:limit])

    def find_logged_model(self, experiment_ids: Sequence[str], tag: str) -> LoggedModel | None:
        return self._answer(lambda: None)

    def create_run(self, experiment_id: str, *, name: str, start_time: int, tags: Mapping[str, str]) -> Run:
        def create() -> Run:
            _take(tags.values())
            return self.make(name, tags, start_time).told()

        return self._answer(create)

    def update_run(
        self, run_id: str, *, status: str | None = None, end_time: int | None = None, name: str | None = None
    ) -> None:
        def update() -> None:
            run = self._active(run_id)
            if name is not None:
                run.name = name
            if status is not None:
                if end_time is not None:
                    self.on_end(run_id, end_time)
                run.status, run.end_time = status, None if status == "RUNNING" else end_time

        self._answer(update, run_id)

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        params, tags = params or {}, tags or {}
        assert len(params) <= 100 >= len(tags)
        assert len(metrics) + len(params) + len(tags) <= 1_000

        def log() -> None:
            run = self._active(run_id)
            _take([*(item.key for item in metrics), *params.values(), *tags.values()])
            if any(run.params.get(key, value) != value for key, value in params.items()):
                raise Refused("a param has another value already")
            run.params.update(params)
            run.tags.update(tags)
            run.points.update((item.key, item.value, item.timestamp, item.step) for item in metrics)

        self._answer(log, run_id)

    def delete_tag(self, run_id: str, key: str) -> None:
        self._answer(lambda: self._active(run_id).tags.pop(key, None), run_id)

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str] = ()) -> None:
        def log() -> None:
            run = self._active(run_id)
            _take(dataset.name for dataset in datasets)
            run.datasets.update(dataset.name for dataset in datasets)

        self._answer(log, run_id)

    def log_artifact(self, owner: Run, path: str, content: bytes | Path) -> None:
        def log() -> None:
            data = content.read_bytes() if isinstance(content, Path) else content
            self._active(owner.run_id).artifacts[path] = data

        # Artifacts are often in another place than runs: each has troubles of its own.
        self._answer(log, owner.run_id if self._chance.random() < 0.5 else files_of(owner.run_id))

    # How it answers

    def _run(self, run_id: str) -> KeptRun:
        if run_id not in self.runs:
            raise NotFound(f"there is no run {run_id}")
        return self.runs[run_id]

    def _active(self, run_id: str) -> KeptRun:
        run = self._run(run_id)
        if run.deleted:
            raise Refused(f"the run {run_id} must be in the 'active' state")
        return run

    def _answer(self, effect: Callable[[], Answer], troubled: str = "") -> Answer:
        with self._lock:
            if self.dead:
                raise StoreUnavailable("whoever asks is dead")
            self._clock.now += self._chance.choice((0, 10, 3_000))
            if self._is_last():
                if self._chance.random() < 0.5:
                    effect()
                raise self._killed()
            if self.outage > 0:
                self.outage -= 1
                raise StoreUnavailable("nobody answers")
            if troubled in self.troubled:
                self._fail_with(troubled, effect)
            chance = self._chance.random()
            if chance < self.failing * 0.30:
                raise _unavailable("failed before", internal=self._chance.random() < 0.5)
            if chance < self.failing * 0.32:
                raise AccessDenied("who are you?")
            answer = effect()
            if chance > 1 - self.failing * 0.2:
                raise _unavailable("the answer was lost", internal=self._chance.random() < 0.3)
            return answer

    def _fail_with(self, troubled: str, effect: Callable[[], object]) -> None:
        self.troubled[troubled] -= 1
        if not self.troubled[troubled]:
            del self.troubled[troubled]
        if self._chance.random() < 0.3:
            effect()
        raise _unavailable("this run is in trouble", internal=True)

    def _is_last(self) -> bool:
        if self.kill_in is None:
            return False
        self.kill_in -= 1
        return self.kill_in <= 0

    def _killed(self) -> BaseException:
        self.kill_in, self.dead = None, True
        self.on_kill()
        # Another thread than the one that drives only hears no answer: nobody is there to catch what it would raise.
        return Killed() if threading.get_ident() == self._driver else StoreUnavailable("killed")


def files_of(run_id: str) -> str:
    """What the artifacts of a run are called in `FaultyStore.troubled`."""
    return "files of " + run_id


def _take(told: Iterable[str]) -> None:
    """Raise if something among it is not taken."""
    told = list(told)
    if any(text.startswith(FAILING) for text in told):
        raise _unavailable("failed inside", internal=True)
    if any(text.startswith(REFUSED) for text in told):
        raise Refused("a bad value")


def _unavailable(message: str, *, internal: bool) -> StoreUnavailable:
    error = StoreUnavailable(message)
    error.internal = internal
    return error
