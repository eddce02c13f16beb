"""Settings that are refused, for their type, their name or their template, with what is said; and what passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.settings import problem, write
from tracklayer.conversion import Found, convert, unknown
from tracklayer.exceptions import SettingsError
from tracklayer.settings import Settings, load

if TYPE_CHECKING:
    from pathlib import Path

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


def test_no_secret_is_shown_in_a_misspelt_setting() -> None:
    message = unknown(Found("airflow.api_tokn", "hunter2", "here"), ["airflow.api_url", "airflow.api_token"])
    assert "did you mean 'airflow.api_token'?" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("text", ["{'api_token': 'hunter2'}", '{"api_token": "hunter2",}', '["hunter2"]'])
def test_no_secret_is_shown_in_a_table_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SettingsError, match="must be a table, not what it is") as caught:
        convert(Found("airflow", text, "in a variable", is_text=True), dict[str, str])
    assert "hunter2" not in str(caught.value)


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
