"""``tracklayer reconcile`` as somebody types it: exit codes, what it says, and that it changes nothing unasked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.orchestrator import NAME, PLUGIN, VARIABLE, Truth
from harness.process import Program, free_port, wait_for
from harness.proxy import Answer
from harness.story import Author
from tracklayer.cli import main
from tracklayer.cli.reconcile import SOMETHING_TO_DO
from tracklayer.cli.watching import STOPPING, repeated
from tracklayer.identity import parse_key
from tracklayer.reconcile.findings import KINDS
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.context import RunRef
    from tracklayer.journal.bell import Latch

ENDED = datetime(2027, 1, 1, 12, 30, tzinfo=UTC)
REFERENCE = Path(__file__).parents[2] / "docs/reference/cli.md"


class Story:
    """One open stage run of a workflow run that its orchestrator says has failed."""

    def __init__(self, server: MlflowServer, truth: Truth) -> None:
        self.uri = server.uri
        self.store = open_store(server.uri, connect_timeout=5, timeout=30)
        author = Author(self.store)
        context, self.parent = author.workflow_run(NAME, "flights", f"run-{author.mark}")
        self.stage = author.stage(context, "train", "training", status=None)
        self.context = context
        self.experiment = context.workflow_run.workflow
        truth.workflow(context.workflow_run.run_id, "FAILED", ENDED, said="[bold]timed out[/bold]")

    def status(self, run: RunRef) -> str:
        return self.store.get_run(run.run_id).status


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Truth:
    path = tmp_path / "truth.json"
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.setenv("TRACKLAYER_PLUGINS", PLUGIN)
    monkeypatch.setenv("TRACKLAYER_DISABLED_PLUGINS", "airflow,git,kubeflow,prefect")
    return Truth(path)


@pytest.fixture
def story(mlflow_server: MlflowServer, truth: Truth, monkeypatch: pytest.MonkeyPatch) -> Story:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("COLUMNS", "160")
    return Story(mlflow_server, truth)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["reconcile", *arguments])
    return int(ended.value.code or 0)


def test_a_look_changes_nothing_and_says_what_it_would(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--experiment", story.experiment) == SOMETHING_TO_DO
    told = capsys.readouterr().out
    assert "RUNNING → KILLED, ended 2027-01-01T12:30:00Z" in told
    assert "[bold]timed out[/bold]" in told, "what comes from outside is no markup"
    assert story.stage.run_id[:8] in told
    assert "--apply" in told
    assert story.status(story.stage) == "RUNNING"


def test_applied_it_says_what_it_changed_and_then_there_is_nothing_to_do(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--experiment", story.experiment, "--apply") == 0
    assert "1 changed" in capsys.readouterr().out
    assert story.status(story.stage) == "KILLED"
    assert run("--experiment", story.experiment) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_as_json(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    for applied, code in ((False, SOMETHING_TO_DO), (True, 0)):
        arguments = ("--experiment", story.experiment, "--format", "json", *(["--apply"] if applied else []))
        assert run(*arguments) == code
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        (finding,) = told["findings"]
        assert finding == {
            "kind": "open-run",
            "run_id": story.stage.run_id,
            "experiment_id": story.stage.experiment_id,
            "name": "train",
            "key": story.stage.key,
            "change": "RUNNING → KILLED, ended 2027-01-01T12:30:00Z",
            "because": "harness says that its workflow run has failed ([bold]timed out[/bold])",
            "details": {"status": "KILLED", "ended_at": "2027-01-01T12:30:00Z"},
            "changed": applied,
            "error": None,
        }
        assert (told["schema"], told["applied"], told["more"]) == ("tracklayer.reconcile/1", applied, False)
        assert (told["left_alone"], told["unknown"]) == ([], 0)
        assert 0 < told["covered"] <= told["looked_at"]


def test_filters(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    mine = ("--experiment", story.experiment)
    assert run(*mine, "--orchestrator", "airflow", "--orchestrator", "script") == 0
    assert run(*mine, "--workflow", "another") == 0
    assert "None of them is tracklayer's and of what was asked for." in capsys.readouterr().out
    assert run(*mine, "--workflow", story.experiment, "--orchestrator", NAME) == SOMETHING_TO_DO
    assert run("--experiment", "there is none") == 1
    assert "'there is none'" in capsys.readouterr().err
    assert run(*mine, "--since", "soon") == 2
    assert "7d" in capsys.readouterr().err
    for hasty in (("--older-than", "2"), ("--watch", "--interval", "0s")):
        assert run(*mine, *hasty, "--apply") == 2, "2 of what?"


def test_a_server_that_is_away_is_a_problem(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--tracking-uri", f"http://127.0.0.1:{free_port()}") == 1
    assert "Error" in capsys.readouterr().err


def test_a_server_that_goes_away_meanwhile(
    story: Story, proxy_before: Callable[[str], RecordingProxy], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was changed until then is told; and names do not steer whoever looks."""
    author = Author(story.store)
    later = author.stage(
        story.context,
        "report",
        "report",
        status=None,
        name="\x1b]0;owned\x07report\n0 runs were looked at. There is nothing to do.",
    )
    for form in ("text", "json"):
        proxy = proxy_before(story.uri)
        seen: list[str] = []

        def ends(handler: Any, seen: list[str] = seen) -> Any:
            """The first run can be ended; then nobody answers any more."""
            seen.append(handler.path)
            return handler.forwarded() if len(seen) == 1 else Answer(503)

        proxy.fault(ends, "runs/update", times=100)
        mine = ("--experiment", story.experiment, "--tracking-uri", proxy.uri)
        assert run(*mine, "--apply", "--format", form) == 1
        told = capsys.readouterr()
        assert "503" in told.err
        assert "\x1b" not in told.out
        assert not [line for line in told.out.splitlines() if line.strip().startswith("0 runs")], "a line of its own"
        if form == "text":
            assert "1 changed, 1 not tried: the server could not be reached any more." in told.out
            assert ": not tried" in told.out
        else:
            assert sorted(finding["changed"] for finding in json.loads(told.out)["findings"]) == [False, True]
        for reopened in (story.stage, later):
            story.store.update_run(reopened.run_id, status="RUNNING")


