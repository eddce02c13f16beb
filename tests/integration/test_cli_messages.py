"""What the command line says: that it names what was typed, says it once, and cuts nothing off."""

from __future__ import annotations

import re
from socket import gethostname
from typing import TYPE_CHECKING

import pytest

from harness.command import Ended, ended_here
from tracklayer import scripts
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ended]:
    """Run a command in this process, where nothing is set but an address at which nobody answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("TRACKLAYER_JOURNAL", str(tmp_path / "journals"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(*arguments: str, columns: int = 200) -> Ended:
        return ended_here(arguments, capsys, monkeypatch, columns)

    return run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("reconcile", "--since", "7"), "Invalid value for '--since': '7' of what?"),
        (("reconcile", "--since", "soon"), "Invalid value for '--since': 'soon' is no length of time"),
        (("reconcile", "--older-than", "7"), "Invalid value for '--older-than': '7' of what?"),
        (("reconcile", "--older-than", "99999w"), "Invalid value for '--older-than': '99999w' is too long"),
        (("reconcile", "--interval", "soon"), "Invalid value for '--interval': 'soon' is no length of time"),
        (("flush", "--interval", "0"), "Invalid value for '--interval': '0' is too short"),
    ],
)
def test_a_length_of_time_that_is_none_is_told_with_its_option(
    cli: Callable[..., Ended], arguments: tuple[str, ...], told: str
) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert told in ended.err


def test_the_doctors_example_is_where_a_script_would_be(
    cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKLAYER_EXPERIMENT", "{instance}/{workflow}")
    monkeypatch.setenv("TRACKLAYER_INSTANCE", "elsewhere")
    place = {
        finding["name"]: finding["text"]
        for finding in cli("doctor", "--format", "json").json["findings"]
        if finding["section"] == "This place"
    }
    made = scripts.script_context("training").workflow_run
    assert made.instance == gethostname()
    assert place["experiment"] == f"{made.instance}/example"
    assert place["key"].startswith(f"script:{made.instance}/example/")


def test_a_name_in_disabled_plugins_that_is_that_of_none_is_told(
    cli: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "risk_rules.py").write_text(
        "from tracklayer import hookimpl\n@hookimpl\ndef tracklayer_run_tags(context): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = "plugins = ['risk_rules']\ndisabled_plugins = ['git', 'risk-rules']\n"
    (tmp_path / "tracklayer.toml").write_text(settings)
    ended = cli("plugins")
    assert ended.code == 0
    assert ended.err == "disabled_plugins names risk-rules, and no plugin here is called so\n"
    told = [
        finding["name"]
        for finding in cli("doctor", "--format", "json").json["findings"]
        if "called so" in finding["text"]
    ]
    assert told == ["risk-rules"]
    (tmp_path / "tracklayer.toml").write_text(settings.replace("risk-rules", "risk_rules"))
    ended = cli("plugins")
    assert ended.err == ""
    assert ended.out.count("disabled by the setting disabled_plugins") == 2, (
        "the name in the list is the one that counts"
    )


@pytest.mark.parametrize("name", ["ü", ""])
def test_what_is_no_name_of_a_run_is_told_once(cli: Callable[..., Ended], name: str) -> None:
    ended = cli("lineage", name, columns=1000)
    assert ended.code == 1
    assert ended.err.count("a run id (or at least 6 of its first digits)") == 1


def test_where_the_back_end_is_wrong_the_runs_name_is_not(cli: Callable[..., Ended]) -> None:
    ended = cli("lineage", "0123456789ab", "--tracking-uri", "foo://bar")
    assert ended.code == 1
    assert "foo://bar" in ended.err
    assert "A run is named by" not in ended.err


@pytest.mark.parametrize("address", ["127.0.0.1:5077", "mlflow.example.com:443/base"])
@pytest.mark.parametrize("command", ["lineage", "doctor"])
def test_an_address_without_a_scheme_is_told_as_such(cli: Callable[..., Ended], command: str, address: str) -> None:
    ended = cli(command, *(("0123456789ab",) if command == "lineage" else ()), "--tracking-uri", address)
    assert ended.code == 1
    assert f"the tracking URI {address} has no scheme: http://{address} is one that has" in ended.out + ended.err


def test_a_narrow_terminal_cuts_no_servers_address(cli: Callable[..., Ended], tmp_path: Path) -> None:
    server = "https://mlflow.example.com:8443/base"
    folder = JournalFolder(tmp_path / "journals")
    journal = LiveJournal(folder, Header(1, server, "pod-7", 1, 1_795_262_400_000), limit=1_048_576)
    path = journal.path
    assert path is not None
    journal.close(remove=False)
    told = cli("journal", "ls", columns=80).out
    assert "…" not in told
    _, head, rows = re.split("(^journal .*\n)", told, flags=re.MULTILINE)
    begin, end = head.index("server"), head.index("deliver")
    assert "".join(line[begin:end].strip() for line in rows.splitlines()) == server
    assert "".join(line[: head.index("state")].strip() for line in rows.splitlines()) == path.name
    assert path.name in cli("journal", "ls", columns=120).out
