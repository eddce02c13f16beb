"""Airflow's own example DAGs end as they do where tracklayer is not installed: state, tries and XComs of every task."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
from airflow_examples import (
    CONFS,
    DAGS_LEFT_OUT,
    FILES_LEFT_OUT,
    by_scheduler,
    copied,
    ending,
    sources,
    with_plugins,
    without_chance,
    without_sleep,
)
from airflow_story import AIRFLOW, name
from observed_story import ObservedStory

from harness.airflow import AirflowHome
from harness.outage import flush
from harness.without import environment_without

if TYPE_CHECKING:
    from pathlib import Path

    from harness.backends import Backend
    from harness.mlflow import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4_000)]

SECONDS = 900
"""Time limit for all DAGs of one side."""

EXAMPLES = 90 if AIRFLOW >= (3, 3) else 60
"""More than so many DAGs are compared: the older Airflows come with fewer."""

SCHEDULED_SECONDS = 1_800
"""The same where a scheduler runs them: each task has a process of its own."""


@dataclass(frozen=True)
class Sides:
    """The same DAGs, once where tracklayer is not installed and once with tracking.

    Attributes:
        uri: of the MLflow server.
        python: that of the environment without tracklayer.
        homes: the homes of the two Airflows, the untracked one first.
        told: what `AirflowHome.test` told about them, in the same order.
    """

    uri: str
    python: Path
    homes: tuple[Path, Path]
    told: tuple[dict[str, Any], dict[str, Any]]

    def endings(self, dag_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        untracked, tracked = (ending(told[dag_id], home) for told, home in zip(self.told, self.homes, strict=True))
        return untracked, tracked


def unlike(untracked: dict[str, Any], tracked: dict[str, Any]) -> list[str]:
    """Where two endings differ, a line each."""
    one, other = (json.dumps(ending, indent=1, sort_keys=True).splitlines() for ending in (untracked, tracked))
    return [line for line in difflib.unified_diff(one, other, "untracked", "tracked", n=1, lineterm="") if line]


@pytest.fixture(scope="module", params=["dag.test()", "a scheduler"])
def sides(
    request: pytest.FixtureRequest,
    mlflow_server: MlflowServer,
    postgresql: Backend,
    tmp_path_factory: pytest.TempPathFactory,
) -> Sides:
    scheduled = request.param == "a scheduler"
    if AIRFLOW < (3, 3) and not scheduled:
        pytest.skip("before Airflow 3.3 dag.test() takes ten times as long: a scheduler runs them")
    if AIRFLOW >= (3, 3) and scheduled and not os.environ.get("TRACKLAYER_TEST_SCHEDULER"):
        pytest.skip("make same-endings: takes a quarter of an hour")
    folder = tmp_path_factory.mktemp("examples")
    bundles = json.dumps(copied(folder / "dags", adapt=not scheduled))
    common = {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": bundles,
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(with_plugins(folder / "plugins")),
        "AIRFLOW_CONN_FS_DEFAULT": "fs://",  # that of sensors that wait for files
        "PYTHONHASHSEED": "0",  # some XComs are lists that Airflow makes of sets
        "PATH": f"{without_sleep(folder / 'bin')}{os.pathsep}{os.environ['PATH']}",
    }
    tracked = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "AIRFLOW__TRACKLAYER__OWN_RUNS": "True"}
    dags = [
        "*",
        *(f"-{dag_id}" for dag_id in DAGS_LEFT_OUT),
        *(f"{dag_id}={json.dumps(conf)}" for dag_id, conf in CONFS.items()),
    ]

    chance = without_chance(folder / "chance")
    python = environment_without(folder / "without")

    def run(name: str, more: dict[str, str], python: Path | None = None) -> tuple[Path, dict[str, Any]]:
        home = AirflowHome(folder / name, folder / "dags", python=python)
        return home.folder, home.test(*dags, environ={**common, **more}, seconds=SECONDS)

    def run_scheduled(name: str, more: dict[str, str], python: Path | None = None) -> tuple[Path, dict[str, Any]]:
        more = {"PYTHONPATH": str(chance), **more}
        with postgresql.database() as database:
            home = AirflowHome(folder / name, folder / "dags", database=database, python=python)
            return home.folder, by_scheduler(home, {**common, **more}, seconds=SCHEDULED_SECONDS)

    # A scheduler's tasks take all of the machine: one after the other.
    with ThreadPoolExecutor(1 if scheduled else 2) as pool:
        one = run_scheduled if scheduled else run
        both = [
            pool.submit(one, "untracked", {}, python),
            pool.submit(one, "tracked", tracked),
        ]
        (first, untracked), (second, with_it) = (side.result() for side in both)
    flush(mlflow_server.uri, journal=second / "journal")  # on a busy machine something may be late
    return Sides(mlflow_server.uri, python, (first, second), (untracked, with_it))


def test_every_example_ends_as_it_ends_untracked(sides: Sides) -> None:
    untracked, tracked = sides.told
    assert untracked.keys() == tracked.keys()
    assert len(tracked) > EXAMPLES
    endings = {dag_id: sides.endings(dag_id) for dag_id in tracked}
    assert {dag_id: unlike(*both) for dag_id, both in endings.items() if both[0] != both[1]} == {}


def test_one_side_has_no_tracklayer(sides: Sides) -> None:
    """And everything else that the other one has."""
    code = "import importlib.metadata as m, json; print(json.dumps([d.name for d in m.distributions()]))"
    told = subprocess.run([sides.python, "-c", code], capture_output=True, text=True, check=True).stdout
    here, there = {distribution.name for distribution in metadata.distributions()}, set(json.loads(told))
    assert not [name for name in there if name.startswith("tracklayer")]
    assert [name for name in here - there if not name.startswith("tracklayer")] == []
    assert there <= here
    imported = subprocess.run([sides.python, "-c", "import tracklayer"], capture_output=True, text=True, check=False)
    assert "No module named 'tracklayer'" in imported.stderr


def test_they_were_tracked(sides: Sides) -> None:
    """What was executed has a run for each of its tries, the last of which ended as the task did."""
    _, tracked = sides.told
    ends = {"success": "FINISHED", "skipped": "FINISHED", "failed": "FAILED"}
    found = 0
    for dag_id, told in tracked.items():
        runs = [(name(run), run.status) for run in ObservedStory(sides.uri, dag_id, told).runs if name(run)]
        for task, status in dict(runs).items():  # of several tries the last
            state, tries = told["tasks"][task]
            assert (status, [name for name, _ in runs].count(task)) == (ends[state], tries), (dag_id, task)
        found += len(runs)
    assert found > 2 * EXAMPLES


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="the list is that of the newest Airflow")
def test_what_is_left_out_is_there() -> None:
    """Else the list grows old, and hides what nobody left out on purpose."""
    files = {path.stem: path.read_text() for path in sources()}
    assert FILES_LEFT_OUT.keys() <= files.keys()
    others = "".join(text for stem, text in files.items() if stem not in FILES_LEFT_OUT)
    named = [*DAGS_LEFT_OUT, *CONFS]  # a DAG is called as it says, or as its file is
    assert [dag_id for dag_id in named if f'"{dag_id}"' not in others and dag_id not in files] == []
