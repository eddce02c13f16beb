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
from airflow_story import AIRFLOW

import tracklayer_airflow
from tracklayer_airflow.provider import get_provider_info

if TYPE_CHECKING:
    from harness.airflow import AirflowHome

pytestmark = pytest.mark.timeout(1_200)

# All in one process for each way to configure it: Airflow takes seconds to import.
WHAT_IS_THERE = """
from celery.signals import worker_ready
from tracklayer_airflow import celery_worker, closer
from tracklayer_airflow.plugin import TracklayerPlugin
plugin = TracklayerPlugin()
print("listeners:", *(type(listener).__name__ for listener in plugin.listeners), flush=True)
import sys
from tracklayer_airflow import policy, rules
rules.rules_here()
def loaded():
    return [name for name in ("application", "documentation") if f"tracklayer_airflow.{name}" in sys.modules]
print("early:", *loaded())
print("tabs:", len(plugin.react_apps), len(plugin.fastapi_apps))
print("mounted:", *loaded())
import asyncio, httpx
async def get(path):
    transport = httpx.ASGITransport(plugin.fastapi_apps[0]["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
        return await client.get(path)
shown, tab = asyncio.run(get("/docs/")), asyncio.run(get("/dag_run.js"))
print("documentation:", shown.status_code, "Tracking is off here." in shown.text, tab.status_code)
print("core:", *(name for name in sys.modules if name.partition(".")[0] == "tracklayer"))
seen = []
closer.Closer.begin = lambda self: seen.append("begun")
celery_worker.prepare(["airflow", "scheduler"])
worker_ready.send(sender=None)
assert not seen, "this is no worker"
celery_worker.prepare(["airflow", "celery", "worker", "--concurrency", "2"])
worker_ready.send(sender=None)
print("beside a worker:", len(seen))
"""

WHAT_AIRFLOW_SHOWS = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.providers_manager import ProvidersManager
(form,) = (one for one in HookMetaService.hook_meta_data() if one.connection_type == "mlflow")
known = ProvidersManager()
print("shown:" + json.dumps({
    "hook": form.hook_class_name,
    "fields": {
        name: [field["schema"]["title"], field["schema"].get("format") or field["schema"]["type"][0]]
        for name, field in form.extra_fields.items()
    },
    "labels": {name: field.title for name, field in form.standard_fields if field is not None},
    "documentation": known.providers["tracklayer-airflow"].data.get("documentation-url"),
    "links": [name for name in known.extra_links_class_names if name.startswith("tracklayer")],
    "bundles": [bundle.name for bundle in DagBundlesManager().get_all_dag_bundles()],
}))
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

LISTENERS = """
from airflow.listeners.listener import get_listener_manager
print("listeners:", sorted(type(one).__name__ for one in get_listener_manager().pm.get_plugins()))
"""

OTHER_LISTENER = """
import types
from airflow.listeners.listener import get_listener_manager
get_listener_manager().add_listener(types.ModuleType("somebody_elses"))
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


WITHOUT_RULES = "DagRunListener AfterwardsListener"

BOTH = f"{WITHOUT_RULES} TaskListener"

NO_URI = {"MLFLOW_TRACKING_URI": "", "TRACKLAYER_TEAM": "risk"}
"""As in many an environment: variables of tracklayer's, and none that leads to a server."""


