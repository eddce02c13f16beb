"""What logging costs with the journal in between: each call, delivery, memory, outages; and what survives a kill.

Everything is compared within one run on one real server, in turns, so that a busy moment of the machine hits all sides.
Beside tracklayer: MLflow's own calls, one request each, and asynchronous; and Weights & Biases, offline. Budgets: the
issue and the design.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import chart  # noqa: E402
import tutorial  # noqa: E402
from figures import Figure, figure, report  # noqa: E402
from logging_ways import Way, started  # noqa: E402
from outages import task  # noqa: E402
from throughput import deliveries, deliveries_apart, deliveries_in_memory, deliveries_steady, points_of  # noqa: E402
from wandb_environment import points_in, wandb_python  # noqa: E402

from harness.backends import backends  # noqa: E402
from harness.mlflow import MlflowServer  # noqa: E402
from harness.proxy import RecordingProxy, black_hole, refused_port  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        turns: how often the ways of calling take turns.
        calls: calls a turn; the ways that send a request for each call make fewer.
        batches: batches of 1,000 points a turn of delivery.
        deliveries: turns of delivery.
        scripts: turns of the tutorial's script.
        outages: turns of each outage.
        cap: seconds after which plain MLflow's one call is given up.
        queued: points that are queued while the server is away.
        killed: points that are logged before a process is killed.
    """

    turns: int = 20
    calls: int = 250
    batches: int = 60
    deliveries: int = 8
    scripts: int = 12
    outages: int = 5
    cap: float = 15.0
    queued: int = 1_000_000
    killed: int = 300


FULL = Scale()
BUDGETED = (tutorial.OBSERVED, tutorial.OWN)
"""Ways of the tutorial's script whose run is the stage's own."""
SLOW_EVERY = 5
"""Ways that need a request for each call join every so many turns."""
DEFAULTS = {"refused": 246, "black-holed": 1_207}
"""Seconds for which one plain call blocks by default, measured once: see docs/explanation/what-it-costs.md."""


