"""Exactly one parent and one experiment, whatever starts at the same moment, on real servers and real databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.memory_store import MemoryStore
from tracklayer.context import WorkflowRun
from tracklayer.exceptions import NotFound, StoreError
from tracklayer.identity import key_tag, workflow_run_key
from tracklayer.parent import BALLOT, find_parent, make_parent
from tracklayer.provisional import id_tag
from tracklayer.store import Dataset
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracklayer.store import Run, Store

PROCESSES = 32

# Each process waits for the same moment, so that all of them start their stage at once.
STAGE = """
import json, sys, time
import tracklayer
from tracklayer import RunContext, TaskRun, WorkflowRun

workflow, index, moment = sys.argv[1], sys.argv[2], float(sys.argv[3])
context = RunContext(
    workflow_run=WorkflowRun(orchestrator="race", workflow=workflow, run_id="r1"),
    task_run=TaskRun(task="step", index=index),
)
import tracklayer.tracking, tracklayer.store.rest
time.sleep(max(0.0, moment - time.time()))
with tracklayer.track(stage="training", context=context, params={"index": index}) as run:
    run.log_metrics({"index": float(index)})
print(json.dumps({"run": run.run_id, "experiment": run.experiment_id, "parent": run.parent and run.parent.run_id}))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["mlflow_server", "mlflow_postgres"])
def test_32_processes_leave_one_parent_and_one_experiment(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    uri = request.getfixturevalue(server).uri
    workflow = f"race-{uuid.uuid4().hex[:8]}"
    told = _race(uri, workflow, tmp_path, patience=120)
    runs, parent = _of_the_race(uri, workflow)
    assert {one["experiment"] for one in told} == {parent.experiment_id}
    assert {one["parent"] for one in told} == {parent.run_id}
    children = [run for run in runs if run.tags.get("mlflow.parentRunId") == parent.run_id]
    assert {run.run_id for run in children} == {one["run"] for one in told}
    assert len(children) == PROCESSES
    assert all(run.status == "FINISHED" for run in children)
    assert len(runs) == PROCESSES + 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["mlflow_server", "mlflow_postgres"])
