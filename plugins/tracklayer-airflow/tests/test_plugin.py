"""What Airflow is told: the provider, the plugin, and the listener that can be switched off."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tracklayer_airflow.provider import get_provider_info

if TYPE_CHECKING:
    from harness.airflow import AirflowHome

LISTENERS = """
from tracklayer_airflow.plugin import TracklayerPlugin
print([type(listener).__name__ for listener in TracklayerPlugin().listeners])
"""

TABS = """
from tracklayer_airflow.plugin import TracklayerPlugin
plugin = TracklayerPlugin()
print("tabs:", len(plugin.react_apps), len(plugin.fastapi_apps))
"""

IMPORT_ERRORS = """
import sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag
bag = DagBag(sys.argv[1])
print(sorted(bag.dags), list(bag.import_errors.values()))
"""


def run(airflow_home: AirflowHome, code: str, *arguments: str, environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=airflow_home.environ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", **environ}),
        cwd=airflow_home.folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_provider_info_is_what_airflow_expects() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(str(files("airflow"))) / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


@pytest.mark.parametrize("group", ["tracklayer", "airflow.plugins", "airflow.policy", "apache_airflow_provider"])
def test_airflow_and_tracklayer_find_us(group: str) -> None:
    assert "tracklayer-airflow" in {entry.dist.name for entry in entry_points(group=group) if entry.dist}


@pytest.mark.parametrize(
    ("environ", "listeners", "message"),
    [
        ({}, "['DagRunListener', 'TaskListener']", ""),
        ({"TRACKLAYER_AIRFLOW_OBSERVE": "false"}, "['DagRunListener']", ""),
        ({"AIRFLOW__TRACKLAYER__OBSERVE": "no"}, "['DagRunListener']", ""),
        ({"AIRFLOW__TRACKLAYER__OBSERVE": "perhaps"}, "['DagRunListener']", "no task is observed: setting 'observe'"),
        ({"TRACKLAYER_AIRFLOW_LISTENER": "false"}, "[]", ""),
        ({"TRACKLAYER_ENABLED": "false"}, "[]", ""),
        ({"MLFLOW_TRACKING_URI": ""}, "[]", ""),
        ({"MLFLOW_TRACKING_URI": "", "AIRFLOW__TRACKLAYER__MLFLOW_CONN_ID": "mlflow"}, "['DagRunListener']", ""),
        ({"AIRFLOW__TRACKLAYER__ENABLED": "False"}, "[]", ""),
        ({"AIRFLOW__TRACKLAYER__ENABLED": "perhaps"}, "[]", "DAG runs are not listened to"),
        ({"TRACKLAYER_AIRFLOW_LISTENER": "perhaps"}, "[]", "DAG runs are not listened to"),
    ],
    ids=[
        "tracked",
        "not observed",
        "not observed by Airflow's word",
        "wrong rule",
        "switched off",
        "disabled",
        "no tracking URI",
        "connection",
        "switched off in Airflow",
        "wrong switch",
        "wrong setting",
    ],
)
def test_the_listener_is_there_where_it_is_wanted(
    airflow_home: AirflowHome, environ: dict[str, str], listeners: str, message: str
) -> None:
    output = run(airflow_home, LISTENERS, environ=environ)
    assert listeners in output
    assert message in output


@pytest.mark.parametrize(("value", "tabs"), [("True", 1), ("False", 0), ("perhaps", 0)])
def test_the_tab_is_there_unless_tracking_is_switched_off(airflow_home: AirflowHome, value: str, tabs: int) -> None:
    output = run(airflow_home, TABS, environ={"AIRFLOW__TRACKLAYER__ENABLED": value})
    assert f"tabs: {tabs} {tabs}" in output


def test_the_switch_is_in_airflows_configuration(airflow_home: AirflowHome) -> None:
    code = """
from airflow.providers_manager import ProvidersManager
ProvidersManager().initialize_providers_configuration()
from airflow.configuration import conf
print(conf.get("tracklayer", "enabled"))
"""
    assert "True" in run(airflow_home, code, environ={})


def test_dags_that_end_from_a_trigger_load_without_the_listener(airflow_home: AirflowHome) -> None:
    """Airflow refuses such DAGs while any listener is registered; this is what the switch is for."""
    folder = str(Path(__file__).parent / "dags_from_trigger")
    with_listener = run(airflow_home, IMPORT_ERRORS, folder, environ={})
    without = run(airflow_home, IMPORT_ERRORS, folder, environ={"TRACKLAYER_AIRFLOW_LISTENER": "false"})
    assert "Listeners are not supported with end_from_trigger=True" in with_listener
    assert "['from_trigger'] []" in without
