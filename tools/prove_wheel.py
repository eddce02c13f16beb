"""Run inside an environment that holds the core wheel and at most one plugin's: is each complete by itself?

``python tools/prove_wheel.py [PLUGIN]`` imports every module of the plugin (without one: of core), loads it the way
core does, and makes sure that no other distribution of ours, and no mlflow, helps out.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import tempfile
from importlib.metadata import distributions, metadata

NEED_AN_EXTRA = ("tracklayer.cli", "tracklayer.lineage.tree", "tracklayer.mlflow_plugins", "tracklayer.testing")
"""Modules of core that a plain ``pip install tracklayer`` does not promise to import."""


def main(plugin: str | None) -> None:
    """Raise AssertionError or ImportError if something is missing."""
    installed = {distribution.name.lower().replace("_", "-") for distribution in distributions()}
    ours = {name for name in installed if name.startswith("tracklayer") or name == "flights-model"}
    expected = {"tracklayer"} | ({f"tracklayer-{plugin}"} if plugin else set())
    assert ours == expected, f"installed here are {sorted(ours)}, not {sorted(expected)}"
    assert "mlflow" not in installed, "mlflow is not to be needed"
    import_everything(f"tracklayer_{plugin}" if plugin else "tracklayer")
    from tracklayer import registry, settings

    found = {info.name: info for info in registry.installed(settings.load())}
    if plugin:
        assert plugin in found, f"core finds the plugins {sorted(found)}"
        assert not found[plugin].error, found[plugin].error
    if plugin == "airflow":
        look_at_the_documentation()


def import_everything(package: str) -> None:
    """Import every module of the package that is there without an extra."""
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not module.name.startswith(NEED_AN_EXTRA):
            importlib.import_module(module.name)


def look_at_the_documentation() -> None:
    """Make each page that Airflow's API server gives out from what the wheel has of it."""
    from tracklayer_airflow.documentation import DISTRIBUTION, PAGES, page

    addresses = metadata(DISTRIBUTION).get_all("Project-URL")
    assert addresses == ["Documentation, tracklayer/docs/"], f"Airflow is told of {addresses}"
    for name in PAGES:
        assert "<table>" in page(name, is_on=True), f"the page {name!r} has none of its tables"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:  # where orchestrators put files of their own when they are imported
        os.environ |= {"AIRFLOW_HOME": f"{home}/airflow", "PREFECT_HOME": f"{home}/prefect"}
        main(sys.argv[1] if len(sys.argv) > 1 else None)
