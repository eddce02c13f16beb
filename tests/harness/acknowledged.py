"""What a journal has acknowledged, run by run, and how a store differs from it once everything is delivered."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.faulty_store import is_bad
from tracklayer.journal.dead_letters import REFUSED_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.faulty_store import FaultyStore, KeptRun, Point
    from tracklayer.journal.refusals import Refusal

Kind: TypeAlias = Literal["metric", "param", "tag", "name", "input", "artifact", "end", "open"]

Thing: TypeAlias = tuple[str, str, str]
"""A value that was refused: its kind, key and value."""

SHOWN = 3
"""So many of the values are named that one difference is about."""


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that was said of a run; `value` is None for a tag that was taken away.

    That of an end is its time, None for a run that was opened again.
    """

    kind: Kind
    key: str
    value: Any

    @property
    def is_bad(self) -> bool:
        """Whether the store does not take it."""
        if self.kind in {"metric", "input"}:
            return is_bad(self.key)
        return self.kind in {"param", "tag"} and self.value is not None and is_bad(self.value)

    @property
    def thing(self) -> Thing:
        """It, as it is told when it was refused."""
        return _thing(self.kind, self.key, str(self.value[1] if self.kind == "metric" else self.value))


@dataclass(frozen=True)
class Expected:
    """A run as it must be in the end.

    Attributes:
        points: its metric points.
        params: each with its first value.
        tags: each with its last value.
        datasets: the names of its inputs.
        artifacts: by path, the last content.
        name: its last name; None for that with which it was made.
        end: the last one; None for a run that never was ended.
        left_open: whether the end of its process is not its own.
        refused: what must have been refused of it, and nothing else.
    """

    points: frozenset[Point]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: frozenset[str]
    artifacts: Mapping[str, bytes]
    name: str | None
    end: Said | None
    left_open: bool
    refused: frozenset[Thing]

    @classmethod
    def of(cls, said: Iterable[Said]) -> Expected:
        """What everything that was said of a run, in order, comes to."""
        said = list(said)
        taken = [one for one in said if not one.is_bad]
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        refused = {one.thing for one in said if one.is_bad}
        for one in taken:
            if one.kind == "param" and params.setdefault(one.key, one.value) != one.value:
                refused.add(one.thing)
            elif one.kind == "tag" and one.value is None:
                tags.pop(one.key, None)
            elif one.kind == "tag":
                tags[one.key] = one.value
        last = {one.kind: one for one in taken if one.kind in {"name", "end"}}
        stays = [one.kind == "open" for one in taken if one.kind in {"end", "open"}]
        return cls(
            points=frozenset(one.value for one in taken if one.kind == "metric"),
            params=params,
            tags=tags,
            datasets=frozenset(one.key for one in taken if one.kind == "input"),
            artifacts={one.key: one.value for one in taken if one.kind == "artifact"},
            name=last["name"].value if "name" in last else None,
            end=last.get("end"),
            left_open=bool(stays) and stays[-1],
            refused=frozenset(refused),
        )


