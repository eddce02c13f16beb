"""Tasks that are killed (SIGKILL) at moments of their own, by a seed: spread over their whole life."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.scene import Scene, Task

SIDE_BY_SIDE = 3
TASKS_OF_A_WORKFLOW_RUN = 5


class Killer:
    """Starts tasks and kills each at a moment of its own.

    A third of them after a random time, a third after a random number of calls that were acknowledged, and a third
    before a random line of tracklayer's own code, in whatever thread that is run.

    Attributes:
        killed: how many were killed.
        finished: how many were through before their moment came.
        total: how many calls one makes that nobody kills.
        calls: by how many calls had been acknowledged when one ended.
    """

    def __init__(self, stage: Scene, seed: int) -> None:
        """Measure how long a task lives, on the sound server.

        Args:
            stage: where they run.
            seed: for the dice.
        """
        self._stage = stage
        self._dice = random.Random(seed)
        self.calls: Counter[int] = Counter()
        self.killed = 0
        self.finished = 0
        measured = stage.start("measured", close=False, stages=1, rounds=1, trace=-1)
        stage.ends_as_untracked(measured)
        (told,) = [place for place in measured.ledger().places if place.startswith("lines ")]
        self._lines = int(told.removeprefix("lines "))
        plain = stage.start("plain", close=False, stages=1, rounds=1)
        self._seconds = stage.ends_as_untracked(plain).seconds
        self._untracked = stage.untracked(plain.plan)
        self.total = plain.ledger().acknowledged()

    def kill(self, numbers: range) -> None:
        """Start tasks with these numbers, some side by side, and kill them."""
        waiting = list(numbers)
        running: list[tuple[Task, Callable[[], bool]]] = []
        while waiting or running:
            while waiting and len(running) < SIDE_BY_SIDE:
                running.append(self._start(waiting.pop(0)))
            for one in list(running):
                task, is_time = one
                ended = task.child.ended()
                if ended is None:
                    if is_time():
                        task.child.kill()
                    continue
                running.remove(one)
                if ended.code != -9:  # its moment had not come, or came too late
                    ended.is_as(self._untracked)
                    if not task.plan.trace:  # perhaps the machine stood still while a life was measured
                        self._seconds = min(self._seconds, ended.seconds)
                self.calls[task.ledger().acknowledged()] += 1
                self.killed += ended.code == -9
                self.finished += ended.code != -9
            time.sleep(0.002)

    def close(self) -> None:
        """End all their workflow runs, as an orchestrator does."""
        for run in sorted({task.plan.run_id for task in self._stage.tasks}):
            self._stage.ends_as_untracked(self._stage.start(f"closing-{run}", run_id=run, stages=0))

    def _start(self, number: int) -> tuple[Task, Callable[[], bool]]:
        """Start a task; the task, and whether its moment has come."""
        way = number % 3
        task = self._stage.start(
            f"k{number}",
            run_id=f"r{number // TASKS_OF_A_WORKFLOW_RUN}",
            close=False,
            stages=1,
            rounds=1,
            trace=self._dice.randrange(1, self._lines) if way == 2 else 0,
        )
        if way == 0:
            moment = time.monotonic() + self._dice.uniform(0, 1.1 * self._seconds)
            return task, lambda: time.monotonic() >= moment
        if way == 1:
            calls = self._dice.randrange(self.total)
            return task, lambda: task.ledger().acknowledged() >= calls
        return task, lambda: False
