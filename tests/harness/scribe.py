"""User code that logs at random to a journal, and takes down what the journal acknowledged."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.faulty_store import FAILING, REFUSED
from tracklayer.description import NOTE_TAG, recomposed
from tracklayer.identity import PARENT_TAG
from tracklayer.journal.failures import JournalFull
from tracklayer.journal.operations import (
    Artifact,
    Create,
    DeleteTag,
    End,
    GivenOut,
    Inputs,
    LeftOpen,
    Linked,
    Log,
    Point,
    Rename,
)
from tracklayer.provisional import provisional_id
from tracklayer.store import Dataset

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from harness.acknowledged import Acknowledged
    from tracklayer.context import Status
    from tracklayer.journal.live import LiveJournal
    from tracklayer.journal.operations import Operation

LOGGED = 1_700_000_000_000
"""When the points were logged, in milliseconds since the epoch."""

AGO = 10_000_000
"""So many milliseconds ago the runs end, so that all of these ends are delivered late."""

RUNS = 7
"""Most runs of a journal."""

ENDS: Final[tuple[Status, ...]] = ("FINISHED", "FAILED")


@dataclass(frozen=True)
class Profile:
    """How user code logs, and how often it is delivered meanwhile.

    Attributes:
        name: what it is called.
        rounds: fewest and most rounds of calls, each with some steps of delivery behind it.
        calls: most calls of a round.
        limits: bytes that the journal may take, one of these.
        whole: how probably a step sends what does not fill a request, too.
        weights: how often each kind of call is made, against the others.
    """

    name: str
    rounds: tuple[int, int]
    calls: int
    limits: tuple[int, ...]
    whole: float
    weights: Mapping[str, float]


class Scribe:
    """Makes calls, one at a time.

    Attributes:
        runs: local ids of the runs to which it logs.
    """

    def __init__(
        self,
        chance: random.Random,
        journal: LiveJournal,
        acknowledged: Acknowledged,
        runs: list[str],
        *,
        elsewhere: str,
        bad: tuple[str, ...],
    ) -> None:
        """Log nothing yet.

        Args:
            chance: what it does.
            journal: where to.
            acknowledged: what the journal took.
            runs: local ids of runs that there are.
            elsewhere: local id of a run that another process makes, perhaps later.
            bad: how values begin that the store does not take, of which some are logged; empty for none.
        """
        self.runs = runs
        self._chance = chance
        self._journal = journal
        self._acknowledged = acknowledged
        self._elsewhere = elsewhere
        self._bad = bad
        self._number = 0
        self._steps: dict[str, int] = defaultdict(int)
        self._ended_at = int(time.time() * 1_000) - AGO

    def call(self, profile: Profile) -> None:
        """Make a call of some kind. Raises JournalClosed once its process is killed."""
        self._number += 1
        (kind,) = self._chance.choices(list(profile.weights), list(profile.weights.values()))
        run = self._chance.choice(self.runs)
        {
            "points": lambda: self._log(run, points=self._chance.randint(1, 3)),
            "many points": lambda: self._log(run, points=self._chance.randint(1, 400)),
            "params": lambda: self._log(run, params=self._chance.randint(1, 5)),
            "tags": lambda: self._log(run, tags=self._chance.randint(1, 4)),
            "all of it": lambda: self._log(
                run,
                points=self._chance.randint(1, 50),
                params=self._chance.randint(1, 5),
                tags=self._chance.randint(1, 4),
            ),
            "dataset": lambda: self._dataset(run),
            "untag": lambda: self._untag(run),
            "name": lambda: self._rename(run),
            "end": lambda: self._end(run),
            "reopen": lambda: self._reopen(run),
            "leave": lambda: self._leave(run),
            "link": lambda: self._link(run),
            "child": lambda: self._create(run),
            "artifact": lambda: self._artifact(run),
            "elsewhere": lambda: self._name_elsewhere(run),
        }[kind]()

    def _log(self, run: str, *, points: int = 0, params: int = 0, tags: int = 0) -> None:
        steps = range(self._steps[run] + 1, self._steps[run] + points + 1)
        self._steps[run] += points
        told = [Point(self._spoilt(0.0005) or "loss", step / 3, LOGGED + step, step) for step in steps]
        said = dict(self._param() for _ in range(params))
        tagged = dict(self._tag() for _ in range(tags))
        before = self._journal.end
        if self._append(Log(run, tuple(told), said, tagged)):
            for point in told:
                kept = (point.key, point.value, point.timestamp, point.step)
                self._acknowledged.say(run, "metric", point.key, kept)
        elif self._journal.end == before:
            return
        # Of a full journal points are kept out, and the rest of their record may go in.
        for key, value in said.items():
            self._acknowledged.say(run, "param", key, value)
        for key, value in tagged.items():
            self._acknowledged.say(run, "tag", key, value)

    def _param(self) -> tuple[str, str]:
        """A param; some are said twice, with the same value or another one."""
        if bad := self._spoilt(0.05):
            return f"spoilt{self._number}", bad
        value = str(self._number) if self._chance.random() < 0.7 else "same"
        return f"p{self._chance.randint(0, 60)}", value

    def _tag(self) -> tuple[str, str]:
        if bad := self._spoilt(0.03):
            return f"spoilt{self._number}", bad
        return f"t{self._chance.randint(0, 8)}", str(self._number)

    def _spoilt(self, often: float) -> str:
        """A value that the store does not take; empty most of the time."""
        if not self._bad or self._chance.random() >= often:
            return ""
        return f"{self._chance.choice(self._bad)}.{self._number}.{self._chance.random()}"

    def _dataset(self, run: str) -> None:
        # Those with which a store fails are given up as values are; refused ones are enough here.
        name = f"{REFUSED}.{self._number}" if self._spoilt(0.1) else f"d{self._number}"
        if self._append(Inputs(run, (Dataset(name=name, digest="x", source_type="http", source="{}"),))):
            self._acknowledged.say(run, "input", name)

    def _untag(self, run: str) -> None:
        key = f"t{self._chance.randint(0, 8)}"
        if self._append(DeleteTag(run, key)):
            self._acknowledged.say(run, "tag", key)

    def _rename(self, run: str) -> None:
        if self._append(Rename(run, f"name{self._number}")):
            self._acknowledged.say(run, "name", value=f"name{self._number}")

    def _end(self, run: str) -> None:
        self._ended_at += 1
        status = self._chance.choice(ENDS)
        if self._append(End(run, status, self._ended_at)):
            self._acknowledged.say(run, "end", status, self._ended_at)

    def _reopen(self, run: str) -> None:
        ended = any(one.kind == "end" for one in self._acknowledged.said[run])
        if ended and self._append(End(run, "RUNNING", None)):
            self._acknowledged.say(run, "end", "RUNNING")

    def _leave(self, run: str) -> None:
        if self._append(LeftOpen(run)):
            self._acknowledged.say(run, "open", value=True)

    def _link(self, run: str) -> None:
        note = f"links {self._number}"
        if self._append(Linked(run, note)):
            self._acknowledged.say(run, "tag", NOTE_TAG, recomposed("", note))

    def _create(self, parent: str) -> None:
        if len(self.runs) >= RUNS:
            return
        run = provisional_id()
        tags = {"own": "1", PARENT_TAG: parent}
        if self._spoilt(0.3):
            tags["spoilt"] = f"{REFUSED}.{self._number}"
        if self._append(Create(run, "1", f"child{self._number}", LOGGED, tags, parent)):
            self._acknowledged.made.add(run)
            self._append(GivenOut(run))
            self.runs.append(run)
            for key, value in tags.items():
                self._acknowledged.say(run, "tag", key, value)

    def _artifact(self, run: str) -> None:
        content = str(self._number).encode() * self._chance.randint(1, 300)
        path = f"a{self._chance.randint(0, 5)}"
        try:
            copy = self._journal.keep(content)
        except JournalFull:
            return
        if self._append(Artifact(run, path, copy)):
            self._acknowledged.say(run, "artifact", path, content)

    def _name_elsewhere(self, run: str) -> None:
        if self._append(Log(run, tags={PARENT_TAG: self._elsewhere})):
            self._acknowledged.say(run, "tag", PARENT_TAG, self._elsewhere)

    def _append(self, operation: Operation) -> bool:
        try:
            self._journal.append(operation)
        except JournalFull:
            return False
        return True


def bad_values(chance: random.Random) -> tuple[str, ...]:
    """How the values begin that the store of one story does not take."""
    return chance.choices(((), (REFUSED,), (REFUSED, FAILING)), (0.6, 0.2, 0.2))[0]