@dataclass
class Acknowledged:
    """The ledger of one journal.

    Attributes:
        said: what was said of each run, in order, by its local id.
        made: local ids of the runs that are the journal's own to create, and to end.
    """

    said: dict[str, list[Said]] = field(default_factory=lambda: defaultdict(list))
    made: set[str] = field(default_factory=set)

    def say(self, run: str, kind: Kind, key: str = "", value: Any = None) -> None:
        """Something was acknowledged."""
        self.said[run].append(Said(kind, key, value))

    def too_early(self, store: FaultyStore, run_id: str, end_time: int) -> list[str]:
        """What was said of a run before this end of it, and is not there at the moment at which it ends."""
        run, found = store.runs[run_id], list[str]()
        for local in [local for local in self.said if run in store.named(local)]:
            said = self.said[local]
            ends = [number for number, one in enumerate(said) if one.kind == "end" and one.value == end_time]
            if not ends:  # it is ended by whoever recovers it
                continue
            before = Expected.of(said[: ends[0]])
            later = {one.key for one in said[ends[0] :] if one.kind == "tag"}
            found += _lacking(f"{local} ended before", "points", before.points - run.points)
            found += _lacking(f"{local} ended before", "params", before.params.keys() - run.params.keys())
            found += _lacking(f"{local} ended before", "tags", before.tags.keys() - run.tags.keys() - later)
        return found

    def differences(self, store: FaultyStore, refusals: Sequence[Refusal], *, died: bool) -> list[str]:
        """How the store, and what was refused, differ from what was said.

        Args:
            store: everything is delivered to it.
            refusals: from the journal's file.
            died: True if the process that logged has died, so that whoever recovered its journal ended its runs.
        """
        found = list[str]()
        for local in sorted(self.said.keys() | self.made):
            runs = store.named(local)
            # One that a person deleted before anybody had heard that it was created is created once more.
            runs = [run for run in runs if not run.deleted] or runs
            if len(runs) != 1:
                found.append(f"{local} was created {len(runs)} times")
                continue
            told = [(one.kind, one.key or "", one.value or "") for one in refusals if one.run == runs[0].run_id]
            found += [
                f"{local}: {text}" for text in self._of_run(local, runs[0], [_thing(*one) for one in told], store, died)
            ]
        return found

    def _of_run(self, local: str, run: KeptRun, told: list[Thing], store: FaultyStore, died: bool) -> list[str]:
        expected = Expected.of(self.said[local])
        if run.deleted:  # by a person, at some time: what it has not got by then is told as refused
            lost = {point for point in expected.points - run.points if ("metric", point[0], str(point[1])) not in told}
            gone = {key for key, value in expected.params.items() if run.params.get(key) != value}
            gone -= {key for kind, key, _ in told if kind == "param"}
            return _lacking("deleted, neither there nor refused:", "points", lost) + _lacking(
                "deleted, neither there nor refused:", "params", gone
            )
        # A tag may name a run by its local id.
        tags = {key: _real(value, store) for key, value in expected.tags.items()}
        ours = {key: value for key, value in run.tags.items() if "tracklayer." not in key}
        bad = {point for point in run.points if is_bad(point[0])}
        found = _lacking("lost", "points", expected.points - run.points)
        found += _lacking("never logged", "points", run.points - expected.points - bad)
        found += _lacking("taken after all", "points", bad)
        found += _unlike("params", expected.params, run.params)
        found += _unlike("tags", tags, ours)
        found += _unlike("artifacts", expected.artifacts, run.artifacts)
        found += _lacking("lost", "datasets", expected.datasets - run.datasets)
        found += _lacking("never logged", "datasets", run.datasets - expected.datasets)
        found += _lacking("not told as refused", "values", expected.refused - set(told))
        found += _lacking("refused without reason", "values", set(told) - expected.refused)
        if expected.name is not None and run.name != expected.name:
            found.append(f"is named {run.name}, not {expected.name}")
        count = run.tags.get(REFUSED_TAG, "0").partition(":")[0]
        if int(count) != len(told):
            found.append(f"{len(told)} values were refused, it was told of {count}")
        return found + self._end(local, expected, run, died)

    def _end(self, local: str, expected: Expected, run: KeptRun, died: bool) -> list[str]:
        wanted: tuple[str, int | None] = ("RUNNING", None)
        if expected.end is not None and expected.end.value is not None:
            wanted = (expected.end.key, expected.end.value)
        elif (local in self.made or expected.end is not None) and died and not expected.left_open:  # made, or reopened
            wanted = ("KILLED", run.end_time)  # when it died is known to its journal only
        there = (run.status, run.end_time)
        return [] if there == wanted else [f"ended as {there}, not as {wanted}"]


def _thing(kind: str, key: str, value: str) -> Thing:
    """A refused value as it is compared: what is told of a dataset is its source, which they share."""
    return kind, key, "" if kind == "input" else value


def _real(value: str, store: FaultyStore) -> str:
    runs = store.named(value)
    return runs[0].run_id if runs else value


def _lacking(how: str, what: str, things: Iterable[Any]) -> list[str]:
    named = sorted(things, key=str)
    return [f"{how} {len(named)} {what}: {named[:SHOWN]}"] if named else []


def _unlike(what: str, wanted: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    keys = sorted(key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key))
    told = [f"{key} is {str(there.get(key))[:40]!r}, not {str(wanted.get(key))[:40]!r}" for key in keys]
    return [f"{len(keys)} {what} differ: {'; '.join(told[:SHOWN])}"] if keys else []
