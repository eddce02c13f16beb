from __future__ import annotations

import json
import math
import stat
from typing import TYPE_CHECKING

import pytest

from tracklayer_kubeflow import output
from tracklayer_kubeflow.execution import Artifact, Execution

if TYPE_CHECKING:
    from pathlib import Path

EXECUTION = Execution(
    outputs=(
        Artifact(name="data", kind="system.Dataset"),
        Artifact(name="scores", kind="system.Metrics"),
        Artifact(name="confusion", kind="system.ClassificationMetrics"),
        Artifact(name="page", kind="system.HTML"),
    )
)
MARKS = {"tracklayer_token": "tl1.x", "mlflow_run_id": "abc"}


def written(artifacts: object, parameters: object = None) -> dict[str, object]:
    return {"artifacts": artifacts, "parameterValues": parameters}


def holder(name: str, metadata: object) -> dict[str, object]:
    return {"artifacts": [{"name": name, "uri": f"/out/{name}", "metadata": metadata}]}


def test_every_artifact_is_stamped_except_metrics(tmp_path: Path) -> None:
    made = written(
        {
            "data": holder("data", {"rows": 3}),
            "scores": holder("scores", {"auc": 0.9}),
            "confusion": holder("confusion", {}),
            "page": holder("page", None),
        },
        {"n": 9007199254740993},
    )
    path = tmp_path / "executor_output.json"
    path.write_text(json.dumps(made))
    path.chmod(0o640)
    read = output.read(str(path))
    assert read == made
    assert output.stamp(str(path), read, EXECUTION, MARKS)
    now = json.loads(path.read_text())
    assert now["artifacts"]["data"] == holder("data", {"rows": 3, **MARKS})
    assert now["artifacts"]["scores"] == holder("scores", {"auc": 0.9})
    assert now["artifacts"]["confusion"] == holder("confusion", {})
    assert now["artifacts"]["page"] == holder("page", MARKS)
    assert now["parameterValues"] == {"n": 9007199254740993}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"parameterValues": {"Output": 1}},
        written({"scores": holder("scores", {"auc": 1.0})}),
        written([1, 2]),
        written({"data": None, "page": {"artifacts": "none"}}),
        written({"data": {"artifacts": [7]}, "page": holder("page", "text")}),
    ],
)
def test_an_odd_output_is_left_as_it_is(tmp_path: Path, made: dict[str, object]) -> None:
    path = tmp_path / "executor_output.json"
    path.write_text(json.dumps(made))
    assert not output.stamp(str(path), made, EXECUTION, MARKS)
    assert path.read_text() == json.dumps(made)
    output.metrics(made, EXECUTION)


@pytest.mark.parametrize("text", [None, "", "nonsense", "[1]", "\x00"])
def test_what_is_no_output(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "executor_output.json"
    if text is not None:
        path.write_text(text)
    assert output.read(str(path)) is None
    assert output.read(None) is None


def test_numbers_become_metrics() -> None:
    made = written(
        {"scores": holder("scores", {"auc": 0.9, "rows": 3, "kind": "roc"}), "data": holder("data", {"rows": 8})},
        {"Output": 0.5, "loss": 0.25, "good": True, "name": "x", "big": 10**400, "nothing": math.nan},
    )
    found = output.metrics(made, EXECUTION)
    assert math.isnan(found.pop("nothing"))
    assert found == {"auc": 0.9, "rows": 3.0, "loss": 0.25}