def test_an_orchestrator_that_cannot_be_asked_is_said_once(
    story: Story, truth: Truth, capsys: pytest.CaptureFixture[str]
) -> None:
    author = Author(story.store, mark=story.experiment.rpartition("-")[2])
    for number in range(3):
        author.stage(author.workflow_run(NAME, "flights", f"r{number}")[0], "train", "training", status=None)
    truth.path.write_text("not to be read")
    for arguments in ((), ("--apply",)):
        assert run("--experiment", story.experiment, *arguments) == 1
        told = capsys.readouterr()
        assert told.err.count("plugin 'harness.orchestrator' failed in tracklayer_task_state") == 1
        assert "Left alone: 4" in told.out
        assert "harness could not be asked what has become of it" in told.out
        assert "An orchestrator could not be asked about 4 runs." in told.out
        assert "nothing to do" not in told.out, "nobody knows"
    assert run("--experiment", story.experiment, "--format", "json") == 1
    assert json.loads(capsys.readouterr().out)["unasked"] == 4


def test_a_task_that_could_not_be_asked_about_is_not_ended_with_its_workflow_run(
    story: Story, truth: Truth, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one question failed, the other one was answered: it may well have succeeded."""
    run_id = parse_key(str(story.stage.key))[0].run_id
    told = json.loads(truth.path.read_text())
    truth.path.write_text(json.dumps({**told, f"{run_id}/train#1": "not to be read"}))
    assert run("--experiment", story.experiment, "--apply") == 1
    assert "could not be asked about 1 run." in capsys.readouterr().out
    assert story.status(story.stage) == "RUNNING"


def watching(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from tracklayer.cli import main; main()", "reconcile", "--watch", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # where the plugin is
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watching_ends_in_order_when_it_is_told_to(story: Story, number: signal.Signals) -> None:
    """By a container's runtime or systemd, or by whoever sits there; the exit code is that of the last round."""
    mine = ("--experiment", story.experiment, "--interval", "1h", "--format", "json")
    for applied, code in ((False, SOMETHING_TO_DO), (True, 0)):
        program = watching(*mine, *(["--apply"] if applied else []))
        try:
            assert program.stdout is not None
            findings = json.loads(program.stdout.readline())["findings"]
            program.send_signal(number)
            rest, told = program.communicate(timeout=60)
        finally:
            program.kill()
        assert [finding["changed"] for finding in findings] == [applied]
        assert (program.returncode, rest, told) == (code, "", "")


def test_watching_is_told_to_end_while_the_server_is_away(story: Story) -> None:
    program = watching("--tracking-uri", f"http://127.0.0.1:{free_port()}", "--interval", "1h")
    try:
        assert program.stderr is not None
        assert "trying again in 3600 s" in program.stderr.readline()
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 1


def test_who_insists_need_not_wait_for_the_end_of_a_round() -> None:
    def once(stop: Latch) -> None:
        opened.append(stop.is_open)
        signal.raise_signal(signal.SIGINT)
        opened.append(stop.is_open)  # so that the round may come to an end
        rounds.append("told once")
        signal.raise_signal(signal.SIGINT)
        rounds.append("told twice")

    rounds: list[str] = []
    opened: list[bool] = []
    before = [signal.getsignal(number) for number in STOPPING]
    with pytest.raises(KeyboardInterrupt):
        repeated(once, 3600.0)
    assert (rounds, opened) == (["told once"], [False, True])
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_watching_does_it_again_and_survives_a_server_that_is_away(story: Story, tmp_path: Path) -> None:
    def logged(name: str, *arguments: str) -> Program:
        told = [*arguments, "--watch", "--interval", "0.2", "--format", "json"]
        command = [sys.executable, "-c", "from tracklayer.cli import main; main()", "reconcile", *told]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # where the plugin is
        return Program(command, log=tmp_path / name, environ=environ)

    program = logged("log", "--experiment", story.experiment, "--apply")
    try:
        wait_for(lambda: story.status(story.stage) == "KILLED", 60, "end of the stage run", program)
        story.store.update_run(story.stage.run_id, status="RUNNING")
        wait_for(lambda: story.status(story.stage) == "KILLED", 60, "end of the stage run, once more", program)
    finally:
        program.stop()
    rounds = [json.loads(line) for line in program.output(1_000_000).splitlines() if line.endswith("}")]
    assert sum(len(told["findings"]) for told in rounds) >= 2

    program = logged("away", "--tracking-uri", f"http://127.0.0.1:{free_port()}")
    try:
        wait_for(lambda: program.output().count("trying again") >= 2, 60, "second round", program)
    finally:
        program.stop()


def test_the_reference_names_every_kind_and_field() -> None:
    section = REFERENCE.read_text().partition("## tracklayer reconcile")[2].partition("\n## ")[0]
    for kind in KINDS:
        assert f"`{kind.kind}`" in section
        assert {field.name for field in fields(kind)} >= {"run"}
    for name in (
        "schema",
        "applied",
        "looked_at",
        "covered",
        "more",
        "findings",
        "left_alone",
        "unknown",
        "changed",
        "error",
    ):
        assert f"`{name}`" in section
