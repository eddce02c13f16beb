"""Reconciling beside journals: what was delivered in an odd order, and what is delivered afterwards."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from harness.outage import flush, runs_of
from harness.patience import patient
from harness.pipeline import PLUGINS
from harness.process import Program, wait_for
from tracklayer.backend import open_backend
from tracklayer.identity import UPSTREAM_TAG
from tracklayer.linking import read_links
from tracklayer.machine import PROCESS_TAG, process_of
from tracklayer.reconcile import Findings, Repair, Scope, examine, repair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy

STAGE = """
import os, sys, time
import tracklayer

name, what, uri, flag = sys.argv[1:]
with tracklayer.track(stage="training", experiment=name) as run:
    if what == "produce":
        run.produces(uri, "v1")
    elif what == "consume":
        run.consumes(uri)
    else:
        run.flush()
        open(flag, "w").write("open")
        while not os.path.exists(flag + ".log"):
            time.sleep(0.05)
        run.log_params({"late": "yes"})
        open(flag + ".logged", "w").write("1")
        time.sleep(300)
"""


@pytest.fixture
def name() -> str:
    return f"offline-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def start(recording_proxy: RecordingProxy, tmp_path: Path, name: str) -> Iterator[Callable[..., Program]]:
    """Starts a script on a machine of its own, that is, with a journal of its own."""
    programs: list[Program] = []
    script = tmp_path / "script.py"
    script.write_text(STAGE)

    def run(machine: str, what: str, uri: str = "", flag: str = "") -> Program:
        told = {"MLFLOW_TRACKING_URI": recording_proxy.uri, "TRACKLAYER_JOURNAL": str(tmp_path / machine)}
        command = [sys.executable, str(script), name, what, uri, flag]
        programs.append(Program(command, log=tmp_path / f"{machine}.log", environ={**os.environ, **told}))
        return programs[-1]

    yield run
    for program in programs:
        program.stop()


def examined(uri: str, name: str) -> tuple[Findings, Callable[[], list[Repair]]]:
    settings = patient(uri, disabled_plugins=PLUGINS)
    backend = open_backend(settings)
    assert backend is not None
    findings = examine(backend, settings, Scope(experiments=frozenset([name])))
    return findings, lambda: repair(findings.found, backend, settings)


def test_a_dataset_whose_producer_was_delivered_after_its_consumer(
    start: Callable[..., Program], recording_proxy: RecordingProxy, name: str, tmp_path: Path
) -> None:
    uri = f"s3://bucket/{name}"
    with recording_proxy.refused():
        producer = start("one", "produce", uri)
        wait_for(lambda: not producer.running, 60, "end of the producer")
    consumer = start("two", "consume", uri)
    wait_for(lambda: not consumer.running, 60, "end of the consumer")
    (consuming,) = (run for run in runs_of(recording_proxy.uri, name) if "mlflow.parentRunId" in run.tags)
    assert not [tag for tag in consuming.tags if tag.startswith(UPSTREAM_TAG)]
    assert examined(recording_proxy.uri, name)[0].found == ()

    flush(recording_proxy.uri, journal=tmp_path / "one")
    findings, mend = examined(recording_proxy.uri, name)

    assert [(finding.kind, finding.run.run_id) for finding in findings.found] == [("wanted-dataset", consuming.run_id)]
    mend()
    runs = {run.run_id: run for run in runs_of(recording_proxy.uri, name) if "mlflow.parentRunId" in run.tags}
    (link,) = read_links(runs[consuming.run_id].tags)
    assert (link.kind, link.dataset, link.digest) == ("data", uri, "v1")
    assert {link.run.run_id, consuming.run_id} == set(runs)
    assert examined(recording_proxy.uri, name)[0].found == ()


def test_a_journal_that_is_delivered_after_its_run_was_reconciled_loses_nothing(
    start: Callable[..., Program],
    recording_proxy: RecordingProxy,
    mlflow_server: MlflowServer,
    name: str,
    tmp_path: Path,
) -> None:
    flag = tmp_path / "flag"
    script = start("one", "wait", flag=str(flag))
    wait_for(flag.exists, 60, "stage that is open", script)
    with recording_proxy.refused():
        (tmp_path / "flag.log").write_text("now")
        wait_for((tmp_path / "flag.logged").exists, 60, "param that is logged", script)
        (stage,) = (run for run in runs_of(mlflow_server.uri, name) if "mlflow.parentRunId" in run.tags)
        process = process_of(stage.tags[PROCESS_TAG])
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: process.lives is False, 30, "end of the script")
    wait_for(lambda: bool(runs_of(recording_proxy.uri, name)), 60, "answer of the server")

    _, mend = examined(recording_proxy.uri, name)
    assert [item.changed for item in mend()] == [True, True]
    assert {run.status for run in runs_of(recording_proxy.uri, name)} == {"KILLED"}
    flush(recording_proxy.uri, journal=tmp_path / "one")

    stage, parent = sorted(runs_of(recording_proxy.uri, name), key=lambda run: "mlflow.parentRunId" not in run.tags)
    assert stage.params["late"] == "yes"
    assert (stage.status, parent.status) == ("KILLED", "KILLED")
    assert examined(recording_proxy.uri, name)[0].found == ()
