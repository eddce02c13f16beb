"""A fault test's scene: processes that run user code against a server, a journal folder, ledgers; and how it ends."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from harness import audit, found, ledger
from harness.plan import Plan
from harness.process import wait_for
from harness.warm import Child, Ended, Warm, fresh
from tracklayer.journal.folder import JournalFolder, is_settled

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from pathlib import Path

    from harness.mlflow import MlflowServer


PATIENT: Final = {"TRACKLAYER_PATIENCE": "20", "TRACKLAYER_LINGER": "60"}
"""Variables for who must have delivered everything when it ends: a busy machine is no server that is away."""


class Task:
    """User code that runs, or has run, with its ledger."""

    def __init__(self, plan: Plan, child: Child, path: Path) -> None:
        self.plan = plan
        self.child = child
        self._path = path

    def ledger(self) -> ledger.Read:
        """What it has been told so far."""
        return ledger.read(self._path)

    def at(self, place: str, seconds: float = 60.0) -> None:
        """Wait until it has come to a place."""
        wait_for(lambda: self._came(place), seconds, f"coming of {self.plan.label} to {place}")

    def go(self, place: str) -> None:
        """Let it go on from a place at which its plan has it wait."""
        self._path.with_name(f"{self._path.name}.go-{place}").touch()

    def _came(self, place: str) -> bool:
        if place in self.ledger().places:
            return True
        ended = self.child.ended()
        if ended is not None and place not in self.ledger().places:
            raise RuntimeError(f"{self.plan.label} ended with {ended.code} before {place}:\n{ended.errors[-3000:]}")
        return False


class Scene:
    """One workflow, its processes and their journals.

    Attributes:
        workflow: its name; that of its experiment, too.
        journal: the folder of journals.
        tasks: all that was started, in order.
    """

    def __init__(self, warm: Warm, folder: Path, uri: str, *, environ: Mapping[str, str] | None = None) -> None:
        """Set it.

        Args:
            warm: makes the processes.
            folder: for journals, ledgers and output; made.
            uri: the tracking URI.
            environ: more variables for all processes.
        """
        self.warm = warm
        self.folder = folder
        self.workflow = f"faults-{uuid.uuid4().hex[:8]}"
        self.journal = folder / "journal"
        self.tasks: list[Task] = []
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.environ = {
            "MLFLOW_TRACKING_URI": uri,
            "TRACKLAYER_JOURNAL": str(self.journal),
            "TMPDIR": str(folder / "tmp"),  # where journals go that have no other place
            **(environ or {}),
        }

    def start(
        self,
        label: str,
        *,
        new: bool = False,
        hold: str = "",
        environ: Mapping[str, str] | None = None,
        **options: object,
    ) -> Task:
        """Start user code.

        Args:
            label: what it is called.
            new: True: in a process that imports everything itself.
            hold: see `Warm.run`.
            environ: variables for it alone.
            options: of its `Plan`.
        """
        path = self.folder / f"{label}.ledger"
        told = {"ledger": str(path), "workflow": self.workflow, "label": label, **options}
        plan = Plan(**told)  # type: ignore[arg-type]
        variables = {**self.environ, **(environ or {})}
        start = fresh(plan, self.folder, variables) if new else self.warm.run(plan, self.folder, variables, hold=hold)
        self.tasks.append(Task(plan, start, path))
        return self.tasks[-1]

    def untracked(self, plan: Plan) -> Ended:
        """How the same code ends untracked."""
        bare = replace(plan, tracked=False, pauses=(), pace=0.0, trace=0)
        return self.warm.run(bare, self.folder, {}).wait()

    def ends_as_untracked(self, task: Task, seconds: float = 120.0) -> Ended:
        """Wait for the end of a task; it must be that of the same code untracked."""
        ended = task.child.wait(seconds)
        ended.is_as(self.untracked(task.plan))
        return ended

    def deliver(self, *, times: int = 3, seconds: float = 180.0, misplaced: bool = False) -> None:
        """``tracklayer flush``, as people run it after an outage; then no journal may be left.

        It may say that values were refused: some of the calls of `harness.once` ask for that.

        Args:
            times: so often at most.
            seconds: for each.
            misplaced: whether the journals cannot be where the settings say, which it has to complain of.
        """
        told = ""
        for _ in range(times):
            ended = self.warm.command(["flush"], self.folder, self.environ).wait(seconds)
            told += f"{ended.output}\n{ended.errors}"
            assert ended.code in ({1} if misplaced else {0, 3}), told[-4000:]
            if not self.left():
                return
        refused = [path.read_text() for path in self.journal.glob("*/refused.jsonl")]
        assert self.left() == [], "\n".join([told[-4000:], *refused])

    def deliver_and_be_killed(self, times: int, dice: random.Random) -> int:
        """Kill ``tracklayer flush`` at random moments, two side by side; how many were through before.

        Each takes up where the one before was killed.
        """
        through = 0
        for _ in range(times):
            running = [self.warm.command(["flush"], self.folder, self.environ) for _ in range(2)]
            time.sleep(dice.uniform(0.02, 1.0))
            for child in running:
                through += child.ended() is not None
                child.kill()
                child.wait()
        return through

    def left(self) -> list[str]:
        """Names of the journals that are there.

        Not among them is one that is kept for what the server refused, and nothing else; nor what a process left that
        was killed while it made or removed one: nothing that was acknowledged is in it, and it is swept an hour later.
        """
        return [path.name for path in JournalFolder(self.journal).paths() if not is_settled(path)]

    def refusals(self) -> list[dict[str, str]]:
        """The dead letters of all journals: what the server refused for good."""
        files = self.journal.glob("*/refused.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def differences(
        self,
        server: MlflowServer,
        *,
        died: bool = False,
        closed: bool = True,
        login: str | None = None,
    ) -> list[str]:
        """See `harness.audit.differences`."""
        runs = found.runs_of(server, self.workflow, login=login)
        return audit.differences([task.ledger() for task in self.tasks], runs, died=died, closed=closed)
