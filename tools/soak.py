"""The long version of the fault tests: ``make soak``. Seeded; shows progress, ends with a table, and writes a page.

``python tools/soak.py --help`` says what can be made shorter. Everything runs against real MLflow servers that it
starts itself, on SQLite and, where a PostgreSQL server is there for the tests, on PostgreSQL.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from harness.backends import backends  # noqa: E402 - the tests' own harness, found by the line above
from harness.faults import INJURIES, STRICT, Unreliable  # noqa: E402 - the same
from harness.killing import Killer  # noqa: E402 - the same
from harness.mlflow import MlflowServer  # noqa: E402 - the same
from harness.proxy import RecordingProxy  # noqa: E402 - the same
from harness.scene import Scene  # noqa: E402 - the same
from harness.warm import Warm  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = ROOT / "docs" / "reference" / "soak.md"
CHUNK = 100
"""So many tasks are killed before what they left is delivered and compared."""


@dataclass(frozen=True)
class Row:
    """What one part of the soak found.

    Attributes:
        part: what was done.
        database: on which database.
        tasks: processes with user code.
        calls: calls of tracklayer or mlflow that were acknowledged.
        points: metric points among what was acknowledged.
        seconds: how long it took.
        wrong: what the comparison found.
    """

    part: str
    database: str
    tasks: int
    calls: int
    points: int
    seconds: float
    wrong: tuple[str, ...]


class Soak:
    """Runs the parts against one server.

    Attributes:
        rows: what they found.
    """

    def __init__(
        self, options: argparse.Namespace, server: MlflowServer, database: str, warm: Warm, folder: Path
    ) -> None:
        self._options = options
        self._server = server
        self._database = database
        self._warm = warm
        self._folder = folder
        self._dice = random.Random(options.seed)  # noqa: S311 - dice, no secret
        self._count = 0
        self.rows: list[Row] = []

    def run(self) -> None:
        """All parts, one after the other."""
        options = self._options
        self._part(f"SIGKILL at {options.kills:,} random moments", self._kills)
        self._part(f"half of all requests injured, {options.rounds} × {len(INJURIES) + 2} ways", self._injuries)
        self._part(f"server killed and restarted {options.restarts} times", self._restarts)
        self._part(f"server frozen for {options.freeze:g} s", self._freeze)
        self._part(f"{options.points:,} metric points", self._points)

    def _scene(self, uri: str, **environ: str) -> Scene:
        self._count += 1
        return Scene(self._warm, self._folder / str(self._count), uri, environ=environ)

    def _part(self, part: str, work: Callable[[], Iterator[tuple[Scene, list[str]]]]) -> None:
        say(f"{self._database}: {part}")
        before = time.monotonic()
        tasks = calls = points = 0
        wrong: list[str] = []
        for scene, found in work():
            wrong += found
            tasks += len(scene.tasks)
            for task in scene.tasks:
                done = [entry for entry in task.ledger().entries if entry.done]
                calls += len(done)
                points += sum(entry.told["last"] - entry.told["first"] + 1 for entry in done if entry.kind == "points")
            say(f"  {tasks:,} tasks, {calls:,} calls, {points:,} points; {len(wrong)} wrong")
            for one in found[:10]:
                say(f"  WRONG: {one}")
        self.rows.append(Row(part, self._database, tasks, calls, points, time.monotonic() - before, tuple(wrong)))

    def _kills(self) -> Iterator[tuple[Scene, list[str]]]:
        for start in range(0, self._options.kills, CHUNK):
            numbers = range(min(CHUNK, self._options.kills - start))
            with RecordingProxy(self._server.uri) as proxy:
                scene = self._scene(proxy.uri, TRACKLAYER_LINGER="2")
                killer = Killer(scene, self._options.seed + start)
                half = len(numbers) // 2
                killer.kill(numbers[:half])
                with proxy.refused():
                    killer.kill(numbers[half : half + half // 2])
                killer.kill(numbers[half + half // 2 :])
                scene.deliver_and_be_killed(3, self._dice)
                scene.deliver()
                found = scene.differences(self._server, died=True, closed=False)
                killer.close()
                yield scene, found + scene.differences(self._server, died=True)

    def _injuries(self) -> Iterator[tuple[Scene, list[str]]]:
        for _ in range(self._options.rounds):
            for name in (*INJURIES, "silence", "late"):
                with Unreliable(self._server.uri, [name], chance=0.5, seed=self._dice.getrandbits(32)) as proxy:
                    scene = self._scene(proxy.uri, TRACKLAYER_TIMEOUT="1")
                    tasks = [scene.start(f"t{number}", pace=0.02, close=False) for number in range(2)]
                    for task in tasks:
                        scene.ends_as_untracked(task)
                    proxy.sound()
                    yield scene, self._closed(scene)

    def _restarts(self) -> Iterator[tuple[Scene, list[str]]]:
        for _ in range(self._options.restarts):
            scene = self._scene(self._server.uri)
            tasks = [scene.start(f"t{number}", pace=0.02, close=False) for number in range(4)]
            time.sleep(self._dice.uniform(0.05, 1.5))
            self._server.kill()
            tasks += [scene.start(f"absent{number}", close=False) for number in range(2)]
            time.sleep(self._dice.uniform(0, 3))
            self._server.start()
            for task in tasks:
                scene.ends_as_untracked(task)
            yield scene, self._closed(scene)

    def _freeze(self) -> Iterator[tuple[Scene, list[str]]]:
        scene = self._scene(self._server.uri)
        tasks = [
            scene.start("within", pauses=("train-0",), pace=0.01, close=False),
            scene.start("on", pauses=("train-0", "evaluate-1"), pace=0.01, close=False),
        ]
        for task in tasks:
            task.at("train-0")
            task.go("train-0")
        time.sleep(0.3)
        self._server.freeze()
        try:
            time.sleep(self._options.freeze)
        finally:
            self._server.thaw()
        tasks[1].go("evaluate-1")
        for task in tasks:
            scene.ends_as_untracked(task)
        yield scene, self._closed(scene)

    def _points(self) -> Iterator[tuple[Scene, list[str]]]:
        scene = self._scene(self._server.uri)
        task = scene.start("many", children="volume", points=self._options.points, rounds=0, stages=1, close=False)
        scene.ends_as_untracked(task, seconds=3600)
        yield scene, self._closed(scene)

    def _closed(self, scene: Scene) -> list[str]:
        """Deliver, end the workflow run, and compare."""
        scene.deliver(seconds=3600)
        found = scene.differences(self._server, closed=False)
        scene.ends_as_untracked(scene.start("closing", stages=0))
        return found + scene.differences(self._server)


def say(text: str) -> None:
    """Show progress."""
    sys.stdout.write(f"{dt.datetime.now(dt.UTC):%H:%M:%S} {text}\n")
    sys.stdout.flush()


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| what | database | tasks | calls acknowledged | points | seconds | lost, double, strange, RUNNING |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.part} | {row.database} | {row.tasks:,} | {row.calls:,} | {row.points:,} | {row.seconds:.0f} "
        f"| {len(row.wrong)} |"
        for row in rows
    ]
    return "\n".join(lines)


def page(options: argparse.Namespace, shortened: bool, rows: list[Row], seconds: float) -> str:
    """The page with the last result."""
    size = "**shortened**, as its options say" if shortened else "of the full length"
    told = " ".join(f"--{name} {value}" for name, value in sorted(vars(options).items()) if name != "page")
    return f"""# The soak's last result

