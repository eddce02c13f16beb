"""What tracking costs an Airflow: parsing, the start of tasks, a DAG of 200 short tasks, the scheduler's loop.

A real Airflow (scheduler with LocalExecutor, api-server, dag-processor, on PostgreSQL where there is one) runs the same
DAG in several ways, each in an installation of its own: without tracklayer, which is not even installed there ("switched
off" in the table); switched on with the MLflow server up, once with Airflow's own tasks and once with tracked ones; and
switched on with a server that takes no connection.
``python benchmarks/bench_airflow.py 50`` takes 50 tasks instead of 200.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from figures import Figure, figure, report  # noqa: E402
from module_import import measure  # noqa: E402

from harness.airflow import AirflowHome, AirflowService  # noqa: E402
from harness.backends import backends  # noqa: E402
from harness.mlflow import MlflowServer  # noqa: E402
from harness.proxy import black_hole  # noqa: E402
from harness.without import environment_without  # noqa: E402
from tracklayer.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TASKS: Final = 200
PAGE: Final = 100
"""No more items than these are in one answer of Airflow's API, whatever is asked for (its ``maximum_page_limit``)."""
LOOP: Final = re.compile(r"Ran scheduling loop in ([\d.]+) ms")


@dataclass(frozen=True)
class Way:
    """One installation and the DAG that it runs.

    Attributes:
        name: for the table.
        kind: ``plain`` or ``tracked`` tasks.
        environ: what tells it to track.
        python: of the environment that it is in; None for this one.
    """

    name: str
    kind: str
    environ: Mapping[str, str]
    python: Path | None = None


@dataclass(frozen=True)
class Sample:
    """What one way took.

    Attributes:
        parse: seconds that the dag-processor took for the DAG's file, as Airflow tells them.
        wall: seconds from the DAG run's start to its end.
        start: median seconds from a task's start, as Airflow tells it, to the first line of its own code.
        task: median seconds from a task's start to its end, as Airflow tells them.
        loops: milliseconds of each loop of the scheduler.
        heartbeat: how old the scheduler's last heartbeat was at most, in seconds.
        memory: megabytes of the scheduler and what it started, at most.
    """

    parse: float
    wall: float
    start: float
    task: float
    loops: list[float]
    heartbeat: float
    memory: float


