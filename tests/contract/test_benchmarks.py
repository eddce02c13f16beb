"""What the benchmarks write is what anyone can compare."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from mlflow import MlflowClient

if TYPE_CHECKING:
    from types import ModuleType

    from harness.mlflow import MlflowServer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a module of the benchmarks, which are scripts and no package."""

    def module(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    return module


def test_a_report_is_a_table_and_a_list_of_figures(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = load("figures")
    monkeypatch.setattr(figures, "FOLDER", tmp_path / ".bench")
    taken = [figures.figure("requests", 3, "requests", 3), figures.figure("wall time", 12.34567, "ms")]
    figures.report("stage", "One stage", [*taken, figures.figure("ratio", 1.2, "×", 1.15)])
    assert json.loads((tmp_path / ".bench" / "stage.json").read_text()) == [
        {"figure": "requests", "value": 3, "unit": "requests", "budget": 3, "holds": True},
        {"figure": "wall time", "value": 12.346, "unit": "ms", "budget": None, "holds": None},
        {"figure": "ratio", "value": 1.2, "unit": "×", "budget": 1.15, "holds": False},
    ]
    assert "OVER" in capsys.readouterr().out


def test_a_budget_is_a_most_or_a_least(load: Any) -> None:
    figures = load("figures")
    assert figures.figure("time", 2.0, "s", 1).holds is False
    assert figures.figure("throughput", 2.0, "×", 1, at_least=True).holds is True
    assert figures.figure("throughput", 0.9, "×", 1, at_least=True).holds is False


def test_a_chart_is_a_picture_with_every_number(load: Any, tmp_path: Path) -> None:
    target = tmp_path / "new" / "chart.svg"
    load("chart").bars(target, title="A & B", subtitle="µs", values={"one <call>": (3.2, 41.0), "other": (900.0, 1e4)})
    texts = [element.text for element in ET.parse(target).iter() if element.text and element.text.strip()]
    assert {"A & B", "one <call>", "3.2", "41", "900", "1e+04"} <= set(texts)


@pytest.mark.slow
def test_the_journal_is_measured(
    load: Any, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivery and the queue, with a thousandth of the points: everything that was logged is there, and is counted."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    bench = load("bench_journal")
    scale = bench.Scale(batches=1, deliveries=2, queued=1_000)
    environ = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "TRACKLAYER_JOURNAL": str(tmp_path / "journal")}
    taken = [
        *bench.deliveries("SQLite", mlflow_server, environ, scale),
        *bench.queue(mlflow_server, environ, scale),
    ]
    values = {one.figure: one.value for one in taken}
    assert values["… points that are missing at the end, SQLite"] == 0
    assert values["… throughput of run.log_metric until delivered, to raw batches, SQLite"] > 0
    assert values["… throughput of what is queued, to raw batches, SQLite"] > 0
    assert 0 < values["memory, 1,000 points, untracked"] < values["memory, a stage with nothing queued"]


@pytest.mark.slow
def test_what_is_measured_until_delivered_is_delivered(
    load: Any, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the server was slow enough to be given up meanwhile: else a turn that sent nothing would count as a fast one."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    environ = {
        "MLFLOW_TRACKING_URI": mlflow_server.uri,
        "TRACKLAYER_JOURNAL": str(tmp_path / "journal"),
        "TRACKLAYER_EXPERIMENT": "given up meanwhile",
        "TRACKLAYER_TIMEOUT": "1",
    }
    with load("logging_ways").started("tracked", environ) as way:
        way.ask("deliver", 1)
        mlflow_server.freeze()
        try:
            way.ask("points", 1_000)
            time.sleep(3)
        finally:
            mlflow_server.thaw()
        way.ask("wait")
        client = MlflowClient(mlflow_server.uri)
        experiment = client.get_experiment_by_name("given up meanwhile")
        assert experiment is not None
        last = [run.data.metrics.get("loss") for run in client.search_runs([experiment.experiment_id])]
        assert pytest.approx(100.0) in last


@pytest.mark.parametrize("orchestrator", ["airflow", "prefect", "kubeflow"])
def test_a_tracked_file_imports_nothing_heavy_that_a_plain_one_does_not(
    load: Any, orchestrator: str, tmp_path: Path
) -> None:
    files = [BENCHMARKS / "modules" / f"{orchestrator}_{kind}.py" for kind in ("plain", "tracked")]
    environ = os.environ | {"AIRFLOW_HOME": str(tmp_path / "airflow"), "PREFECT_HOME": str(tmp_path / "prefect")}
    plain, tracked = load("module_import").measure(*files, environ)
    assert tracked.heavy == []
    assert plain.cpu > 0