`make soak` runs the [fault tests](promises.md) for long. This page is written by it: every number was measured by the
run that is told of here.

- Run of {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {size}: `tools/soak.py {told}`
- {seconds / 60:.0f} minutes; Python {platform.python_version()}, MLflow {version("mlflow")}

{table(rows)}

The last column counts what the comparison of the ledgers with MLflow found wrong; 0 is what is
[promised](promises.md).
"""


FULL = {"kills": 2_000, "rounds": 10, "restarts": 20, "freeze": 30.0, "points": 1_000_000}


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=20261121)
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"full length: {value:,}")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    return parser.parse_args()


def main() -> int:
    """Soak, and say what was found: 0 if nothing."""
    options = parse()
    shortened = any(getattr(options, name) != value for name, value in FULL.items())
    rows: list[Row] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tracklayer-soak-") as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        databases = {"SQLite": f"sqlite:///{folder / 'mlflow.db'}"}
        trouble = backends()["postgresql"].trouble()
        if trouble:
            say(f"without PostgreSQL: {trouble}")
        else:
            databases["PostgreSQL"] = stack.enter_context(backends()["postgresql"].database())
        warm = stack.enter_context(Warm())
        for name, uri in databases.items():
            with MlflowServer(uri, folder / name, environ=STRICT) as server:
                soak = Soak(options, server, name, warm, folder / f"{name}-scenes")
                try:
                    soak.run()
                finally:
                    rows += soak.rows
    options.page.write_text(page(options, shortened, rows, time.monotonic() - begun))
    sys.stdout.write(f"\n{table(rows)}\n\nwritten: {options.page}\n")
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
