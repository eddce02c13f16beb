"""What tracking one stage costs: requests, time, memory, and what the decorators add to importing a file.

One stage has 20 params and 10 metrics and is recorded in three ways on one real server in one run, taking turns: by
tracklayer; by MLflow's fluent calls as its tutorials show them; and by tracklayer's own requests, sent raw on one
connection that stays open. Budgets: the design.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from figures import Figure, figure, report  # noqa: E402
from module_import import measure  # noqa: E402
from stage_ways import Sample, started  # noqa: E402

from harness.mlflow import MlflowServer  # noqa: E402
from harness.proxy import RecordingProxy  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDS = 40
FLUENT_EVERY = 4
"""The fluent way takes ten times as long, so it joins only every fourth round."""
WARM = 2
MODULES = {"airflow": "DAG", "prefect": "flow", "kubeflow": "pipeline"}


def main() -> None:
    """Measure everything, print the table, write ``.bench/stage.json``."""
    with tempfile.TemporaryDirectory(prefix="tracklayer-bench-") as name:
        folder = Path(name)
        with MlflowServer(f"sqlite:///{folder}/mlflow.db", folder / "server") as server:
            figures = [*requests(server, folder), *times(server, folder / "bodies.json")]
        figures += imports(folder)
    report("stage", "One stage with 20 params and 10 metrics", figures)


def requests(server: MlflowServer, folder: Path) -> Iterator[Figure]:
    """Count what each way asks of the server, through a proxy; keep tracklayer's requests for the raw way."""
    with RecordingProxy(server.uri) as proxy:
        with started("tracklayer", proxy.uri) as way:
            way.stage()
            first = len(proxy.requests)
            proxy.forget()
            way.stage()
            bodies = [(f"/api/2.0/mlflow/{request.path}", request.json) for request in proxy.requests]
        proxy.forget()
        with started("fluent", proxy.uri) as way:
            way.stage()
            proxy.forget()
            way.stage()
        fluent = len(proxy.requests)
    (folder / "bodies.json").write_text(json.dumps(bodies))
    yield figure("requests, tracklayer", len(bodies), "requests", 3)
    yield figure("requests, tracklayer, first stage of a workflow run", first, "requests", 7)
    yield figure("requests, fluent calls", fluent, "requests")


def times(server: MlflowServer, bodies: Path) -> Iterator[Figure]:
    """Wall time, CPU and memory of each way, in turns on the same server."""
    with (
        started("nothing", server.uri) as nothing,
        started("raw", server.uri, bodies) as raw,
        started("tracklayer", server.uri) as tracklayer,
        started("fluent", server.uri) as fluent,
    ):
        for way in (raw, tracklayer, fluent) * WARM:
            way.stage()
        samples: dict[str, list[Sample]] = {"raw": [], "tracklayer": [], "fluent": []}
        for number in range(ROUNDS):
            pair = (("raw", raw), ("tracklayer", tracklayer))
            for name, way in pair if number % 2 else reversed(pair):
                samples[name].append(way.stage())
            if number % FLUENT_EVERY == 0:
                samples["fluent"].append(fluent.stage())
        interpreter = nothing.stage().memory
    walls = {name: [sample.wall for sample in taken] for name, taken in samples.items()}
    for name, label in (("raw", "three raw requests"), ("tracklayer", "tracklayer"), ("fluent", "fluent calls")):
        yield figure(f"wall time, {label}", statistics.median(walls[name]), "ms")
        yield figure(f"client CPU, {label}", statistics.median(sample.cpu for sample in samples[name]), "ms")
    yield figure("wall time, tracklayer to raw", ratio(walls["tracklayer"], walls["raw"]), "×", 1.15)
    yield figure("wall time, fluent calls to raw", ratio(walls["fluent"], walls["raw"][::FLUENT_EVERY]), "×")
    for name, label in (("raw", "raw"), ("tracklayer", "tracklayer"), ("fluent", "mlflow")):
        grown = samples[name][-1].memory - interpreter
        yield figure(f"memory above the bare interpreter, {label}", grown, "MB")


def ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios within each round, so that a busy moment hits both sides."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def imports(folder: Path) -> Iterator[Figure]:
    """What our decorators add to importing a DAG, flow or pipeline file."""
    foreign = ("MLFLOW_", "TRACKLAYER_", "AIRFLOW_", "PREFECT_", "PYTHONDONTWRITEBYTECODE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"AIRFLOW_HOME": str(folder / "airflow"), "PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
    modules = ROOT / "benchmarks" / "modules"
    for orchestrator, kind in MODULES.items():
        plain, tracked = measure(modules / f"{orchestrator}_plain.py", modules / f"{orchestrator}_tracked.py", env)
        yield figure(f"import of a {kind} file, plain", plain.cpu, "ms CPU")
        yield figure(f"import of a {kind} file, tracked", tracked.cpu, "ms CPU")
        yield figure(f"import of a {kind} file, added", tracked.cpu - plain.cpu, "ms CPU", 30)
        yield figure(f"import of a {kind} file, memory added", tracked.memory - plain.memory, "MB")
        yield figure(f"import of a {kind} file, mlflow or network libraries loaded", len(tracked.heavy), "modules", 0)


if __name__ == "__main__":
    main()
