"""What an examination finds: one frozen value for each thing that is wrong, which says what would be changed and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.context import RunRef, Status, Upstream


def moment(milliseconds: int) -> str:
    """A time stamp of MLflow's for people and for JSON: ISO 8601 in UTC, to the second."""
    try:
        return datetime.fromtimestamp(milliseconds / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # whatever a foreign client wrote there
        return f"{milliseconds} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A stage run, or a run of user code below one, is open, though its task or workflow run has ended.

    Attributes:
        run: the run.
        status: what it is to end with.
        ended_at: when it ended, in milliseconds since the epoch; None where nobody knows: then it is now.
        because: who says so, in words.
        note: becomes the tag ``tracklayer.outcome``; None for no tag.
        own: False for a run of user code.
    """

    kind: ClassVar[str] = "open-run"
    title: ClassVar[str] = "Open runs whose task or workflow run has ended"

    run: RunRef
    status: Status
    ended_at: int | None
    because: str
    note: str | None = None
    own: bool = True

    @property
    def change(self) -> str:
        """What would be changed, in words."""
        return f"RUNNING → {self.status}, {'ended ' + moment(self.ended_at) if self.ended_at else 'ended by now'}"

    @property
    def details(self) -> Mapping[str, str | None]:
        """What would be changed, by name."""
        return {"status": self.status, "ended_at": moment(self.ended_at) if self.ended_at else None}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenParent(OpenRun):
    """The parent of a workflow run is open, though the workflow run has ended; attributes as for `OpenRun`."""

    kind: ClassVar[str] = "open-parent"
    title: ClassVar[str] = "Parents of workflow runs that have ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class UntoldEnd(OpenRun):
    """A task ended without a process of its own, nobody told how, and its run does not say so.

    Attributes, beside those of `OpenRun`:
        before: the run's status; ``RUNNING`` where its workflow run goes on.
    """

    kind: ClassVar[str] = "untold-end"
    title: ClassVar[str] = "Runs whose tasks ended otherwise than they say"

    before: str

    @property
    def change(self) -> str:
        """What would be changed, in words."""
        return f"{self.before} → {self.status}, ended {moment(self.ended_at or 0)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateParent:
    """A workflow run has another parent, the elected one; this one goes, and what is below it and linked to it moves.

    Attributes:
        run: the parent that goes.
        elected: the one that stays.
        because: why that one, in words.
    """

    kind: ClassVar[str] = "duplicate-parent"
    title: ClassVar[str] = "Duplicate parents of one workflow run"

    run: RunRef
    elected: RunRef
    because: str

    @property
    def change(self) -> str:
        """What would be changed, in words."""
        return f"deleted; what is below it goes to {self.elected.run_id}"

    @property
    def details(self) -> Mapping[str, str | None]:
        """What would be changed, by name."""
        return {"elected": self.elected.run_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinRun:
    """A task's try has two runs: a server that hung carried out a request that had been repeated by then.

    Attributes:
        run: the run that nobody has heard of, and that goes.
        kept: the one that stays.
        because: why that one, in words.
    """

    kind: ClassVar[str] = "twin-run"
    title: ClassVar[str] = "Second runs of one try"

    run: RunRef
    kept: RunRef
    because: str

    @property
    def change(self) -> str:
        """What would be changed, in words."""
        return f"deleted; {self.kept.run_id} stays"

    @property
    def details(self) -> Mapping[str, str | None]:
        """What would be changed, by name."""
        return {"kept": self.kept.run_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class MisplacedRun:
    """A run is below a parent, or linked to one, that is in the trash or gone, while that workflow run has a parent.

    Attributes:
        run: the run.
        parent: id of the parent that is gone.
        elected: the parent that there is.
        because: what has become of the other, in words.
    """

    kind: ClassVar[str] = "misplaced-run"
    title: ClassVar[str] = "Runs that lead to a parent that is gone"

    run: RunRef
    parent: str
    elected: RunRef
    because: str

    @property
    def change(self) -> str:
        """What would be changed, in words."""
        return f"what led to {self.parent} leads to {self.elected.run_id}"

    @property
    def details(self) -> Mapping[str, str | None]:
        """What would be changed, by name."""
        return {"parent": self.parent, "elected": self.elected.run_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnresolvedId:
    """A tag holds an id that was given out while the server was away, and the run that it stands for exists by now.

    Attributes:
        run: the run that has the tag.
        tag: the tag's name.
        given_out: the id in its name or value.
        found: the run that it stands for.
    """

    kind: ClassVar[str] = "unresolved-id"
    title: ClassVar[str] = "Links that never resolved"
    because: ClassVar[str] = "the run exists by now"

    run: RunRef
    tag: str
    given_out: str
    found: RunRef

    @property
    def change(self) -> str:
        """What would be changed, in words."""
        return f"{self.tag.replace(self.given_out, '…')}: {self.given_out} is {self.found.run_id}"

    @property
    def details(self) -> Mapping[str, str | None]:
        """What would be changed, by name."""
        return {"tag": self.tag, "given_out": self.given_out, "found": self.found.run_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDataset:
    """A run consumed a dataset of which no producer was known then, and one is by now.

    Attributes:
        run: the consumer.
        tag: the tag that says what is wanted.
        found: the link to the producer, with the dataset.
    """

    kind: ClassVar[str] = "wanted-dataset"
    title: ClassVar[str] = "Datasets whose producer was not known"
    because: ClassVar[str] = "its producer is known by now"

    run: RunRef
    tag: str
    found: Upstream

    @property
    def change(self) -> str:
        """What would be changed, in words."""
        return f"linked to {self.found.run.run_id}, which produced {self.found.dataset}"

    @property
    def details(self) -> Mapping[str, str | None]:
        """What would be changed, by name."""
        return {"found": self.found.run.run_id, "dataset": self.found.dataset, "digest": self.found.digest}


Finding: TypeAlias = (
    OpenRun | OpenParent | UntoldEnd | DuplicateParent | TwinRun | MisplacedRun | UnresolvedId | WantedDataset
)
"""Everything that can be found and repaired."""

KINDS: tuple[type[Finding], ...] = (
    OpenRun,
    OpenParent,
    UntoldEnd,
    DuplicateParent,
    TwinRun,
    MisplacedRun,
    UnresolvedId,
    WantedDataset,
)
"""Every kind, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """Something is not as it should be, and nobody can say what would be right.

    Attributes:
        run: the run.
        because: what is not known, in words.
    """

    run: RunRef
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an examination found.

    Attributes:
        found: what can be repaired.
        left_alone: what cannot, or not yet; the first ones of many.
        unknown: how many there are of those.
        looked_at: how many runs were looked at.
        covered: how many of these are tracklayer's own and within the scope; the others were passed over.
        more: True if it stopped at the scope's limit: examine again after repairing.
        unasked: of how many runs nobody knows anything because their orchestrator could not be asked.
    """

    found: Sequence[Finding] = ()
    left_alone: Sequence[LeftAlone] = ()
    unknown: int = 0
    looked_at: int = 0
    covered: int = 0
    more: bool = False
    unasked: int = 0

    def of(self, kind: type[Finding]) -> list[Finding]:
        """The findings of exactly this kind, in the order in which they were made."""
        return [finding for finding in self.found if type(finding) is kind]
