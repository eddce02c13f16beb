"""What logging costs with the journal in between: each call, delivery, memory, outages; and what survives a kill.

Everything is compared within one run on one real server, in turns, so that a busy moment of the machine hits all sides.
Beside tracklayer: MLflow's own calls, one request each, and asynchronous; and Weights & Biases, offline. Budgets: the
issue and the design.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import chart  # noqa: E402
import tutorial  # noqa: E402
from figures import Figure, figure, report  # noqa: E402
from logging_ways import Way, started  # noqa: E402
from outages import task  # noqa: E402
from steady_server import SECONDS, steady_server  # noqa: E402
from wandb_environment import points_in, wandb_python  # noqa: E402

from harness.backends import backends  # noqa: E402
from harness.mlflow import MlflowServer  # noqa: E402
from harness.proxy import RecordingProxy, black_hole, refused_port  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


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
    batches: int = 30
    deliveries: int = 15
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


def deliveries(database: str, server: MlflowServer, environ: Mapping[str, str], scale: Scale) -> Iterator[Figure]:
    """(c): metric points until the server has them, to raw batches of 1,000 over one connection.

    Once while they are logged, so that the calls take from the processor's time; and once with all of them in the
    journal, as after an outage: the server is frozen until they are.
    """
    points = scale.batches * 1_000
    with started("tracked", environ) as way, closing(_Raw(server.uri)) as raw:

        def queued() -> float:
            server.freeze()
            try:
                way.ask("points", points)
            finally:
                server.thaw()
            return float(way.ask("wait"))

        sides: dict[str, Callable[[], float]] = {
            "raw batches of 1,000": lambda: raw.batches(scale.batches),
            "run.log_metric until delivered": lambda: float(way.ask("deliver", points)),
            "what is queued": queued,
            "the same raw batches once more": lambda: raw.batches(scale.batches),
        }
        way.ask("deliver", 1_000)
        raw.batches(1)
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(scale.deliveries):
            names = list(sides)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                taken[name].append(sides[name]())
        stored = _points(server.uri, way.ask("run"))
        memory = way.ask("memory")["most"]
    theirs, *ours, again = sides
    for name in sides:
        yield figure(f"points a second, {name}, {database}", points / statistics.median(taken[name]), "points")
    for name in ours:
        throughput = statistics.median(_throughputs(taken, name, theirs))
        yield figure(f"… throughput of {name}, to raw batches, {database}", throughput, "×", 1, at_least=True)
    noise = _throughputs(taken, again, theirs)
    yield figure(f"… noise: raw batches to themselves, {database}", statistics.median(noise), "×")
    expected = 1_000 + len(ours) * scale.deliveries * points
    yield figure(f"… points that are missing at the end, {database}", expected - stored, "points", 0)
    yield figure(f"memory, delivering, {database}", memory, "MB")


def _throughputs(taken: Mapping[str, Sequence[float]], name: str, to: str) -> list[float]:
    """How much more of the one is done in the same time than of the other, turn by turn."""
    return [their / our for our, their in zip(taken[name], taken[to], strict=True)]


def deliveries_steady(server: MlflowServer, environ: Mapping[str, str], scale: Scale) -> Iterator[Figure]:
    """(c) without a database, whose speed differs from turn to turn by more than the two sides do from each other."""
    points = scale.batches * 1_000
    with steady_server(server.uri) as uri:
        told = {**environ, "MLFLOW_TRACKING_URI": uri}
        with started("tracked", told) as way, closing(_Raw(uri)) as raw:
            raw.batches(1)
            way.ask("deliver", 1_000)
            taken: dict[str, list[float]] = {"raw": [], "ours": [], "raw again": []}
            for _ in range(scale.deliveries):
                taken["raw"].append(raw.batches(scale.batches))
                taken["ours"].append(float(way.ask("deliver", points)))
                taken["raw again"].append(raw.batches(scale.batches))
    where = f"over a server that takes {SECONDS * 1000:g} ms for each"
    throughput = statistics.median(_throughputs(taken, "ours", "raw"))
    yield figure(f"… throughput of run.log_metric until delivered, {where}", throughput, "×", 1, at_least=True)
    noise = statistics.median(_throughputs(taken, "raw again", "raw"))
    yield figure(f"… noise: raw batches to themselves, {where}", noise, "×")


def deliveries_apart(
    database: str, uri: str, folder: Path, environ: Mapping[str, str], scale: Scale
) -> Iterator[Figure]:
    """(c) once more, with the server on a CPU of its own, as one has that runs on a machine of its own.

    Otherwise whoever logs beside its own delivery also takes from the server, which raw batches, made one after the
    other and sent in between, do not. Nothing is measured where there is one CPU.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return
    with ExitStack() as stack:
        with _on_cpus({first}):
            server = stack.enter_context(MlflowServer(uri, folder))
        stack.enter_context(_on_cpus(set(others)))
        told = {**environ, "MLFLOW_TRACKING_URI": server.uri}
        yield from deliveries(f"{database}, server on a CPU of its own", server, told, scale)


@contextmanager
def _on_cpus(cpus: set[int]) -> Iterator[None]:
    """Run on these CPUs meanwhile, and have what is started run there for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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
        yield figure(f"{told}: {label}", _points(server.uri, run_id), "points")
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


class _Raw:
    """Batches of 1,000 points, sent over one connection as fast as they are answered."""

    def __init__(self, uri: str) -> None:
        address = urlsplit(uri)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)
        body = {"experiment_id": "0", "start_time": time.time_ns() // 1_000_000, "run_name": "raw"}
        self._run_id = self._send("runs/create", body)["run"]["info"]["run_id"]
        self._step = 0

    def batches(self, count: int) -> float:
        """Seconds for so many batches."""
        self._connection.close()  # the server drops idle ones; it is opened again by the first request
        began = time.perf_counter()
        for _ in range(count):
            now, steps = time.time_ns() // 1_000_000, range(self._step, self._step + 1_000)
            points = [{"key": "loss", "value": step * 0.1, "timestamp": now, "step": step} for step in steps]
            self._send("runs/log-batch", {"run_id": self._run_id, "metrics": points})
            self._step += 1_000
        return time.perf_counter() - began

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _send(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content)


def _points(uri: str, run_id: str) -> int:
    """How many points of the metric a run has on the server."""
    address, count, token = urlsplit(uri), 0, ""
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    while True:
        query = f"run_id={run_id}&metric_key=loss&max_results=25000" + (f"&page_token={token}" if token else "")
        connection.request("GET", f"/api/2.0/mlflow/metrics/get-history?{query}")
        page = json.loads(connection.getresponse().read())
        count += len(page.get("metrics", ()))
        token = page.get("next_page_token", "")
        if not token:
            connection.close()
            return count


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
