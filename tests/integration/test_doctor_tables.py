"""`tracklayer doctor` and the plugins' own tables: nothing in them is ignored silently."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer import registry
from tracklayer.cli.examination import examine
from tracklayer.exceptions import PluginError
from tracklayer.settings import NoSettings, load

if TYPE_CHECKING:
    from pathlib import Path

    from tracklayer.cli.finding import Finding


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("TRACKLAYER_JOURNAL", "off")


def settings_findings(level: str) -> list[Finding]:
    return [finding for finding in examine() if finding.section == "Settings" and finding.level == level]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("[airflow]\nlistner = true\n", "unknown setting 'airflow.listner' in {}"),
        ("[airflow]\napi_timeout = 'soon'\n", "setting 'airflow.api_timeout' in {} must be a number"),
        ("[prefect]\nfoo = 1\n", "unknown setting 'prefect.foo' in {} (value: 1); allowed: none"),
        ("[kubeflow]\nendpoint = 3\n", "setting 'kubeflow.endpoint' in {} must be text, not 3"),
        ("[git]\nbar = 1\n", "unknown setting 'git.bar' in {}"),
    ],
)
def test_what_is_wrong_in_a_table_is_a_problem(tmp_path: Path, table: str, told: str) -> None:
    file = tmp_path / "tracklayer.toml"
    file.write_text(table)
    [problem] = settings_findings("problem")
    assert problem.text.startswith(told.format(file))
    assert problem.advice


def test_so_is_a_variable_and_each_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_LISTNER", "1")
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_OBSERVE", "perhaps")
    texts = sorted(finding.text for finding in settings_findings("problem"))
    assert [text.partition(" in ")[0] for text in texts] == [
        "setting 'airflow.observe'",
        "unknown setting 'airflow.listner'",
    ]
    assert "did you mean 'airflow.listener'?" in texts[1]


def test_what_is_right_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracklayer.toml").write_text("[airflow]\nlistener = false\n[kubeflow]\nendpoint = 'http://k'\n")
    for name in ("GIT_COMMIT", "GIT_TIMEOUT", "KUBEFLOW_PIPELINE"):  # which are no settings, and read by the plugins
        monkeypatch.setenv(f"TRACKLAYER_{name}", "1234567")
    assert not settings_findings("problem")
    assert not settings_findings("warning")


def test_a_table_of_a_plugin_that_is_not_installed_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [entry for entry in entry_points(group=registry.GROUP) if entry.name != "prefect"]
    monkeypatch.setattr("tracklayer.registry.entry_points", lambda **_: others)
    file = tmp_path / "tracklayer.toml"
    file.write_text("disabled_plugins = ['asked-for-here-only']\n[prefect]\nfoo = 1\n")
    [note] = settings_findings("warning")
    assert note.text == "is set for the plugin prefect, which is not installed here"
    file.write_text("disabled_plugins = ['asked-for-here-only', 'prefect']\n[prefect]\nfoo = 1\n")
    assert not settings_findings("warning")


def test_a_plugin_of_ones_own_says_what_its_settings_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme_cron.py").write_text(
        "import msgspec\nfrom tracklayer import hookimpl\n"
        "class Acme(msgspec.Struct):\n    channel: str = ''\n"
        "tracklayer_settings = Acme\n"
        "@hookimpl\ndef tracklayer_run_tags(context): pass\n"
    )
    (tmp_path / "acme_mute.py").write_text(
        "from tracklayer import hookimpl\n@hookimpl\ndef tracklayer_run_tags(context): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tracklayer.toml").write_text(
        "plugins = ['acme_cron', 'acme_mute']\n[acme_cron]\nchanel = 'x'\n[acme_mute]\nany = 1\n"
    )
    [problem] = settings_findings("problem")
    assert "did you mean 'acme_cron.channel'?" in problem.text
    [mute] = [finding for finding in settings_findings("info") if finding.name == "acme_mute"]
    assert "does not say which settings it has" in mute.text


@pytest.mark.parametrize("told", ["no_such_module:Settings", "tracklayer:track", 7])
def test_an_attribute_that_names_no_struct_is_a_problem_of_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: object
) -> None:
    name = f"acme_{str(told)[:8].replace(':', '_')}"
    (tmp_path / f"{name}.py").write_text(f"tracklayer_settings = {told!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=f"tracklayer_settings of the plugin '{name}'"):
        registry.settings_type(load({"plugins": [name]}), name)
    (tmp_path / "tracklayer.toml").write_text(f"plugins = ['{name}']\n")
    assert any(finding.name == name and finding.level == "problem" for finding in examine())


def test_core_asks_for_no_module_of_settings_before_it_is_asked() -> None:
    program = (
        "import sys\nfrom tracklayer import registry, settings\n"
        "registry.load(settings.Settings())\n"
        "assert not [name for name in sys.modules if name.endswith('airflow.settings')], sys.modules\n"
        "print(registry.settings_type(settings.Settings(), 'airflow').__name__, 'airflow' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("AirflowSettings False\n", "")


def test_plugins_without_settings_say_so() -> None:
    kinds: dict[str, Any] = {name: registry.settings_type(load(), name) for name in ("git", "prefect")}
    assert set(kinds.values()) == {NoSettings}
