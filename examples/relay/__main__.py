"""``python -m examples.relay``: run the relay, show the story, and leave no process behind."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from examples.relay.place import REPOSITORY, Place
from examples.relay.processes import Failed, Household, Interrupted, tail
from examples.relay.servers import Server, mlflow_server, prefect_server
from examples.relay.story import Chapter, missing, read_story

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_POLL = 0.5
_TIME_LIMIT = 900.0
"""Seconds for the whole story; a minute is usual."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the relay.

    Returns:
        0 if the story is whole, 1 if something failed, 128 and the signal's number if it was interrupted.
    """
    options = _parser().parse_args(arguments)
    place = Place(options.home.resolve())
    try:
        place.home.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place.temporary, ignore_errors=True)
        place.temporary.mkdir()
        with Household() as household:
            _relay(household, place, sample=options.sample, max_iter=options.max_iter, keep=options.keep)
    except (Failed, OSError) as failure:
        say(f"\nfailed: {failure}")
        return 1
    except Interrupted as interruption:
        say(f"\nstopped by {interruption}; no process is left")
        return 128 + interruption.signum
    return 0


def say(text: str = "") -> None:
    """Print at once, whoever reads."""
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--home", type=Path, default=REPOSITORY / ".demo", help="folder for everything that is made")
    parser.add_argument("--sample", type=int, default=None, help="about how many flights to use; all, if not given")
    parser.add_argument("--max-iter", type=int, default=100, help="iterations of the training")
    parser.add_argument("--keep", action="store_true", help="leave MLflow's server running until Ctrl-C")
    return parser


def _relay(household: Household, place: Place, *, sample: int | None, max_iter: int, keep: bool) -> None:
    began = time.monotonic()
    say("One model's journey through Airflow, Kubeflow Pipelines and Prefect\n")
    say("       starting MLflow's server, Prefect's server and Airflow's database …")
    with mlflow_server(household, place) as mlflow:
        with prefect_server(household, place) as prefect:
            _migrate_airflow(household, place)
            for server in (mlflow, prefect):
                server.wait()
                say(f"{_clock(began)}  {server.name:<15} {server.url}")
            since = int(time.time() * 1000)
            conf = {"sample": sample, "max_iter": max_iter, "data_dir": str(place.data)}
            _run_dag(household, place, (mlflow, prefect), conf, began)
        story = read_story(mlflow.url, since)
        if lacks := missing(story):
            raise Failed("the story is not whole:\n" + "\n".join(f"  {lack}" for lack in lacks))
        _show(place, mlflow, story)
        if keep:
            say("\nThe server keeps running until Ctrl-C.")
            with contextlib.suppress(Interrupted):
                signal.pause()
    say(f"\nTo look at it later:  {_serve_command(place)}")
    say("Or tell one more story and keep the pages open:  make demo KEEP=1")


def _migrate_airflow(household: Household, place: Place) -> None:
    """Make Airflow's database, unless this version has made it before; one that is half made is made anew."""
    log = place.log("airflow-migrate")
    folder = place.home / "airflow"
    done = folder / f"migrated-{version('apache-airflow-core')}"
    if done.exists():
        return
    if not any(folder.glob("migrated-*")):
        (folder / "airflow.db").unlink(missing_ok=True)
    with household.running(
        [place.program("airflow"), "db", "migrate"], env=place.environment(), log=log, cwd=place.home
    ) as work:
        if code := work.wait():
            raise Failed(f"airflow db migrate ended with {code}:\n{tail(log)}")
    done.touch()


def _run_dag(
    household: Household, place: Place, servers: tuple[Server, Server], conf: Mapping[str, object], began: float
) -> None:
    """Run the DAG, from which everything else follows, and tell what appears in MLflow meanwhile."""
    mlflow, prefect = servers
    log = place.log(f"relay-{time.strftime('%Y%m%d-%H%M%S')}")
    env = place.environment() | {"MLFLOW_TRACKING_URI": mlflow.url, "PREFECT_API_URL": f"{prefect.url}/api"}
    command = [place.program("airflow"), "dags", "test", "flights_prepare", "--conf", json.dumps(conf)]
    say(f"{_clock(began)}  airflow dags test flights_prepare     (everything it prints: {_short(log)})\n")
    since, told = int(time.time() * 1000), dict[str, str]()
    deadline = time.monotonic() + _TIME_LIMIT
    # When this is interrupted, what is running can still end its runs: the servers are there, and nobody is killed by
    # a parent that was interrupted before it.
    with household.running(command, env=env, log=log, cwd=REPOSITORY, inside_out=True) as dag:
        while dag.poll() is None:
            if time.monotonic() > deadline:
                raise Failed(f"the story took longer than {_TIME_LIMIT:.0f} s:\n{tail(log)}")
            time.sleep(_POLL)
            _tell(read_story(mlflow.url, since), told, began)
        _tell(read_story(mlflow.url, since), told, began)
        if dag.returncode:
            raise Failed(f"the DAG ended with {dag.returncode}; the end of {_short(log)}:\n{tail(log)}")


def _tell(story: Sequence[Chapter], told: dict[str, str], began: float) -> None:
    """Print what has begun or ended since the last time; `told` remembers the status that was printed of each run."""
    for run in story:
        if told.get(run.run_id) == run.status or not run.orchestrator:
            continue
        told[run.run_id] = run.status
        what = f"    {run.name}" if run.parent else f"{run.experiment}, {run.name}"
        took = "" if run.seconds is None else f" after {run.seconds:.1f} s"
        stage = f" [{run.stage}]" if run.stage else ""
        say(f"{_clock(began)}  {run.orchestrator:<9} {what}{stage}: {run.status.lower()}{took}")


def _show(place: Place, mlflow: Server, story: Sequence[Chapter]) -> None:
    """The lineage, as ``tracklayer lineage`` draws it, and where to look."""
    evaluation = next(run for run in reversed(story) if run.stage == "evaluation")
    say(f"\n$ tracklayer lineage {evaluation.run_id}\n")
    env = place.environment() | {"MLFLOW_TRACKING_URI": mlflow.url}
    command = [place.program("tracklayer"), "lineage", evaluation.run_id]
    with subprocess.Popen(command, env=env, cwd=place.home, stdin=subprocess.DEVNULL) as lineage:
        if code := lineage.wait():
            raise Failed(f"tracklayer lineage ended with {code}")
    say()
    for run in story:
        if run.orchestrator and (run.stage or not run.parent):
            what = f"{run.orchestrator} · {run.stage or run.experiment}"
            say(f"  {what:<32} {mlflow.url}/#/experiments/{run.experiment_id}/runs/{run.run_id}")


def _serve_command(place: Place) -> str:
    database, artifacts = _short(place.database), _short(place.artifacts)
    program = _short(Path(place.program("mlflow")))
    return f"{program} server --backend-store-uri sqlite:///{database} --artifacts-destination {artifacts}"


def _short(path: Path) -> str:
    """`path`, relative to the working directory where it lies below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _clock(began: float) -> str:
    return f"{time.monotonic() - began:5.1f}s"


if __name__ == "__main__":
    sys.exit(main())
