"""Which runs are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LINKS_SINCE: Final = timedelta(days=30)
"""Links and parents of runs that started longer ago are not looked at, unless asked for; what is open always is."""

GONE_AFTER: Final = timedelta(days=1)
"""Runs that their orchestrator has deleted are left alone for so long, unless asked otherwise: it may be restored."""

LIMIT: Final = 10_000
"""At most so many findings are kept at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which runs are looked at, and from when on age alone is enough.

    Attributes:
        orchestrators: only these (``airflow``, ``script``, …); empty for all.
        workflows: only these workflows; empty for all.
        experiments: only experiments of these names; empty for all active ones.
        since: only runs that started in this time before now. None: all that are open, and for links and parents
            `LINKS_SINCE`.
        older_than: runs of which nobody can say what has become of them because their machine is another one
            (scripts), or because their orchestrator has deleted them, are ended if they started longer ago than
            this. None: the former are left alone, the latter are ended after `GONE_AFTER`.
        limit: stop after so many findings; the next examination finds the rest.
    """

    orchestrators: frozenset[str] = frozenset()
    workflows: frozenset[str] = frozenset()
    experiments: frozenset[str] = frozenset()
    since: timedelta | None = None
    older_than: timedelta | None = None
    limit: int = LIMIT

    def covers(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags of tracklayer's is to be looked at."""
        orchestrator, workflow = tags.get("tracklayer.orchestrator"), tags.get("tracklayer.workflow")
        return (not self.orchestrators or orchestrator in self.orchestrators) and (
            not self.workflows or workflow in self.workflows
        )