def main(scale: Scale = FULL) -> None:
    """Measure everything, print the table, write ``.bench/journal.json`` and ``.bench/journal.svg``."""
    figures: list[Figure] = []
    bars: dict[str, Sequence[float]] = {}
    wandb = wandb_python()
    with tempfile.TemporaryDirectory(prefix="tracklayer-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(MlflowServer(f"sqlite:///{folder}/mlflow.db", folder / "server"))
        environ = {"MLFLOW_TRACKING_URI": server.uri, "TRACKLAYER_JOURNAL": str(folder / "journal")}
        _tell("calls")
        figures += calls(environ, folder, wandb, scale, bars)
        _tell("delivery")
        figures += deliveries("SQLite", server, environ, scale)
        figures += deliveries_in_memory(environ, scale)
        figures += deliveries_steady(server, environ, scale)
        figures += deliveries_apart("SQLite", f"sqlite:///{folder}/apart.db", folder / "apart", environ, scale)
        postgresql = backends()["postgresql"]
        if trouble := postgresql.trouble():
            print(f"\n  PostgreSQL is not measured: {trouble}")
        else:
            database = stack.enter_context(postgresql.database())
            with MlflowServer(database, folder / "postgresql") as other:
                figures += deliveries("PostgreSQL", other, {**environ, "MLFLOW_TRACKING_URI": other.uri}, scale)
            with postgresql.database() as database:
                figures += deliveries_apart("PostgreSQL", database, folder / "apart-postgresql", environ, scale)
        _tell("scripts")
        figures += script_requests(server, environ)
        figures += script_walls(environ, scale)
        _tell("outages")
        figures += outages(server, environ, scale)
        _tell("kills")
        figures += survival(server, environ, folder, wandb, scale)
        _tell("the queue")
        figures += queue(server, environ, scale)
    _tell("")
    report("journal", "Logging with the journal in between", figures)
    chart.bars(
        ROOT / ".bench" / "journal.svg",
        title="What one call costs that logs a metric point",
        subtitle="median and 99th percentile, microseconds, logarithmic",
        values=bars,
    )
    print("  .bench/journal.svg")


def calls(
    environ: Mapping[str, str], folder: Path, wandb: str | None, scale: Scale, bars: dict[str, Sequence[float]]
) -> Iterator[Figure]:
    """(a), (b): one call, in turns: what the ways' processes measured of each."""
    buffered = {**environ, "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1"}
    with ExitStack() as stack:
        quick = {
            "mlflow.log_metric over a store that does nothing": started("fluent over nothing", environ),
            "the same once more, for the noise": started("fluent over nothing", environ),
            "mlflow.log_metric in a tracked stage": started("fluent in a stage", environ),
            "run.log_metric": started("tracked", environ),
            "one append": started("append", {**environ, "TRACKLAYER_JOURNAL": str(folder / "append")}),
        }
        if wandb:
            quick["W&B offline"] = started("wandb", _of_wandb(folder / "calls"), python=wandb)
        slow = {
            "MLflow, a request each": started("fluent", environ),
            "MLflow asynchronous": started("fluent asynchronous", environ),
            "MLflow asynchronous, buffering": started("fluent asynchronous", buffered),
        }
        ways = {label: stack.enter_context(way) for label, way in {**quick, **slow}.items()}
        taken: dict[str, list[float]] = {label: [] for label in ways}
        medians: dict[str, list[float]] = {label: [] for label in ways}
        tails: dict[str, list[float]] = {label: [] for label in ways}
        for label, way in ways.items():
            way.ask("log", 5 if label in slow else scale.calls)  # warm
        order = list(quick)
        for turn in range(scale.turns):
            order.append(order.pop(0))
            for label in [*order, *(slow if turn % SLOW_EVERY == 0 else ())]:
                one = ways[label].ask("log", max(5, scale.calls // 10) if label in slow else scale.calls)
                taken[label] += [nanoseconds / 1_000 for nanoseconds in one]
                medians[label].append(statistics.median(one))
                tails[label].append(_percentile(one, 99))
        memory = {label: way.ask("memory")["most"] for label, way in ways.items()}
    nothing, again, fluent, *_ = quick
    yield figure(f"{fluent}, to {nothing.partition(' ')[2]}, p50", _ratio(medians, fluent, nothing), "×", 1.3)
    yield figure("… p99", _ratio(tails, fluent, nothing), "×", 1.3)
    yield figure("… noise: two alike, p50", _ratio(medians, again, nothing), "×")
    yield figure("… noise: two alike, p99", _ratio(tails, again, nothing), "×")
    budgets = {"run.log_metric": (30, 300)}
    for label in ways:
        if label == again:
            continue
        p50, p99 = budgets.get(label, (None, None))
        bars[label] = (_percentile(taken[label], 50), _percentile(taken[label], 99))
        yield figure(f"{label}, p50", bars[label][0], "µs", p50)
        yield figure(f"{label}, p99", bars[label][1], "µs", p99)
    for label in ways:
        if label not in {again, "one append"}:
            yield figure(f"memory, {label}", memory[label], "MB")


def script_requests(server: MlflowServer, environ: Mapping[str, str]) -> Iterator[Figure]:
    """(d): a script as in MLflow's tutorials: its requests, through a proxy."""
    with RecordingProxy(server.uri) as proxy:
        for name in tutorial.WAYS:
            with started(name, {**environ, "MLFLOW_TRACKING_URI": proxy.uri}, program=tutorial.__file__) as way:
                counts = []
                for number in range(3):
                    proxy.forget()
                    way.ask("tutorial" if number < 2 else "nothing", number)
                    counts.append(len(proxy.requests))
            first, script, stage = counts
            yield figure(
                f"requests of a tutorial's script, {name}", script, "requests", 5 if name in BUDGETED else None
            )
            if name == tutorial.OTHER:  # where the script's run is one of its own, below that of the stage
                yield figure(f"… without the {stage} of its stage", script - stage, "requests", 5)
            if name != tutorial.PLAIN:
                yield figure("… first stage of a workflow run", first, "requests")


def script_walls(environ: Mapping[str, str], scale: Scale) -> Iterator[Figure]:
    """(d): the same script's wall time, in turns."""
    ways = tutorial.WAYS
    with ExitStack() as stack:
        running = [stack.enter_context(started(name, environ, program=tutorial.__file__)) for name in ways]
        walls: dict[str, list[float]] = {name: [] for name in ways}
        own: list[float] = []
        for turn in range(scale.scripts + 1):
            taken = {name: way.ask("tutorial", turn) for name, way in zip(ways, running, strict=True)}
            stage = running[ways.index(tutorial.OTHER)].ask("nothing", turn)
            if turn:  # the first one warms up
                for name, wall in taken.items():
                    walls[name].append(wall)
                own.append((taken[tutorial.OTHER] - stage) / taken[tutorial.PLAIN])
        memory = {name: way.ask("memory")["most"] for name, way in zip(ways, running, strict=True)}
    for name in ways:
        yield figure(f"wall time of a tutorial's script, {name}", statistics.median(walls[name]), "ms")
        if name != tutorial.PLAIN:
            yield figure("… to plain", _ratio(walls, name, tutorial.PLAIN), "×", 0.25)
        if name == tutorial.OTHER:
            yield figure("… without its stage, to plain", statistics.median(own), "×", 0.25)
        yield figure(f"memory, a tutorial's script, {name}", memory[name], "MB")


def outages(server: MlflowServer, environ: Mapping[str, str], scale: Scale) -> Iterator[Figure]:
    """(e): what an outage adds to a task, above the same task untracked; and plain MLflow's one call, given up at a cap."""
    with ExitStack() as stack:
        away = {
            "refused": stack.enter_context(refused_port()),
            "black-holed": stack.enter_context(black_hole()),
            "stopped": server.uri,
        }
        capped = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")}
        for kind, uri in away.items():
            told = {
                **environ,
                "MLFLOW_TRACKING_URI": uri,
                "TRACKLAYER_JOURNAL": f"{environ['TRACKLAYER_JOURNAL']}-{kind}",
            }
            added = []
            if kind == "stopped":
                server.freeze()
            for _ in range(scale.outages):
                without = task("tracked", {**told, "TRACKLAYER_ENABLED": "false"}, cap=60, meanwhile=_nothing)
                added.append(task("tracked", told, cap=60, meanwhile=_nothing) - without)
            plain = task("fluent", {**told, **capped}, cap=scale.cap)
            if kind == "stopped":
                server.thaw()
            yield figure(f"added to a stage, server {kind}", statistics.median(added), "s", 1)
            yield figure("… at worst", max(added), "s")
            default = f"; its default is {DEFAULTS[kind]:,} s" if kind in DEFAULTS else ""
            yield figure(f"… plain MLflow, one call, given up after {scale.cap:g} s{default}", plain, "s")
        added = []
        for _ in range(scale.outages):
            without = task("tracked", {**environ, "TRACKLAYER_ENABLED": "false"}, cap=60, meanwhile=_nothing)
            added.append(task("tracked", environ, cap=60, meanwhile=server.freeze) - without)
            server.thaw()
        yield figure("added to a stage, server stopped in the middle of it", statistics.median(added), "s", 1)


def survival(
    server: MlflowServer, environ: Mapping[str, str], folder: Path, wandb: str | None, scale: Scale
) -> Iterator[Figure]:
    """What is left of points whose process is killed (SIGKILL) right after the last call returned."""
    told = f"of {scale.killed} points, after a SIGKILL"
    buffered = {**environ, "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1"}
    for label, name, variables in (
        ("tracklayer", "tracked", environ),
        ("MLflow, a request each", "fluent", environ),
        ("MLflow asynchronous", "fluent asynchronous", environ),
        ("MLflow asynchronous, buffering", "fluent asynchronous", buffered),
    ):
        with started(name, variables) as way:
            run_id = way.ask("run")
            way.ask("points", scale.killed)
            _kill(way)
        if label == "tracklayer":
            command = [str(Path(sys.executable).with_name("tracklayer")), "flush"]
            subprocess.run(command, env={**os.environ, **environ}, check=False, capture_output=True, timeout=300)
        yield figure(f"{told}: {label}", points_of(server.uri, run_id), "points")
    if wandb:
        place = folder / "killed"
        with started("wandb", _of_wandb(place), python=wandb) as way:
            way.ask("points", scale.killed)
            _kill(way)
        time.sleep(5)  # its service notices, and ends
        yield figure(f"{told}: W&B offline", points_in(place, wandb), "points")


def queue(server: MlflowServer, environ: Mapping[str, str], scale: Scale) -> Iterator[Figure]:
    """(f): resident memory with a million points queued, above the same loop untracked; then while they are delivered."""
    with started("untracked", environ) as way:
        way.ask("points", scale.queued)
        plain = way.ask("memory")["most"]
    with started("tracked", {**environ, "TRACKLAYER_ENABLED": "true"}) as way:
        way.ask("run")
        empty = way.ask("memory")["most"]
        server.freeze()
        try:
            way.ask("points", scale.queued)
            queued = way.ask("memory")["most"]
        finally:
            server.thaw()
        time.sleep(min(10.0, scale.queued / 10_000))
        delivering = way.ask("memory")["most"]
        _kill(way)
    yield figure(f"memory, {scale.queued:,} points, untracked", plain, "MB")
    yield figure("memory, a stage with nothing queued", empty, "MB")
    yield figure(f"memory that {scale.queued:,} queued points add", queued - empty, "MB")
    yield figure("… above untracked", queued - plain, "MB", 30)
    yield figure("… while they are delivered, above untracked", delivering - plain, "MB", 30)


def _tell(what: str) -> None:
    """What is being measured, for whoever waits before a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what and f'measuring {what} …'}", end="", file=sys.stderr, flush=True)


def _kill(way: Way) -> None:
    os.kill(way.process.pid, signal.SIGKILL)
    way.process.wait()


def _nothing() -> None:
    """What is done in the middle of a task whose server is away from the start."""


def _of_wandb(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    places = {name: str(folder) for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")}
    return {**places, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


def _ratio(samples: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """The median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(samples[one], samples[other], strict=True))


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
