"""A workflow in MLflow with an orchestrator that says what has become of it, for the tests of reconciling."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from harness.orchestrator import NAME, PLUGIN, Truth
from harness.story import Author
from tracklayer.backend import Backend
from tracklayer.identity import workflow_run_key
from tracklayer.reconcile import Findings, Repair, Scope, examine, repair
from tracklayer.settings import Settings
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from tracklayer.context import RunRef
    from tracklayer.store import Run

PARENT = "mlflow.parentRunId"
SETTINGS = Settings(plugins=(PLUGIN,), disabled_plugins=("airflow", "git", "kubeflow", "prefect"))
ENDED = datetime(2027, 1, 1, 12, 30, tzinfo=UTC)
"""When whatever has ended did so, for an orchestrator."""

MILLISECONDS = int(ENDED.timestamp() * 1_000)
"""The same for MLflow."""


class World:
    """One workflow in one experiment of its own, and what its orchestrator says of it (`truth`)."""

    def __init__(self, uri: str, truth: Truth) -> None:
        self.truth = truth
        self.store = open_store(uri, connect_timeout=5, timeout=30)
        self.backend = Backend(self.store, uri)
        self.author = Author(self.store)
        self.run_id = f"r-{uuid.uuid4().hex[:8]}"
        self.context, self.parent = self.author.workflow_run(NAME, "flights", self.run_id)
        self.name = self.context.workflow_run.workflow
        self.open(self.parent)

    @property
    def key(self) -> str:
        """The workflow run's."""
        return workflow_run_key(self.context.workflow_run)

    def scope(self, **told: Any) -> Scope:
        """All of this world; stories begin in the past."""
        return Scope(experiments=frozenset([self.name]), since=timedelta(days=3_000), **told)

    def stage(self, task: str, **told: Any) -> RunRef:
        """A stage run that is open."""
        return self.author.stage(self.context, task, "training", status=None, **told)

    def nested(self, below: RunRef, **tags: str) -> Run:
        """A run that user code starts below another one through mlflow."""
        own = {PARENT: below.run_id, **tags}
        return self.store.create_run(below.experiment_id, name="trial", start_time=self.author.clock, tags=own)

    def tagged(self, run: RunRef, **tags: str) -> None:
        """Tag a run."""
        self.store.log_batch(run.run_id, tags=tags)

    def open(self, run: RunRef) -> None:
        """Have a run be open again."""
        self.store.update_run(run.run_id, status="RUNNING")

    def get(self, run: RunRef | Run) -> Run:
        """A run as it is now."""
        return self.store.get_run(run.run_id)

    def status(self, run: RunRef | Run) -> str:
        """The status of a run now."""
        return self.get(run).status

    def examine(self, **told: Any) -> Findings:
        """What there is to repair in it; changes nothing."""
        return examine(self.backend, SETTINGS, self.scope(**told))

    def repair(self, **told: Any) -> list[Repair]:
        """Repair it; no repair may fail."""
        done = repair(self.examine(**told).found, self.backend, SETTINGS)
        assert not [item for item in done if item.error]
        return done


def found(findings: Findings) -> dict[str, str]:
    """Run ids with the kind of what was found."""
    return {finding.run.run_id: finding.kind for finding in findings.found}
