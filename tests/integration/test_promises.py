"""The first promise: whatever is wrong with tracking, the user's task ends as it would have ended, and a log says why."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from harness.patience import PATIENCE, TIMEOUT
from harness.proxy import black_hole, refused_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.mlflow import MlflowServer

THERE = {"TRACKLAYER_PATIENCE": str(PATIENCE), "TRACKLAYER_TIMEOUT": str(TIMEOUT)}
"""For a server that is there, on a machine that is busy: what it answers is to be heard."""

TASK = """
import sys
import tracklayer

with tracklayer.track("training", params={"lr": 0.1}) as run:
    run.log_metrics({"auc": 0.9})
    run.set_tag("a", "b")
    run.log_text("text", "a.txt")
    run.produces("s3://bucket/x", "1")
    run.consumes("s3://bucket/y")
    run.flush()
    print("user code ran")
    if "fail" in sys.argv:
        raise ValueError("the user's own")
    if "exit" in sys.argv:
        sys.exit(7)
"""


def run_task(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:

    script = folder / "task.py"
    script.write_text(TASK)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKLAYER_"))}
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={**clean, **environment, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def ends_as_untracked(folder: Path, environment: Mapping[str, str]) -> str:
    """Run the task in each of the ways in which it can end; what was logged about tracking."""
    told = ""
    for arguments, code, last in (((), 0, ""), (("fail",), 1, "ValueError: the user's own"), (("exit",), 7, "")):
        ended = run_task(folder, environment, *arguments)
        assert ended.returncode == code, ended.stderr
        assert ended.stdout == "user code ran\n"
        assert last in ended.stderr
        told = ended.stderr
    return told


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TRACKLAYER_EXPERIMENT": "{wrokflow}"}, "wrokflow"),
        ({"TRACKLAYER_TIMEOUT": "soon"}, "TRACKLAYER_TIMEOUT"),
        ({"TRACKLAYER_EXPERIMNET": "x"}, "TRACKLAYER_EXPERIMNET"),
        ({"TRACKLAYER_CONFIG": "no-such-file.toml"}, "no-such-file.toml"),
    ],
)
def test_a_wrong_setting_is_named_and_tracking_is_off(
    tmp_path: Path, environment: Mapping[str, str], message: str
) -> None:
    with refused_port() as uri:
        told = ends_as_untracked(tmp_path, {"MLFLOW_TRACKING_URI": uri, **environment})
    assert "tracking is off, because of the settings" in told
    assert message in told
    assert "Traceback" not in told


def test_an_unknown_key_in_the_file_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "tracklayer.toml").write_text('experimnet = "x"\n')
    told = ends_as_untracked(tmp_path, {})
    assert "experimnet" in told
    assert "tracklayer.toml" in told
    assert "experiment" in told


def test_no_tracking_uri_is_said_once(tmp_path: Path) -> None:
    told = ends_as_untracked(tmp_path, {})
    assert told.count("there is no tracking URI. Set MLFLOW_TRACKING_URI") == 1


def test_a_server_that_refuses_connections(tmp_path: Path) -> None:
    with refused_port() as uri:
        before = time.monotonic()
        told = ends_as_untracked(tmp_path, {"MLFLOW_TRACKING_URI": uri})
        assert time.monotonic() - before < 30
    assert uri in told
    assert "the pipeline goes on" in told


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with black_hole() as uri:
        before = time.monotonic()
        told = ends_as_untracked(tmp_path, {"MLFLOW_TRACKING_URI": uri})
        assert time.monotonic() - before < 60  # MLflow's own client would be 20 minutes at it
    assert "the pipeline goes on" in told


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        ({}, "wants credentials (401): set MLFLOW_TRACKING_USERNAME and"),
        (
            {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "wr0ng-password"},
            "refused the credentials of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (401)",
        ),
    ],
)
def test_a_server_that_refuses_the_credentials(
    tmp_path: Path, guarded: MlflowServer, credentials: Mapping[str, str], message: str
) -> None:
    told = ends_as_untracked(tmp_path, {"MLFLOW_TRACKING_URI": guarded.uri, **THERE, **credentials})
    assert message in told
    assert "wr0ng-password" not in told


def test_a_uri_that_nothing_serves(tmp_path: Path) -> None:
    told = ends_as_untracked(tmp_path, {"MLFLOW_TRACKING_URI": "gopher://nowhere"})
    assert "gopher://nowhere" in told


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('no licence')", "cannot be imported: RuntimeError: no licence"),
        ("import os\nraise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        (
            "from tracklayer import hookimpl\n\n@hookimpl\ndef tracklayer_run_tags(context):\n    1 / 0\n",
            "failed in tracklayer_run_tags: ZeroDivisionError",
        ),
        (
            "from tracklayer import hookimpl\n\n@hookimpl\ndef tracklayer_hand_over(context, run, token):\n    1 / 0\n",
            "failed in tracklayer_hand_over: ZeroDivisionError",
        ),
        (
            "from tracklayer import hookimpl\n\n@hookimpl\ndef tracklayer_experiment_name(context):\n    return 42\n",
            "tracking",
        ),
    ],
)
def test_a_broken_plugin_is_named(tmp_path: Path, mlflow_server: MlflowServer, body: str, message: str) -> None:
    (tmp_path / "broken_plugin.py").write_text(body)
    environment = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "TRACKLAYER_PLUGINS": "broken_plugin", **THERE}
    told = ends_as_untracked(tmp_path, environment)
    assert message in told
