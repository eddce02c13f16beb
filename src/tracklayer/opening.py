"""What is known about a run before it exists, and what is known once it does: plain data, no requests.

An `Opening` holds all that hooks and settings said, so that creating the run can be done later, and by another process
if need be (see `tracklayer.journal`), with the same answers and the real start time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tracklayer.context import Link, RunContext, RunRef, Token, Upstream

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Everything that creating a run takes; made by `tracklayer.preparation.prepare`.

    Attributes:
        context: where it runs, with the stage filled in, without params and tags: these have been used by now.
        key: the run's key.
        experiment: name of its experiment; None means that of `outer`.
        home: name of the workflow's own experiment, in which its parent is.
        experiment_tags: tags for either experiment, should it have to be created.
        name: the run's name.
        tags: tags that plugins and the user know; masked, and valid for MLflow.
        upstream: the runs that feed it.
        start_time: milliseconds since the epoch.
        outer: the stage run within which this one is opened, and which is its parent; None for the usual case.
        note: the user's own description.
        attempts: as the setting of that name.
        params: params of a workflow run's parent, encoded; a stage run's are logged by the stage.
        artifacts: what those params could not hold, by path.
        parent: how to make the parent, should there be none; None where the run is a parent, or `outer` is.
        strict: True if plugins' failures are raised.
    """

    context: RunContext
    key: str
    experiment: str | None
    home: str
    name: str
    start_time: int
    experiment_tags: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    upstream: tuple[Upstream, ...] = ()
    outer: RunRef | None = None
    note: str = ""
    attempts: Literal["new", "reuse"] = "new"
    params: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    parent: Opening | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run that exists, or (with a provisional id) one that was given out and will.

    Attributes:
        ref: the run.
        parent: the workflow-run parent, or the stage run around it; None for a parent.
        root: run id of the workflow-run parent with which the story began.
        links: the links that were written when it was created.
        made: False if it was there before, so that plugins have been told of it.
        made_parent: the workflow-run parent, where it was made on the way; plugins are told of it, too.
    """

    ref: RunRef
    parent: RunRef | None
    root: str
    links: tuple[Link, ...] = ()
    made: bool = True
    made_parent: Opened | None = None

    @property
    def token(self) -> Token:
        """What is handed over to whatever comes next."""
        return Token(run=self.ref, parent=self.parent, root=self.root)


def milliseconds(moment: datetime | None) -> int:
    """MLflow's time stamp of an aware moment; None is now."""
    return time.time_ns() // 1_000_000 if moment is None else int(moment.timestamp() * 1_000)