@pytest.mark.parametrize(
    ("environ", "listeners", "message"),
    [
        ({}, BOTH, ""),
        ({"TRACKLAYER_AIRFLOW_OBSERVE": "false"}, WITHOUT_RULES, ""),
        ({"AIRFLOW__TRACKLAYER__OBSERVE": "no"}, WITHOUT_RULES, ""),
        ({"AIRFLOW__TRACKLAYER__OBSERVE": "perhaps"}, WITHOUT_RULES, "no task is observed: setting 'observe'"),
        ({"TRACKLAYER_AIRFLOW_LISTENER": "false"}, "", ""),
        ({"TRACKLAYER_ENABLED": "false"}, "", ""),
        (NO_URI, "", ""),
        ({"MLFLOW_TRACKING_URI": "", "AIRFLOW__TRACKLAYER__MLFLOW_CONN_ID": "mlflow"}, WITHOUT_RULES, ""),
        ({"AIRFLOW__TRACKLAYER__ENABLED": "False"}, "", ""),
        ({"AIRFLOW__TRACKLAYER__ENABLED": "perhaps"}, "", "DAG runs are not listened to"),
        ({"TRACKLAYER_AIRFLOW_LISTENER": "perhaps"}, "", "DAG runs are not listened to"),
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
def test_what_is_there_is_what_is_wanted(
    airflow_home: AirflowHome, environ: dict[str, str], listeners: str, message: str
) -> None:
    """The listeners; somebody beside a Celery worker, as they; the tab, unless tracking is switched off in Airflow.

    And the documentation, which says so if it is."""
    output = run(airflow_home, WHAT_IS_THERE, environ=environ)
    told = dict(
        line.split(":", 1)
        for line in output.splitlines()
        if line.startswith(("listeners:", "early:", "tabs:", "mounted:", "documentation:", "core:", "beside"))
    )
    tabs = 0 if "AIRFLOW__TRACKLAYER__ENABLED" in environ else 1
    assert told["listeners"].split() == listeners.split()
    assert told["early"].split() == [], "only the API server asks for pages"
    assert told["tabs"].split() == [str(tabs), "1"]
    assert told["mounted"].split() == ["application"], "a page is made when somebody asks for it"
    assert told["documentation"].split() == (["200", "False", "200"] if tabs else ["200", "True", "404"])
    assert told["beside a worker"].split() == [str(int(bool(listeners)))]
    spoken_of = environ != NO_URI and environ.get("AIRFLOW__TRACKLAYER__ENABLED") is None
    assert bool(told["core"].split()) is spoken_of, "core is imported only where there may be something to track"
    assert message in output
    assert ("are ended with their DAG runs" in output) is ("not listened to" in message)


BROKEN = """
import tracklayer_airflow.application
def application(**arguments):
    raise RuntimeError("something is missing")
tracklayer_airflow.application.application = application
from airflow import plugins_manager
try:
    plugins_manager.get_fastapi_plugins()
except AttributeError:  # Airflow 3.1
    plugins_manager.initialize_fastapi_plugins()
print("the API server starts")
"""


def test_pages_that_cannot_be_made_keep_no_api_server_from_starting(airflow_home: AirflowHome) -> None:
    output = run(airflow_home, BROKEN, environ={})
    assert "the API server starts" in output
    assert "Airflow's pages have no tab and no documentation: something is missing" in output


def test_airflow_lists_the_provider(airflow_home: AirflowHome) -> None:
    command = [str(Path(sys.executable).with_name("airflow")), "providers", "list", "--output", "json"]
    done = subprocess.run(command, env=airflow_home.environ(), capture_output=True, text=True, timeout=240, check=True)
    listed = {one["package_name"]: one for one in json.loads(done.stdout)}
    assert listed["tracklayer-airflow"]["version"] == tracklayer_airflow.__version__
    assert listed["tracklayer-airflow"]["description"].startswith("Shows every tracked DAG run in MLflow")


def test_airflow_shows_hook_form_links_and_examples(airflow_home: AirflowHome) -> None:
    output = run(airflow_home, WHAT_AIRFLOW_SHOWS, environ={"AIRFLOW__CORE__LOAD_EXAMPLES": "True"})
    (shown,) = (json.loads(line[6:]) for line in output.splitlines() if line.startswith("shown:"))
    bundles = shown.pop("bundles")
    assert ("tracklayer-airflow-example-dags" in bundles) is (AIRFLOW >= (3, 3))  # earlier ones look at their own alone
    assert (
        shown.pop("documentation").strip() == "tracklayer/docs/"
    )  # before 3.3 a space stands before it, as before all
    assert shown == {
        "hook": "tracklayer_airflow.hooks.MlflowHook",
        "fields": {
            "token": ["Token", "password"],
            "workspace": ["Workspace", "string"],
            "ca_file": ["Certificate authorities", "string"],
            "client_cert": ["Client certificate", "string"],
            "insecure_tls": ["Do not check certificates", "boolean"],
        },
        "labels": {"host": "Tracking URI", "login": "User", "password": "Password or token"},
        "links": ["tracklayer_airflow.links.MLflowParentLink", "tracklayer_airflow.links.MLflowRunLink"],
    }


def test_the_switch_is_in_airflows_configuration(airflow_home: AirflowHome) -> None:
    code = """
from airflow.providers_manager import ProvidersManager
ProvidersManager().initialize_providers_configuration()
from airflow.configuration import conf
print(conf.get("tracklayer", "enabled"))
"""
    assert "True" in run(airflow_home, code, environ={})


def test_dags_that_end_from_a_trigger_load_beside_our_listeners(airflow_home: AirflowHome) -> None:
    """Airflow refuses such DAGs while any listener is registered; ours are back when one is loaded."""
    folder = str(Path(__file__).parent / "dags_from_trigger")
    code = IMPORT_ERRORS + LISTENERS
    ours, without, others = (
        run(airflow_home, before + code, folder, environ=environ)
        for before, environ in (("", {}), ("", {"TRACKLAYER_AIRFLOW_LISTENER": "false"}), (OTHER_LISTENER, {}))
    )
    assert "['from_trigger'] []" in ours
    assert "listeners: ['AfterwardsListener', 'DagRunListener', 'TaskListener']" in ours
    assert "['from_trigger'] []" in without
    assert "listeners: []" in without
    assert "Listeners are not supported with end_from_trigger=True" in others
    assert "listeners: ['AfterwardsListener', 'DagRunListener', 'TaskListener', 'module']" in others
