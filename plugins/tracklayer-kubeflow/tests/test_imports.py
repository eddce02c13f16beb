"""What importing costs: nothing heavy where pipelines are defined, and next to nothing in containers."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"mlflow", "urllib3", "requests", "msgspec", "tracklayer.store", "tracklayer.tracking"}
DEFINITION = """
from kfp import dsl
{imports}
component = dsl.component(base_image="python:3.11", install_kfp_package=False)

{tracked_component}
@component
def train(lr: float) -> float:
    return lr

{tracked_pipeline}
@dsl.pipeline(name="flow")
def flow(lr: float = 0.1):
    train(lr=lr)
"""
TRACKED = DEFINITION.format(
    imports="from tracklayer_kubeflow import tracked_component, tracked_pipeline",
    tracked_component="@tracked_component(stage='training')",
    tracked_pipeline="@tracked_pipeline",
)
UNTRACKED = DEFINITION.format(imports="", tracked_component="", tracked_pipeline="")


def imported(file: Path) -> set[str]:
    """The modules that are imported when `file` is."""
    command = [sys.executable, "-c", f"import runpy, sys; runpy.run_path({str(file)!r}); print(*sorted(sys.modules))"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=file.parent)
    return set(ran.stdout.split())


def test_defining_a_tracked_pipeline_imports_nothing_heavy_beyond_kfp(tmp_path: Path) -> None:
    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    tracked.write_text(TRACKED)
    untracked.write_text(UNTRACKED)
    more = imported(tracked) - imported(untracked)
    assert "tracklayer_kubeflow.pipeline" in more
    assert not {name for name in more if name in HEAVY or name.partition(".")[0] in HEAVY - {"msgspec"}}
    assert len(more) < 60, sorted(more)


@pytest.mark.parametrize(
    "module", ["tracklayer_kubeflow", "tracklayer_kubeflow.plugin", "tracklayer_kubeflow.supervise"]
)
def test_what_containers_import_needs_no_kfp(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not names & {"kfp", "google", "yaml", "mlflow", "urllib3"}


def test_the_supervisor_runs_without_kfp_itself(tmp_path: Path) -> None:
    """KFP installs itself into containers without what it depends on."""
    code = (
        "import sys\nsys.modules['kfp'] = sys.modules['google'] = sys.modules['yaml'] = None\n"
        "from tracklayer_kubeflow import supervision, finishing, upstream, plugin, handover\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_compiling_opens_no_connection(tmp_path: Path) -> None:
    file = tmp_path / "tracked.py"
    file.write_text(TRACKED)
    code = (
        "import runpy, socket, sys\n"
        f"flow = runpy.run_path({str(file)!r})['flow']\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "from kfp import compiler\n"
        f"compiler.Compiler().compile(flow, {str(tmp_path / 'flow.yaml')!r})\n"
        "assert 'mlflow' not in sys.modules and 'urllib3' not in {n for n in sys.modules if n == 'tracklayer.store.rest'}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert "tracklayer_kubeflow.supervise" in (tmp_path / "flow.yaml").read_text()
