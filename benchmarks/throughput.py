"""How many metric points reach a server in a second: ours beside raw ``log-batch`` calls of 1,000.

Raw calls are made twice in every turn, and ours are compared with the mean of both: what a server needs
for the same thousand points differs from one second to the next by more than the two sides do from each other.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from figures import Figure, figure
from logging_ways import started
from steady_server import SECONDS, steady_server

from harness.mlflow import MlflowServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench_journal import Scale

MEMORY: Final = Path("/dev/shm")
"""A folder in memory, on Linux."""


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
        stored = points_of(server.uri, way.ask("run"))
        memory = way.ask("memory")["most"]
    theirs, *ours, again = sides
    for name in sides:
        yield figure(f"points a second, {name}, {database}", points / statistics.median(taken[name]), "points")
    raw_times = _both(taken[theirs], taken[again])
    for name in ours:
        yield from _throughput(f"throughput of {name}, to raw batches, {database}", raw_times, taken[name])
    yield from _noise(database, taken[theirs], taken[again])
    expected = 1_000 + len(ours) * scale.deliveries * points
    yield figure(f"… points that are missing at the end, {database}", expected - stored, "points", 0)
    yield figure(f"memory, delivering, {database}", memory, "MB")


def _both(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """The mean of both, turn by turn: what a server needs for the same differs from one second to the next."""
    return [(one + other) / 2 for one, other in zip(first, second, strict=True)]


def _throughput(what: str, raw: Sequence[float], ours: Sequence[float]) -> Iterator[Figure]:
    """How much more of ours is done in the time of the raw batches of the same turn, and how sure that is."""
    ratios = [their / our for their, our in zip(raw, ours, strict=True)]
    yield figure(f"… {what}", statistics.median(ratios), "×", 1, at_least=True)
    if len(ratios) > 1:
        yield figure("… standard error of that", statistics.stdev(ratios) / len(ratios) ** 0.5, "×")


def _noise(where: str, first: Sequence[float], second: Sequence[float]) -> Iterator[Figure]:
    """What the same measurement says of two things that are the same."""
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    yield figure(f"… noise: raw batches to themselves, {where}", statistics.median(ratios), "×")


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
    raw_times = _both(taken["raw"], taken["raw again"])
    yield from _throughput(f"throughput of run.log_metric until delivered, {where}", raw_times, taken["ours"])
    yield from _noise(where, taken["raw"], taken["raw again"])


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


def deliveries_in_memory(environ: Mapping[str, str], scale: Scale) -> Iterator[Figure]:
    """(c) once more, with SQLite's database in memory.

    How long a disk takes to sync differs from request to request by as much as the rest of a request takes. Nothing is
    measured where no folder is in memory.
    """
    if not MEMORY.is_dir():
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracklayer-bench-", dir=MEMORY)))
        server = stack.enter_context(MlflowServer(f"sqlite:///{folder}/mlflow.db", folder / "server"))
        told = {**environ, "MLFLOW_TRACKING_URI": server.uri}
        yield from deliveries("SQLite in memory", server, told, scale)


@contextmanager
def _on_cpus(cpus: set[int]) -> Iterator[None]:
    """Run on these CPUs meanwhile, and have what is started run there for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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


def points_of(uri: str, run_id: str) -> int:
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