def main(tasks: int = TASKS) -> None:
    """Measure everything, print the table, write ``.bench/airflow.json``."""
    with tempfile.TemporaryDirectory(prefix="tracklayer-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        figures = list(parsing(folder))
        server = stack.enter_context(MlflowServer(f"sqlite:///{folder}/mlflow.db", folder / "server"))
        nowhere = stack.enter_context(black_hole())
        ways = (
            Way("switched off", "plain", {}, environment_without(folder / "without")),
            Way("Airflow's own tasks", "plain", {"MLFLOW_TRACKING_URI": server.uri}),
            Way("tracked tasks", "tracked", {"MLFLOW_TRACKING_URI": server.uri}),
            Way("Airflow's own tasks, server black-holed", "plain", {"MLFLOW_TRACKING_URI": nowhere}),
            Way("tracked tasks, server black-holed", "tracked", {"MLFLOW_TRACKING_URI": nowhere}),
        )
        off: Sample | None = None
        for number, way in enumerate(ways):
            print(f"\r  {way.name:<60}", end="", file=sys.stderr, flush=True)
            sample = run(way, folder / str(number), tasks)
            off = off or sample
            figures += told(way, sample, off, tasks)
        print(f"\r{'':<62}\r", end="", file=sys.stderr)
    title = f'A DAG of {tasks} short tasks, and the Airflow around it ("switched off": tracklayer is not installed)'
    report("airflow", title, figures)


def parsing(folder: Path) -> Iterator[Figure]:
    """What importing a file with a DAG takes, as the dag-processor and each task do."""
    modules = ROOT / "benchmarks" / "modules"
    home = AirflowHome(folder / "parsing", modules)
    plain, tracked = measure(modules / "airflow_plain.py", modules / "airflow_tracked.py", home.environ())
    yield figure("parsing a DAG file, Airflow's own tasks", plain.cpu, "ms")
    yield figure("parsing a DAG file, tracked tasks", tracked.cpu, "ms")
    yield figure("… to Airflow's own", tracked.cpu / plain.cpu, "×")
    yield figure("… more", tracked.cpu - plain.cpu, "ms", 30)
    yield figure("… memory", tracked.memory - plain.memory, "MB")


def run(way: Way, folder: Path, tasks: int) -> Sample:
    """Run the DAG once in an Airflow of its own."""
    with ExitStack() as stack:
        postgresql = backends()["postgresql"]
        database = None if postgresql.trouble() else stack.enter_context(postgresql.database())
        home = AirflowHome(folder, ROOT / "benchmarks" / "dags_airflow", database=database, python=way.python)
        environ = {
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "4",
            "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner=debug",
            "BENCH_TASKS": str(tasks),
            "BENCH_BEGINNINGS": str(folder / "beginnings"),
            "TRACKLAYER_PATIENCE": str(Settings().patience),  # the default; tests have more
            **way.environ,
        }
        service = stack.enter_context(AirflowService(home, environ=environ))
        dag_id = f"{way.kind}_short_tasks"
        run_id = service.trigger(dag_id)
        parse = service.call(f"/api/v2/dags/{dag_id}")["last_parse_duration"] or 0.0
        memory = heartbeat = 0.0
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        while (dag_run := service.call(path))["state"] not in {"success", "failed"}:
            memory = max(memory, memory_of("scheduler", folder))
            last = service.call("/api/v2/monitor/health")["scheduler"]["latest_scheduler_heartbeat"]
            heartbeat = max(heartbeat, time.time() - datetime.fromisoformat(last).timestamp())
            time.sleep(1)
        assert dag_run["state"] == "success", dag_run
        instances = [
            item
            for begin in range(0, tasks, PAGE)
            for item in service.call(f"{path}/taskInstances?limit={PAGE}&offset={begin}&order_by=id")["task_instances"]
        ]
        loops = [float(found) for found in LOOP.findall(service.log("scheduler"))]
    began = {item["task_id"]: datetime.fromisoformat(item["start_date"]).timestamp() for item in instances}
    lines = (line.split() for line in (folder / "beginnings").read_text().splitlines())
    return Sample(
        parse=parse,
        wall=seconds(dag_run),
        start=statistics.median(float(moment) - began[task] for task, moment in lines),
        task=statistics.median(seconds(item) for item in instances),
        loops=loops,
        heartbeat=heartbeat,
        memory=memory,
    )


def told(way: Way, sample: Sample, off: Sample, tasks: int) -> Iterator[Figure]:
    """What is printed of one way."""
    loops = sorted(sample.loops)
    yield figure(f"parsing the file of {2 * tasks} tasks, {way.name}", sample.parse, "s")
    yield figure(f"{tasks} short tasks, {way.name}", sample.wall, "s")
    yield figure(f"a task's start to its first line, {way.name}", sample.start, "s")
    yield figure(f"a task's start to its end, {way.name}", sample.task, "s")
    yield figure(f"scheduler's loop, median, {way.name}", statistics.median(loops), "ms")
    yield figure(f"scheduler's loop, 99 of 100, {way.name}", loops[int(len(loops) * 0.99)], "ms")
    yield figure(f"scheduler's oldest heartbeat, {way.name}", sample.heartbeat, "s")
    yield figure(f"memory of the scheduler, {way.name}", sample.memory, "MB")
    if sample is not off:
        yield figure(f"… parsing, to off, {way.name}", sample.parse / off.parse, "×")
        yield figure(f"… start, to off, {way.name}", sample.start / off.start, "×")
        yield figure(f"… wall time, to off, {way.name}", sample.wall / off.wall, "×")
        yield figure(f"… a task, to off, {way.name}", sample.task / off.task, "×")
        yield figure(
            f"… scheduler's loop, to off, {way.name}", statistics.median(loops) / statistics.median(off.loops), "×"
        )
        yield figure(f"… memory, to off, {way.name}", sample.memory / off.memory, "×")


def seconds(item: Mapping[str, Any]) -> float:
    """How long a task instance or a DAG run took."""
    begin, end = (datetime.fromisoformat(item[name]) for name in ("start_date", "end_date"))
    return (end - begin).total_seconds()


def memory_of(component: str, folder: Path) -> float:
    """Megabytes of a component's process and of all that it started; what they share is counted once."""
    total = 0
    for process in psutil.process_iter(["cmdline", "environ"]):
        try:
            command = process.info["cmdline"] or []
            mine = (process.info["environ"] or {}).get("AIRFLOW_HOME") == str(folder)
            if mine and component in command[-2:] + command[1:3]:
                total += sum(one.memory_full_info().pss for one in [process, *process.children(recursive=True)])
                break
        except psutil.Error:
            continue
    return total / 1_000_000


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
