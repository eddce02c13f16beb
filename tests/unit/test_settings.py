"""Settings: which place wins, what is refused, and what the message says."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from tracklayer.exceptions import SettingsError
from tracklayer.settings import Settings, load, origins, table

ROOT = Path(__file__).parents[2]


class Airflow(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's own settings, with one field of each kind."""

    xcom_key: str = "tracklayer"
    observe: bool = False
    retries: Annotated[int, msgspec.Meta(ge=0)] = 3
    pools: tuple[str, ...] = ()
    limits: tuple[int, ...] = ()
    connection: str | None = None
    api_token: str | None = None
    mode: Literal["managed", "observed"] = "managed"
    names: dict[str, str] = {}


class Strict(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that cannot do without one setting, and looks at another itself."""

    endpoint: str
    port: int = 80

    def __post_init__(self) -> None:
        if self.port == 22:
            raise ValueError("port 22 is for ssh")


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return folder / name


def problem(*args: object, **kwargs: object) -> str:
    with pytest.raises(SettingsError) as raised:
        load(*args, **kwargs)  # type: ignore[arg-type]
    return str(raised.value)


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
# Types
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("Yes", True), (" ON ", True), ("0", False), ("False", False), ("no", False)],
)
def test_booleans_of_the_environment(text: str, value: bool, tmp_path: Path) -> None:
    assert load(start=tmp_path, environ={"TRACKLAYER_ENABLED": text}).enabled is value


def test_numbers_and_lists_of_the_environment(tmp_path: Path) -> None:
    environ = {"TRACKLAYER_TIMEOUT": "2.5", "TRACKLAYER_CONNECT_TIMEOUT": "3", "TRACKLAYER_REDACT": "ssn, iban ,"}
    settings = load(start=tmp_path, environ=environ)
    assert (settings.timeout, settings.connect_timeout, settings.redact) == (2.5, 3.0, ("ssn", "iban"))


def test_a_lone_comma_is_the_empty_list(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'disabled_plugins = ["git"]')
    assert load(start=tmp_path, environ={"TRACKLAYER_DISABLED_PLUGINS": ","}).disabled_plugins == ()


def test_whole_numbers_of_a_file_are_numbers(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'timeout = 2\nplugins = ["a:b"]')
    settings = load(start=tmp_path, environ={})
    assert (settings.timeout, settings.plugins) == (2.0, ("a:b",))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("enabled = 1", "'enabled' in {file} must be true or false, not 1"),
        ("team = 3", "'team' in {file} must be text, not 3"),
        ("timeout = '5'", "'timeout' in {file} must be a number greater than 0 and at most 3600, not '5'"),
        ("timeout = 0", "'timeout' in {file} must be a number greater than 0 and at most 3600, not 0"),
        ("timeout = nan", "'timeout' in {file} must be a number greater than 0 and at most 3600, not nan"),
        ("timeout = inf", "'timeout' in {file} must be a number greater than 0 and at most 3600, not inf"),
        ("on_error = 'ignore'", "'on_error' in {file} must be 'log' or 'raise', not 'ignore'"),
        ("plugins = 'a:b'", "'plugins' in {file} must be a list of text, not 'a:b'"),
        ("plugins = [1]", "'plugins' in {file} must be a list of text, not [1]"),
        ("[experiment]\nname = 'x'", "'experiment' in {file} must be text, not {{'name': 'x'}}"),
        ("airflow = true", "'airflow' in {file} must be a table of the plugin 'airflow', not True"),
    ],
)
def test_a_wrong_type_is_told_with_key_file_value_and_what_is_allowed(line: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, "tracklayer.toml", line)
    assert problem(start=tmp_path, environ={}) == "setting " + said.format(file=f"{file}")


def test_a_wrong_type_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    message = problem(start=tmp_path, environ={"TRACKLAYER_ENABLED": "maybe", "TRACKLAYER_TIMEOUT": "soon"})
    assert "'enabled' in the environment variable TRACKLAYER_ENABLED must be true or false, not 'maybe'" in message
    assert "TRACKLAYER_TIMEOUT must be a number greater than 0" in message
    assert "not 'soon'" in message


def test_a_wrong_argument_names_the_arguments(tmp_path: Path) -> None:
    message = problem({"timeout": "5"}, start=tmp_path, environ={})
    assert message.startswith("setting 'timeout' in the arguments must be a number")


# ---------------------------------------------------------------------------------------------------------------------
# Unknown keys
# ---------------------------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_told_with_its_nearest_neighbour_and_all_that_is_allowed(tmp_path: Path) -> None:
    file = write(tmp_path, "tracklayer.toml", 'experment = "x"')
    message = problem(start=tmp_path, environ={})
    assert f"unknown setting 'experment' in {file} (value: 'x'); did you mean 'experiment'?" in message
    allowed = message.partition("allowed: ")[2].split(", ")
    assert {*Settings.__struct_fields__, "airflow", "prefect", "kubeflow", "git"} - {"tables"} == set(allowed)


def test_a_dash_where_an_underscore_belongs_is_told(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'disabled-plugins = ["git"]')
    assert "did you mean 'disabled_plugins'?" in problem(start=tmp_path, environ={})


def test_an_unknown_argument_is_told() -> None:
    assert "unknown setting 'stage' in the arguments" in problem({"stage": "x"}, environ={})


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", "team = 3\nprojekt = 'x'\n")
    message = problem(start=tmp_path, environ={"TRACKLAYER_TIMOUT": "1"})
    assert ["'team'" in message, "'projekt'" in message, "TRACKLAYER_TIMOUT" in message] == [True] * 3
    assert len(message.splitlines()) == 3


def test_an_unknown_variable_is_told(tmp_path: Path) -> None:
    message = problem(start=tmp_path, environ={"TRACKLAYER_TRACKING_URL": "http://x"})
    assert "in the environment variable TRACKLAYER_TRACKING_URL" in message
    assert "did you mean 'tracking_uri'?" in message


def test_variables_that_are_no_settings_pass(tmp_path: Path) -> None:
    environ = {
        "TRACKLAYER_PARENT": "tl1.x",
        "TRACKLAYER_ATTACH": "tl1.x",
        "TRACKLAYER_REQUIRE_BACKENDS": "postgresql",
        "TRACKLAYER_TEST_MYSQL": "mysql://root@127.0.0.1",
        "TRACKLAYER_GIT_COMMIT": "abc",
        "TRACKLAYER_KUBEFLOW_RUN_ID": "1",
        "TRACKLAYERS": "another program's",
        "OTHER": "1",
    }
    assert load(start=tmp_path, environ=environ).enabled


def test_what_kubernetes_says_about_a_service_called_tracklayer_passes(tmp_path: Path) -> None:
    environ = {
        "TRACKLAYER_SERVICE_HOST": "10.0.0.1",
        "TRACKLAYER_SERVICE_PORT": "80",
        "TRACKLAYER_SERVICE_PORT_HTTP": "80",
        "TRACKLAYER_PORT": "tcp://10.0.0.1:80",
        "TRACKLAYER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "TRACKLAYER_PORT_80_TCP_ADDR": "10.0.0.1",
        "TRACKLAYER_UI_SERVICE_HOST": "10.0.0.2",
        "TRACKLAYER_UI_PORT_8080_TCP_PROTO": "tcp",
    }
    assert load(start=tmp_path, environ=environ).enabled


def test_a_value_under_a_secret_name_and_a_password_in_a_uri_stay_out_of_messages(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'tracking_password = "hunter2"\ntimeout = "http://me:hunter2@host"')
    environ = {"TRACKLAYER_TRACKING_UIR": "http://me:hunter2@host", "TRACKLAYER_API_TOKEN": "hunter2"}
    message = problem(start=tmp_path, environ=environ)
    assert "hunter2" not in message
    assert "http://me:***@host" in message
    uri = "postgresql://me:hunter2@host/mlflow"
    settings = load({"tracking_uri": uri, "ui_url": uri}, start=tmp_path.parent, environ={})
    assert settings.tracking_uri == uri
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


# ---------------------------------------------------------------------------------------------------------------------
# Templates
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["experiment", "run_name", "parent_name"])
def test_an_unknown_template_field_is_told_with_key_and_place(key: str, tmp_path: Path) -> None:
    file = write(tmp_path, "tracklayer.toml", f'{key} = "{{workflwo}}-x"')
    message = problem(start=tmp_path, environ={})
    assert message.startswith(f"setting '{key}' in {file}: unknown field {{workflwo}} in '{{workflwo}}-x'")
    assert "did you mean {workflow}?" in message
    assert "{params.<key>}" in message


# ---------------------------------------------------------------------------------------------------------------------
# Plugins' tables
# ---------------------------------------------------------------------------------------------------------------------


def test_a_plugin_reads_its_own_table(tmp_path: Path) -> None:
    write(tmp_path, "pyproject.toml", '[tool.tracklayer.airflow]\nxcom_key = "mlflow"\npools = ["a", "b"]\nretries = 1')
    airflow = table(load(start=tmp_path, environ={}), "airflow", Airflow)
    assert airflow == Airflow(xcom_key="mlflow", pools=("a", "b"), retries=1)


def test_without_a_table_the_plugins_defaults_hold(tmp_path: Path) -> None:
    assert table(load(start=tmp_path, environ={}), "airflow", Airflow) == Airflow()
    assert table(Settings(), "airflow", Airflow) == Airflow()


def test_environment_wins_over_the_plugins_table_and_arguments_over_both(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", '[airflow]\nxcom_key = "file"\nretries = 1\nmode = "observed"')
    environ = {
        "TRACKLAYER_AIRFLOW_XCOM_KEY": "environment",
        "TRACKLAYER_AIRFLOW_OBSERVE": "yes",
        "TRACKLAYER_AIRFLOW_LIMITS": "1, 2",
        "TRACKLAYER_AIRFLOW_NAMES": '{"a": "b"}',
        "TRACKLAYER_AIRFLOW_RETRIES": "2",
        "TRACKLAYER_AIRFLOW_CONNECTION": "mlflow_default",
    }
    settings = load({"airflow": {"retries": 7}}, start=tmp_path, environ=environ)
    assert table(settings, "airflow", Airflow) == Airflow(
        xcom_key="environment",
        observe=True,
        limits=(1, 2),
        names={"a": "b"},
        retries=7,
        mode="observed",
        connection="mlflow_default",
    )


def test_tables_given_directly_are_read_too() -> None:
    settings = Settings(tables={"airflow": {"retries": 9}})
    assert table(settings, "airflow", Airflow).retries == 9


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "xcom-key = 'x'",
            "unknown setting 'airflow.xcom-key' in {file} (value: 'x'); did you mean 'airflow.xcom_key'?",
        ),
        ("retries = 'many'", "setting 'airflow.retries' in {file} must be a whole number at least 0, not 'many'"),
        ("retries = -1", "setting 'airflow.retries' in {file} must be a whole number at least 0, not -1"),
        ("mode = 'x'", "setting 'airflow.mode' in {file} must be 'managed' or 'observed', not 'x'"),
        ("api_token = 5", "setting 'airflow.api_token' in {file} must be text, not 5"),
        ("api_token = ['hunter2']", "setting 'airflow.api_token' in {file} must be text, not '***'"),
    ],
)
def test_what_is_wrong_in_a_plugins_table_is_told(line: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, "tracklayer.toml", f"[airflow]\n{line}")
    settings = load(start=tmp_path, environ={})
    with pytest.raises(SettingsError, match=re.escape(said.format(file=file))):
        table(settings, "airflow", Airflow)


def test_what_is_wrong_in_a_plugins_variables_is_told(tmp_path: Path) -> None:
    settings = load(start=tmp_path, environ={"TRACKLAYER_AIRFLOW_XCOMKEY": "x", "TRACKLAYER_AIRFLOW_NAMES": "{"})
    with pytest.raises(SettingsError) as raised:
        table(settings, "airflow", Airflow)
    assert "in the environment variable TRACKLAYER_AIRFLOW_XCOMKEY" in str(raised.value)
    assert "did you mean 'airflow.xcom_key'?" in str(raised.value)
    assert "'airflow.names' in the environment variable TRACKLAYER_AIRFLOW_NAMES must be a table" in str(raised.value)


def test_variables_below_a_reserved_prefix_pass_unless_they_look_misspelt(tmp_path: Path) -> None:
    settings = load(start=tmp_path, environ={"TRACKLAYER_GIT_COMMIT": "abc", "TRACKLAYER_GIT_RETRIES": "5"})
    assert table(settings, "git", Airflow) == Airflow(retries=5)
    settings = load(start=tmp_path, environ={"TRACKLAYER_GIT_RETRYES": "5"})
    with pytest.raises(SettingsError, match=r"did you mean 'git\.retries'"):
        table(settings, "git", Airflow)


def test_a_setting_that_a_plugin_needs_and_what_it_checks_itself_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"setting 'airflow.endpoint' is missing: set it as TRACKLAYER_AIRFLOW_ENDPOINT"
    ):
        table(load(start=tmp_path, environ={}), "airflow", Strict)
    settings = load({"airflow": {"endpoint": "x", "port": 22}}, start=tmp_path, environ={})
    with pytest.raises(SettingsError, match="'airflow': port 22 is for ssh"):
        table(settings, "airflow", Strict)


def test_a_table_that_belongs_to_no_plugin_is_told(tmp_path: Path) -> None:
    file = write(tmp_path, "tracklayer.toml", "[airfow]\nretries = 1")
    message = problem(start=tmp_path, environ={})
    assert f"unknown setting 'airfow' in {file} (value: {{'retries': 1}}); did you mean 'airflow'?" in message


def test_tables_of_this_projects_plugins_are_allowed_where_they_are_not_installed(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", "[airflow]\n[prefect]\n[kubeflow]\n[git]\nx = 1")
    assert set(load(start=tmp_path, environ={}).tables) == {"airflow", "prefect", "kubeflow", "git"}


def test_a_plugin_of_the_settings_or_a_disabled_one_may_have_a_table(tmp_path: Path) -> None:
    write(
        tmp_path,
        "tracklayer.toml",
        'plugins = ["acme.tracking:plugin"]\ndisabled_plugins = ["gone"]\n[acme]\nx = 1\n[gone]',
    )
    settings = load(start=tmp_path, environ={"TRACKLAYER_ACME_Y": "2"})
    assert settings.tables["acme"] == {"x": 1}
    assert "gone" in settings.tables


def test_an_installed_plugin_may_have_a_table_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "site" / "acme_tracklayer-1.0.dist-info"
    write(metadata, "METADATA", "Metadata-Version: 2.1\nName: acme-tracklayer\nVersion: 1.0\n")
    write(metadata, "entry_points.txt", "[tracklayer]\nacme-risk = acme:plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    write(tmp_path, "tracklayer.toml", "[acme-risk]\nretries = 1")
    settings = load(start=tmp_path, environ={"TRACKLAYER_ACME_RISK_MODE": "observed"})
    assert table(settings, "acme-risk", Airflow) == Airflow(retries=1, mode="observed")


# ---------------------------------------------------------------------------------------------------------------------
# The value itself
# ---------------------------------------------------------------------------------------------------------------------


def test_settings_are_frozen_equal_hashable_and_go_to_other_processes(tmp_path: Path) -> None:
    write(tmp_path, "tracklayer.toml", 'team = "risk"\n[airflow]\nretries = 1\npools = ["a"]')
    settings = load(start=tmp_path, environ={"TRACKLAYER_AIRFLOW_OBSERVE": "1"})
    with pytest.raises(AttributeError):
        settings.team = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.tables["airflow"] = {}  # type: ignore[index]
    again = load(start=tmp_path, environ={"TRACKLAYER_AIRFLOW_OBSERVE": "1"})
    assert (settings, hash(settings)) == (again, hash(again))
    assert settings != load(start=tmp_path, environ={})
    copied = pickle.loads(pickle.dumps(settings))
    assert copied == settings
    assert table(copied, "airflow", Airflow) == Airflow(retries=1, pools=("a",), observe=True)


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
