"""What a DAG file costs where it is parsed: nothing that talks to a server, and no connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).parents[3] / "dags"
EXAMPLES = Path(__file__).parents[1] / "src" / "tracklayer_airflow" / "example_dags"
HEAVY = {"mlflow", "urllib3", "requests", "pandas", "sklearn", "flights_model", "prefect", "kfp"}

# Imports the first name (nothing if it is empty), then says which modules the rest of the code brings in on top, and
# fails if that opens a connection. Airflow's own import opens none either, but is not ours to answer for.
SCRIPT = """
import importlib, json, runpy, sys
before, module, file = sys.argv[1:]
for name in filter(None, before.split(",")):
    importlib.import_module(name)
known = set(sys.modules)

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"{event} {arguments}")

sys.addaudithook(refuse)
if module:
    importlib.import_module(module)
if file:
    runpy.run_path(file)
print(json.dumps(sorted(set(sys.modules) - known)))
"""


def brought_in(tmp_path: Path, *, before: str = "", module: str = "", file: str = "") -> set[str]:
    """Top-level names of the modules that an import brings in."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, before, module, file],
        env={**environ, "AIRFLOW_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_the_package_is_nothing_but_the_standard_library(tmp_path: Path) -> None:
    strangers = brought_in(tmp_path, module="tracklayer_airflow") - set(sys.stdlib_module_names)
    assert strangers == {"tracklayer_airflow"}


@pytest.mark.parametrize(
    "module",
    [
        "provider",
        "hookimpls",
        "listener",
        "afterwards",
        "observing",
        "rules",
        "policy",
        "celery_worker",
        "closer",
        "closing",
        "workflow",
        "macros",
        "connection",
        "server",
        "switch",
    ],
)
def test_modules_that_every_process_loads_are_light(tmp_path: Path, module: str) -> None:
    strangers = brought_in(tmp_path, module=f"tracklayer_airflow.{module}") - set(sys.stdlib_module_names)
    assert strangers <= {"tracklayer_airflow", "tracklayer", "pluggy"}


def test_the_decorator_adds_nothing_to_airflow(tmp_path: Path) -> None:
    airflow = "airflow.sdk,airflow.providers.standard.operators.python,airflow.plugins_manager"
    added = brought_in(tmp_path, before=airflow, module="tracklayer_airflow.decorators")
    added |= brought_in(tmp_path, before=airflow, module="tracklayer_airflow.operator_class")
    added |= brought_in(tmp_path, before=airflow, module="tracklayer_airflow.plugin")
    assert added - set(sys.stdlib_module_names) <= {"tracklayer_airflow", "airflow"}


def test_operators_of_the_registry_bring_in_nothing_heavy(tmp_path: Path) -> None:
    for module in ("registry", "sensors"):
        brought = brought_in(tmp_path, before="airflow.sdk", module=f"tracklayer_airflow.{module}")
        assert brought - set(sys.stdlib_module_names) <= {"tracklayer_airflow", "airflow"}


FILES = [*DAGS.glob("*.py"), *EXAMPLES.glob("example_*.py")]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_dag_file_brings_in_nothing_heavy(tmp_path: Path, file: Path) -> None:
    assert not brought_in(tmp_path, file=str(file)) & HEAVY
