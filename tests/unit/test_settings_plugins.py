"""Settings with tables of plugins: which there may be, how a plugin reads its own, and that they go along."""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pytest

from harness.settings import problem, write
from tracklayer.exceptions import SettingsError
from tracklayer.settings import Settings, load, table

if TYPE_CHECKING:
    from pathlib import Path


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