def test_32_processes_that_do_not_wait_for_the_server_leave_one_parent(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Every one of them goes on with ids of its own, and what is elected is elected while they already log, or end."""
    uri = request.getfixturevalue(server).uri
    workflow = f"race-{uuid.uuid4().hex[:8]}"
    told = _race(uri, workflow, tmp_path, patience=0.001)
    flushed = subprocess.run(
        [str(Path(sys.executable).with_name("tracklayer")), "flush"],
        env={**_clean(), **_environment(uri, tmp_path, patience=60)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert flushed.returncode == 0, flushed.stdout + flushed.stderr
    runs, parent = _of_the_race(uri, workflow)
    children = [run for run in runs if run.tags.get("mlflow.parentRunId") == parent.run_id]
    assert len(children) == PROCESSES
    assert len(runs) == PROCESSES + 1
    assert {run.status for run in children} == {"FINISHED"}
    assert sorted(run.metrics["index"] for run in children) == [float(index) for index in range(PROCESSES)]
    for one in told:  # the ids that were given out lead to the runs
        assert one["run"] in {run.run_id for run in children} or any(id_tag(one["run"]) in run.tags for run in children)
        assert one["parent"] == parent.run_id or id_tag(one["parent"]) in parent.tags
    assert not list((tmp_path / "journal").iterdir())


def _race(uri: str, workflow: str, folder: Path, *, patience: float) -> list[dict[str, str]]:
    """What each of the processes was told, that all want the parent at the same moment."""
    moment = str(time.time() + 8)
    environment = _environment(uri, folder, patience=patience)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STAGE, workflow, str(index), moment],
            env={**_clean(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(PROCESSES)
    ]
    ends = [(process.communicate(timeout=200), process.returncode) for process in processes]
    assert [code for _, code in ends] == [0] * PROCESSES
    told = [json.loads(output) for (output, _), _ in ends]
    problems = "\n".join(errors for (_, errors), _ in ends)[-3000:]
    assert all(one["run"] for one in told), problems
    return told


def _environment(uri: str, folder: Path, *, patience: float) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": uri,
        "TRACKLAYER_JOURNAL": str(folder / "journal"),
        "TRACKLAYER_TIMEOUT": "60",
        "TRACKLAYER_CONNECT_TIMEOUT": "20",
        "TRACKLAYER_PATIENCE": str(patience),
    }


def _of_the_race(uri: str, workflow: str) -> tuple[Sequence[Run], Run]:
    """The runs of the one experiment that the race left, and the one parent among them."""
    store = open_store(uri, connect_timeout=5, timeout=30)
    (experiment,) = [one for one in store.search_experiments() if one.name == workflow]
    runs = store.search_runs([experiment.experiment_id], limit=1000)
    key = workflow_run_key(WorkflowRun(orchestrator="race", workflow=workflow, run_id="r1"))
    (parent,) = [run for run in runs if key_tag(key) in run.tags]
    return runs, parent


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKLAYER_"))}


@pytest.fixture(params=["mlflow_server", "mlflow_postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    return open_store(request.getfixturevalue(request.param).uri, connect_timeout=5, timeout=30)


@pytest.fixture
def experiment_id(store: Store) -> str:
    return store.create_experiment(f"parent-{uuid.uuid4().hex[:8]}", {})


def make(store: Store, experiment_id: str, key: str, *, alone: bool = False) -> tuple[str, bool]:
    run, made = make_parent(store, experiment_id, key, name="parent", start_time=1_000, tags={}, alone=alone)
    return run.run_id, made


def live(store: Store, experiment_id: str) -> set[str]:
    return {run.run_id for run in store.search_runs([experiment_id])}


def test_the_second_to_come_finds_the_first(store: Store, experiment_id: str) -> None:
    first, made = make(store, experiment_id, "k")
    assert made
    assert make(store, experiment_id, "k") == (first, False)
    assert make(store, experiment_id, "other key")[0] != first
    found = find_parent(store, experiment_id, "k")
    assert found
    assert found.run_id == first


def test_a_process_that_died_before_publishing_is_helped_into_office(store: Store, experiment_id: str) -> None:
    orphan = store.create_run(experiment_id, name="parent", start_time=1_000, tags={key_tag("k"): "1"})
    assert make(store, experiment_id, "k") == (orphan.run_id, False)
    assert live(store, experiment_id) == {orphan.run_id}


def test_a_loser_that_died_before_deleting_its_candidate_is_swept(store: Store, experiment_id: str) -> None:
    winner, _ = make(store, experiment_id, "k")
    store.create_run(experiment_id, name="parent", start_time=500, tags={key_tag("k"): "1"})  # looks older, too
    assert make(store, experiment_id, "k") == (winner, False)
    assert live(store, experiment_id) == {winner}


def test_a_parent_that_somebody_deleted_is_made_anew_once(store: Store, experiment_id: str) -> None:
    first, _ = make(store, experiment_id, "k")
    store.delete_run(first)
    second, made = make(store, experiment_id, "k")
    assert made
    assert second != first
    assert make(store, experiment_id, "k") == (second, False)
    assert live(store, experiment_id) == {second}


def test_a_parent_made_alone_is_found_by_those_who_elect(store: Store, experiment_id: str) -> None:
    first, made = make(store, experiment_id, "k", alone=True)
    assert made
    assert make(store, experiment_id, "k") == (first, False)
    assert make(store, experiment_id, "k", alone=True) == (first, False)


def test_a_memory_store_does_what_this_one_does(store: Store, experiment_id: str) -> None:
    """What the exhaustive test of the election (tests/unit/test_parent_interleavings.py) takes MLflow to do."""
    other = store.create_experiment(f"parent-{uuid.uuid4().hex[:8]}", {})
    memory = MemoryStore()
    assert _story(memory, experiment_id, other) == _story(store, experiment_id, other)


def _story(store: Any, experiment_id: str, other: str) -> list[object]:
    """Everything that an election does and may meet, and what came of it; runs by the order of their creation."""
    ids: list[str] = []

    def create(place: str, start_time: int) -> str:
        run = store.create_run(place, name="parent", start_time=start_time, tags={"key": "1"})
        ids.append(run.run_id)
        return str(run.run_id)

    def vote(run_id: str, digest: str, source: str) -> object:
        try:
            store.log_inputs(run_id, [Dataset(name=BALLOT, digest=digest, source_type="code", source=source)])
        except StoreError as error:
            return type(error)
        return None

    def seen(run: Run) -> object:
        ballots = {(one.name, one.digest, one.source_type, one.source) for one in run.datasets}
        return ids.index(run.run_id), run.deleted, run.tags["key"], sorted(ballots)

    def search(*, deleted: bool = False) -> object:
        order = ["attributes.start_time ASC"]
        found = store.search_runs([experiment_id], "tags.`key` = '1'", order_by=order, deleted=deleted)
        return [seen(run) for run in found]

    told: list[object] = [search()]
    first, second = create(experiment_id, 2_000), create(experiment_id, 1_000)
    elsewhere = create(other, 500)
    told += [search(), vote(first, "d", "first"), vote(second, "d", "second"), vote(elsewhere, "d", "elsewhere")]
    told += [seen(store.get_run(run)) for run in ids]  # the first source stays, in each experiment
    told += [vote(second, "d", "second, again"), vote(second, "e", "second"), vote(first, "e", "first"), search()]
    store.delete_run(second)
    store.delete_run(second)
    told += [search(), search(deleted=True), seen(store.get_run(second))]
    told += [vote(second, "f", "trash"), vote(first, "f", "first"), seen(store.get_run(first))]
    told.append(vote("0" * 32, "d", "nobody"))
    with pytest.raises(NotFound):
        store.get_run("0" * 32)
    third = create(experiment_id, 1_500)
    store.delete_run(first)  # the winner is deleted: what it won stays won
    return [*told, vote(third, "d", "third"), seen(store.get_run(third)), search(), search(deleted=True)]


def test_the_ballot_names_what_it_is_for(store: Store, experiment_id: str) -> None:
    first, _ = make(store, experiment_id, "k")
    assert [dataset.name for dataset in store.get_run(first).datasets] == [BALLOT]
