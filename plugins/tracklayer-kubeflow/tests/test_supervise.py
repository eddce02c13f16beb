"""Tasks end as they would have ended untracked, and are seen to end so: the supervisor around KFP's own executor."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kubeflow_story import Executor, Story

from harness.proxy import black_hole
from tracklayer.provisional import is_provisional
from tracklayer_kubeflow import supervise

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.proxy import RecordingProxy

    UntrackedEnd = Callable[[str], tuple[Executor, subprocess.CompletedProcess[str]]]

ENDINGS = {
    "success": ("def component() -> str:\n    print('done')\n    return 'x'", "FINISHED", None, None),
    "exception": (
        "def component():\n    raise KeyError('no such column')",
        "FAILED",
        "KeyError",
        "'no such column'",
    ),
    "chained": (
        "def component():\n    try:\n        {}['a']\n    except KeyError as error:\n        raise ValueError('bad\\nrow') from error",
        "FAILED",
        "ValueError",
        "bad\nrow",
    ),
    "own exception": (
        "class Oops(Exception):\n    def __str__(self): raise RuntimeError\ndef component():\n    raise Oops",
        "FAILED",
        "Oops",
        "(its message cannot be shown)",
    ),
    "exit 0": ("def component():\n    import sys\n    sys.exit(0)", "FINISHED", None, None),
    "exit 3": ("def component():\n    import sys\n    sys.exit(3)", "FAILED", "SystemExit", "3"),
    "exit text": ("def component():\n    import sys\n    sys.exit('giving up')", "FAILED", "SystemExit", "giving up"),
    "os._exit": ("def component():\n    import os\n    os._exit(7)", "FAILED", "error", "exit code 7"),
    "killed": (
        "def component():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)",
        "KILLED",
        "error",
        "ended by SIGKILL",
    ),
    "aborted": ("def component():\n    import os\n    os.abort()", "FAILED", "error", "ended by SIGABRT"),
    "interrupted": ("def component():\n    raise KeyboardInterrupt", "KILLED", "KeyboardInterrupt", ""),
    "wrong value": ("def component() -> int:\n    return 'seven'", "FAILED", "ValueError", None),
    "syntax error": ("def component():\n    return (", "FAILED", "SyntaxError", None),
}


def without_times(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "<time>", text)


@pytest.fixture(scope="module")
def untracked_end(tmp_path_factory: pytest.TempPathFactory) -> UntrackedEnd:
    """How an ending looks without tracking, and the executor to have it again."""

    @cache
    def end(ending: str) -> tuple[Executor, subprocess.CompletedProcess[str]]:
        executor = Executor(tmp_path_factory.mktemp("ending"), ENDINGS[ending][0])
        return executor, executor.run(tracked=False)

    return end


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings(story: Story, untracked_end: UntrackedEnd, ending: str) -> None:
    _, status, kind, message = ENDINGS[ending]
    executor, untracked = untracked_end(ending)
    tracked = executor.run()
    assert tracked.returncode == untracked.returncode
    assert without_times(tracked.stdout) == without_times(untracked.stdout)
    assert tracked.stderr == untracked.stderr, "also the traceback is the same"
    run = story.stage
    assert run.status == status
    assert run.tags.get("tracklayer.error.type") == kind
    if message is not None:
        assert run.tags["tracklayer.error.message"] == message
    assert story.parent.status == ("FINISHED" if status == "FINISHED" else "FAILED")


@pytest.mark.parametrize("ending", ["success", "exception", "killed"])
@pytest.mark.parametrize("server", ["refused", "black-holed", "broken settings"])
def test_endings_without_a_server(untracked_end: UntrackedEnd, ending: str, server: str) -> None:
    executor, untracked = untracked_end(ending)
    with black_hole() as dead:
        environ = {
            "refused": {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
            "black-holed": {"MLFLOW_TRACKING_URI": dead},
            "broken settings": {"TRACKLAYER_ATTEMPTS": "nonsense"},
        }[server]
        tracked = executor.run(environ=environ)
    assert tracked.returncode == untracked.returncode
    assert without_times(tracked.stdout) == without_times(untracked.stdout)
    told = {"broken settings": "this task runs untracked"}.get(server, "the tracking server is away")
    assert told in tracked.stderr
    assert untracked.stderr in tracked.stderr


@pytest.mark.parametrize("server", ["refused", "off", "broken settings"])
def test_code_that_takes_its_run_for_granted(tmp_path: Path, server: str) -> None:
    code = (
        "def component() -> str:\n    import tracklayer\n    run = tracklayer.current_run()\n"
        "    run.log_metrics({'loss': 1.0})\n    run.log_dict({}, 'a.json')\n    run.produces('s3://b/c', '1')\n"
        "    return str(run.run_id)"
    )
    executor = Executor(tmp_path, code)
    environ = {
        "refused": {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        "off": {"TRACKLAYER_ENABLED": "false"},
        "broken settings": {"TRACKLAYER_ATTEMPTS": "nonsense"},
    }[server]
    ran = executor.run(environ=environ)
    assert ran.returncode == 0, ran.stderr
    (run_id,) = json.loads(executor.output_file.read_text())["parameterValues"].values()
    assert is_provisional(run_id) if server == "refused" else run_id == "None"


def test_a_broken_installation_of_core(tmp_path: Path) -> None:
    (tmp_path / "tracklayer").mkdir()
    (tmp_path / "tracklayer" / "__init__.py").write_text("raise ImportError('half installed')")
    executor = Executor(tmp_path, ENDINGS["success"][0])
    ran = executor.run(environ={"PYTHONPATH": str(tmp_path)})
    assert ran.returncode == 0
    assert "this task runs untracked: ImportError: half installed" in ran.stderr
    assert json.loads(executor.output_file.read_text()) == {"parameterValues": {"Output": "x"}}


def test_signals_reach_the_component(story: Story, tmp_path: Path) -> None:
    code = (
        "def component(marker: str):\n"
        "    import signal, sys, time\n"
        "    def stop(*_):\n"
        "        print('cleaning up', flush=True)\n"
        "        sys.exit(5)\n"
        "    signal.signal(signal.SIGTERM, stop)\n"
        "    open(marker, 'w').close()\n"
        "    time.sleep(60)\n"
    )
    marker = tmp_path / "started"
    process = start(Executor(tmp_path, code, {"marker": str(marker)}))
    wait_for(marker)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "cleaning up" in output
    assert story.stage.status == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_the_component_does_not_handle(story: Story, tmp_path: Path, number: signal.Signals) -> None:
    marker = tmp_path / "started"
    code = "def component(marker: str):\n    import time\n    open(marker, 'w').close()\n    time.sleep(60)"
    process = start(Executor(tmp_path, code, {"marker": str(marker)}))
    wait_for(marker)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    assert story.stage.status == "KILLED"
    assert story.stage.tags["tracklayer.outcome"] == number.name


def test_the_component_dies_with_its_supervisor(story: Story, tmp_path: Path) -> None:
    marker = tmp_path / "started"
    code = (
        "def component(marker: str):\n    import os, time\n    with open(marker + '~', 'w') as file:\n"
        "        file.write(str(os.getpid()))\n    os.rename(marker + '~', marker)\n    time.sleep(60)"
    )
    process = start(Executor(tmp_path, code, {"marker": str(marker)}))
    wait_for(marker)
    component = int(marker.read_text())
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{component}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{component}").exists()


def test_what_the_component_logs_lands_in_the_stage_run(story: Story, tmp_path: Path) -> None:
    code = (
        "def component(model: dsl.Output[dsl.Model], lr: float = 0.1) -> float:\n"
        "    import mlflow\n"
        "    mlflow.log_param('depth', 3)\n"
        "    for step in range(3):\n"
        "        mlflow.log_metric('loss', 1 / (step + 1), step=step)\n"
        "    with mlflow.start_run(nested=True, run_name='fold'):\n"
        "        mlflow.log_metric('fold_loss', 0.5)\n"
        "    open(model.path, 'w').close()\n"
        "    return 0.5\n"
    )
    executor = Executor(tmp_path, code, {"lr": 0.1}, artifacts={"model": "system.Model"})
    ran = executor.run()
    assert ran.returncode == 0, ran.stderr
    (stage,) = [run for run in story.stages if "tracklayer.key" in run.tags]
    assert stage.params == {"depth": "3", "lr": "0.1"}
    assert stage.metrics["loss"] == pytest.approx(1 / 3)
    (fold,) = [run for run in story.runs if run.tags.get("mlflow.parentRunId") == stage.run_id]
    assert (fold.name, fold.status, fold.metrics) == ("fold", "FINISHED", {"fold_loss": 0.5})
    assert stage.status == "FINISHED"
    made = json.loads(executor.output_file.read_text())
    assert made["artifacts"]["model"]["artifacts"][0]["metadata"]["mlflow_run_id"] == stage.run_id


def test_secrets_and_long_parameters(story: Story, tmp_path: Path) -> None:
    code = "def component(api_token: str, query: str, nested: dict):\n    pass"
    parameters = {"api_token": "s3cr3t-value", "query": "select " * 3_000, "nested": {"a": {"b": 1}}}
    assert Executor(tmp_path, code, parameters).run().returncode == 0
    params = story.stage.params
    assert "s3cr3t" not in str(story.runs)
    assert params["nested.a.b"] == "1"
    assert len(params["query"]) <= 6_000


def test_files_and_variables_of_the_caller_reach_the_component(story: Story, tmp_path: Path) -> None:
    code = "def component(number: int):\n    import os\n    os.write(number, os.environ['GREETING'].encode())\n"
    reader, writer = os.pipe()
    command = Executor(tmp_path, code, {"number": writer}).command()
    environ = {**os.environ, "GREETING": "hello"}
    ran = subprocess.run(command, pass_fds=(writer,), env=environ, capture_output=True, text=True, check=False)
    os.close(writer)
    assert ran.returncode == 0, ran.stderr
    assert os.read(reader, 100) == b"hello"
    os.close(reader)


def test_a_script_that_the_component_starts_is_linked(story: Story, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nos.environ.pop('TRACKLAYER_ATTACH', None)\nimport tracklayer\n"
        "with tracklayer.track('score') as run:\n    run.log_metrics({'x': 1})\n"
    )
    code = (
        "def component(script: str):\n    import subprocess, sys\n"
        "    subprocess.run([sys.executable, script], check=True)"
    )
    ran = Executor(tmp_path, code, {"script": str(script)}).run()
    assert ran.returncode == 0, ran.stderr
    (component,) = [run for run in story.stages if run.tags["tracklayer.orchestrator"] == "kubeflow"]
    (score,) = [run for run in story.stages if run.tags["tracklayer.orchestrator"] == "script"]
    assert f"mlflow.tracklayer.upstream.{component.run_id}" in score.tags


def test_the_supervisor_is_light(story: Story, tmp_path: Path) -> None:
    executor = Executor(tmp_path, ENDINGS["success"][0])
    command = executor.command()
    ran = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ran.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}
    assert "tracklayer_kubeflow.supervision" in imported
    heavy = {"mlflow", "kfp", "requests", "pandas", "numpy", "sqlalchemy", "airflow", "prefect", "kubernetes"}
    assert heavy & {name.partition(".")[0] for name in imported} == set()
    assert story.stage.status == "FINISHED"


def test_requests_of_a_task_that_knows_nothing(
    recording_proxy: RecordingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    environ = {"TRACKLAYER_KUBEFLOW_TASK": '{"task": "task"}', "TRACKLAYER_EXPERIMENT": f"requests-{tmp_path.name}"}
    place = "flow/0b1e0a50-2d4b-4b52-9c0f-6a2a4f0f5c11/{}/7d0f9d3c-9b0e-4f3a-8a7c-1f0d2c3b4a59"
    for task in ("first", "second"):
        executor = Executor(tmp_path, "def component(lr: float):\n    pass", {"lr": 0.1}, place=place.format(task))
        assert executor.run(environ=environ).returncode == 0
    told = recording_proxy.calls
    second = told[len(told) - told[::-1].index("GET experiments/get-by-name") - 1 :]
    assert second == [
        "GET experiments/get-by-name",
        "POST runs/search",  # the parent
        "POST runs/create",
        "POST runs/log-batch",
        "POST runs/update",
        "POST experiments/search",  # which is the newest: tasks may be in any
        "POST runs/search",  # does anything run?
        "POST experiments/search",
        "POST runs/search",  # was it the last?
    ]


@pytest.mark.parametrize("arguments", [[], ["--stage"], ["--stage", "x"], ["-m"], ["kfp.dsl.executor_main"]])
def test_a_command_line_that_is_wrong(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="usage: "):
        supervise.parse(arguments)


def test_the_command_line() -> None:
    assert supervise.parse(["--stage", "a b", "-m", "x", "--stage", "y"]) == ("a b", ["x", "--stage", "y"])
    assert supervise.parse(["-m", "x"]) == (None, ["x"])


def start(executor: Executor) -> subprocess.Popen[str]:
    return subprocess.Popen(
        executor.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=executor.folder
    )


def wait_for(marker: Path) -> None:
    deadline = time.monotonic() + 60
    while not marker.exists():
        assert time.monotonic() < deadline, "the component did not start"
        time.sleep(0.02)
