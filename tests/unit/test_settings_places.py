"""Places of settings: which one wins, which files count, and what is told of where a setting is from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness.settings import problem, write
from tracklayer.settings import Settings, load, origins

ROOT = Path(__file__).parents[2]

# ---------------------------------------------------------------------------------------------------------------------
# Which place wins
# ---------------------------------------------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = load(start=tmp_path, environ={})
    assert settings == Settings()
    assert (settings.experiment, settings.run_name, settings.parent_name) == (
        "{workflow}",
        "{task_run}",
        "{workflow_run}",
    )
    assert settings.enabled
    assert settings.tracking_uri is None
    assert settings.on_error == "log"


def test_arguments_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "file"\nproject = "file"\nversion = "file"\n')
    environ = {"TRACKLAYER_PROJECT": "environment", "TRACKLAYER_VERSION": "environment"}
    settings = load({"version": "argument"}, start=tmp_path, environ=environ)
    assert (settings.team, settings.project, settings.version) == ("file", "environment", "argument")
    assert settings.instance == "default"


def test_an_argument_of_none_is_not_given(tmp_path: Path) -> None:
    assert load({"team": None}, start=tmp_path, environ={"TRACKLAYER_TEAM": "risk"}).team == "risk"


def test_the_tracking_uri_of_mlflow_counts_below_our_own_variable_and_above_the_file(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'tracking_uri = "http://file"')
    mlflow = {"MLFLOW_TRACKING_URI": "http://mlflow"}
    assert load(start=tmp_path, environ={}).tracking_uri == "http://file"
    assert load(start=tmp_path, environ=mlflow).tracking_uri == "http://mlflow"
    assert load(start=tmp_path, environ=mlflow | {"TRACKLAYER_TRACKING_URI": "http://own"}).tracking_uri == "http://own"
    assert load({"tracking_uri": "http://argument"}, start=tmp_path, environ=mlflow).tracking_uri == "http://argument"


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "file"')
    environ = {"TRACKLAYER_TEAM": "", "TRACKLAYER_TIMEOUT": "", "MLFLOW_TRACKING_URI": "", "TRACKLAYER_CONFIG": ""}
    settings = load(start=tmp_path, environ=environ)
    assert settings.team == "file"
    assert settings.tracking_uri is None


def test_the_process_environment_and_working_directory_are_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "file"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKLAYER_PROJECT", "environment")
    settings = load()
    assert (settings.team, settings.project) == ("file", "environment")


def test_settings_are_read_anew_each_time(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "one"')
    assert load(start=tmp_path, environ={}).team == "one"
    write(tmp_path, "tracklayer.toml", 'team = "two"')
    assert load(start=tmp_path, environ={}).team == "two"


# ---------------------------------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------------------------------


def test_the_nearest_file_above_counts_and_only_that(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "top"\nproject = "top"')
    below = tmp_path / "a" / "b"
    write(tmp_path / "a", "pyproject.toml", '[tool.tracklayer]\nteam = "near"')
    below.mkdir()
    settings = load(start=below, environ={})
    assert (settings.team, settings.project) == ("near", None)


@pytest.mark.parametrize(
    "text",
    [
        '[tool.tracklayer]\nteam = "risk"',
        '[tool]\ntracklayer = {team = "risk"}',
        '[tool]\ntracklayer.team = "risk"',
        '[ tool . "tracklayer" ]\nteam = "risk"',
        'tool.tracklayer.team = "risk"',
        "[\"tool\".'tracklayer']\nteam = 'risk'",
    ],
)
def test_the_table_of_a_project_file_is_found_however_it_is_written(tmp_path: Path, text: str) -> None:
    write(tmp_path, "pyproject.toml", text)
    assert load(start=tmp_path, environ={}).team == "risk"


def test_a_project_file_without_our_table_is_passed_over_even_if_it_is_broken(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "above"')
    write(tmp_path / "a", "pyproject.toml", '[project]\ndependencies = ["tracklayer-airflow"]\n')
    write(tmp_path / "a" / "b", "pyproject.toml", "[project\nthis is no TOML")
    assert load(start=tmp_path / "a" / "b", environ={}).team == "above"


def test_our_own_file_wins_over_the_project_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "own"')
    write(tmp_path, "pyproject.toml", '[tool.tracklayer]\nteam = "project"')
    assert load(start=tmp_path, environ={}).team == "own"


def test_the_variable_names_a_file_explicitly(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "near"')
    other = write(tmp_path / "etc", "production.toml", 'team = "explicit"')
    project = write(tmp_path / "other", "pyproject.toml", '[tool.tracklayer]\nteam = "project"')
    assert load(start=tmp_path, environ={"TRACKLAYER_CONFIG": str(other)}).team == "explicit"
    assert load(start=tmp_path, environ={"TRACKLAYER_CONFIG": str(project)}).team == "project"


def test_an_explicit_file_must_be_there_and_hold_settings(tmp_path: Path) -> None:
    gone = tmp_path / "gone.toml"
    assert f"TRACKLAYER_CONFIG names {gone}" in problem(environ={"TRACKLAYER_CONFIG": str(gone)})
    empty = write(tmp_path, "pyproject.toml", "[project]\nname = 'x'")
    assert "no table [tool.tracklayer]" in problem(environ={"TRACKLAYER_CONFIG": str(empty)})


def test_a_file_that_is_no_toml_is_named_with_the_place_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, "tracklayer.toml", "team = risk")
    message = problem(start=tmp_path, environ={})
    assert str(path) in message
    assert "line 1" in message


def test_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "pyproject.toml", "[tool]\ntracklayer = 3")
    assert problem(start=tmp_path, environ={}) == f"tool.tracklayer in {path} must be a table, not int"


def test_a_working_directory_that_is_gone_is_no_error(tmp_path: Path) -> None:
    script = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\nfrom tracklayer.settings import load\nload()"
    )
    (tmp_path / "gone").mkdir()
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "gone")], check=True, env=_clean_environment())


def test_a_file_that_somebody_else_put_into_a_folder_for_everybody_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    shared = tmp_path / "shared"
    path = write(shared, "tracklayer.toml", 'plugins = ["evil:plugin"]')
    shared.chmod(0o1777)
    assert load(start=shared, environ={}).plugins == ("evil:plugin",)
    os.chown(path, 4711, 4711)
    assert load(start=shared, environ={}).plugins == ()
    assert f"{path} is ignored" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# What is told of them
# ---------------------------------------------------------------------------------------------------------------------


def test_the_places_of_settings_are_told(tmp_path: Path) -> None:
    file = write(tmp_path, "tracklayer.toml", 'team = "risk"\nproject = "x"\n[airflow]\nretries = 1')
    environ = {"TRACKLAYER_PROJECT": "y", "TRACKLAYER_AIRFLOW_OBSERVE": "1", "MLFLOW_TRACKING_URI": "http://x"}
    assert origins(start=tmp_path, environ=environ) == {
        "team": f"in {file}",
        "project": "in the environment variable TRACKLAYER_PROJECT",
        "tracking_uri": "in the environment variable MLFLOW_TRACKING_URI",
        "airflow.retries": f"in {file}",
        "airflow.observe": "in the environment variable TRACKLAYER_AIRFLOW_OBSERVE",
    }


def test_loading_imports_no_metadata_and_nothing_heavy(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "risk"\n[airflow]\nx = 1')
    script = (
        "import sys; from tracklayer.settings import load; load()\n"
        "heavy = {'mlflow', 'pydantic', 'requests', 'urllib3', 'importlib.metadata', 'numpy', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    environ = _clean_environment() | {"TRACKLAYER_AIRFLOW_OBSERVE": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environ)


def _clean_environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TRACKLAYER_", "MLFLOW_"))}
    return kept | {"PYTHONPATH": str(ROOT / "src")}


def test_the_reference_page_lists_exactly_the_settings() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| `(TRACKLAYER_\w+)` \|", page, re.MULTILINE)
    fields = {field.name: field for field in msgspec.structs.fields(Settings) if field.name != "tables"}
    assert [name for name, *_ in rows] == list(fields)
    for name, _, default, variable in rows:
        assert variable == f"TRACKLAYER_{name.upper()}"
        value = fields[name].default
        shown = "none" if value in {None, ()} else f"`{str(value).lower() if isinstance(value, bool) else value}`"
        assert default.strip() == shown
