"""The conformance kit over every orchestrator that this repository has a plugin for, each run for real."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.airflow import AirflowHome
from harness.patience import PATIENCE
from tracklayer.registry import GROUP
from tracklayer.testing import CHECKS, Evidence, Orchestrator, check_hooks, check_import, check_outside, run_story

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.mlflow import MlflowServer

HERE = Path(__file__).parent / "conformance"
PLUGINS = {entry.name: entry.module for entry in entry_points(group=GROUP)}
OWN = {"airflow": ("airflow",), "prefect": ("prefect",), "kubeflow": ("kfp",)}
"""What an orchestrator's own plugin may not import either, before one of its tasks runs."""


class Script:
    """An orchestrator that runs the story in a Python process of its own."""

    def __init__(self, name: str, *, retries: bool = True, maps: bool = True) -> None:
        self.name = name
        self.retries = retries
        self.maps = maps

    def run(self, folder: Path, tracking_uri: str) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(HERE / f"{self.name}_story.py"), str(folder)],
            env={
                **_environ(),
                "MLFLOW_TRACKING_URI": tracking_uri,
                "PREFECT_HOME": str(folder / "prefect"),
                "TRACKLAYER_PATIENCE": str(PATIENCE),
            },
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr


class Airflow:
    """The DAG in an Airflow home of its own."""

    name = "airflow"
    retries = True
    maps = True

    def run(self, folder: Path, tracking_uri: str) -> None:
        home = AirflowHome(folder / "airflow", HERE / "dags")
        home.test("conformance", environ={"MLFLOW_TRACKING_URI": tracking_uri, "CONFORMANCE_FOLDER": str(folder)})


ORCHESTRATORS: Mapping[str, Orchestrator] = {
    "airflow": Airflow(),
    "prefect": Script("prefect"),
    "kubeflow": Script("kubeflow", retries=False, maps=False),
}


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKLAYER_"))}


@pytest.fixture(scope="module", params=ORCHESTRATORS)
def evidence(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mlflow_server: MlflowServer
) -> Evidence:
    folder = tmp_path_factory.mktemp(f"story-{request.param}")
    return run_story(ORCHESTRATORS[request.param], folder, mlflow_server.uri)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_orchestrator_conforms(check: Callable[[Evidence], None], evidence: Evidence) -> None:
    check(evidence)


def test_every_orchestrator_of_this_repository_is_held_against_the_kit() -> None:
    assert set(ORCHESTRATORS) | {"git"} == set(PLUGINS)


@pytest.mark.parametrize("name", PLUGINS)
def test_the_plugin_fits_the_hooks(name: str) -> None:
    check_hooks(entry_points(group=GROUP)[name].load())


@pytest.mark.parametrize("name", PLUGINS)
def test_importing_the_plugin_costs_next_to_nothing(name: str) -> None:
    heavy = ("mlflow", "urllib3", "requests", "httpx", "pandas", "numpy")
    check_import(PLUGINS[name], heavy=(*heavy, *OWN.get(name, ())))


@pytest.mark.parametrize("name", ORCHESTRATORS)
def test_a_plugin_knows_where_it_is_not(name: str) -> None:
    check_outside(entry_points(group=GROUP)[name].load())
