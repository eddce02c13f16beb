from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect_story import links

from tracklayer.context import RunRef, Token
from tracklayer.identity import format_token

if TYPE_CHECKING:
    from prefect_story import Story

ROOT = Path(__file__).parents[3]


def run(script: Path, *arguments: str, **environ: str) -> str:
    """Run a script beside the tests' Prefect server, and return what it wrote."""
    from prefect.settings import get_current_settings

    told = get_current_settings().to_environment_variables(exclude_unset=True)
    process = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, **told, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_the_flights(story: Story, tmp_path: Path) -> None:
    shown = run(ROOT / "flows" / "flights.py", "--sample", "6000", "--max-iter", "5", "--data-dir", str(tmp_path))
    assert "roc_auc_gain" in shown
    prepared, trained, evaluated = story.stage("data-prep"), story.stage("training"), story.stage("evaluation")
    assert {found.info.status for found in story.runs()} == {"FINISHED"}
    assert len(story.runs()) == 4
    assert links(trained) == {prepared.info.run_id}
    assert links(evaluated) == {prepared.info.run_id, trained.info.run_id}
    assert trained.outputs is not None
    assert trained.outputs.model_outputs

    # The relay's last leg: the same model, judged by another flow that knows the training run by its token only.
    model = evaluated.data.params["model_uri"]
    came = Token(run=RunRef(run_id=trained.info.run_id, experiment_id=trained.info.experiment_id))
    story.experiment += "-relay"
    run(
        ROOT / "flows" / "flights_evaluate.py",
        *("--model", model, "--train", str(tmp_path / "train.parquet"), "--test", str(tmp_path / "test.parquet")),
        TRACKLAYER_PARENT=format_token(came),
        TRACKLAYER_EXPERIMENT=story.experiment,
    )
    judged = story.stage("evaluation")
    assert links(judged) == {trained.info.run_id, prepared.info.run_id}
    assert links(story.parent()) == {trained.info.run_id}
    assert judged.data.metrics["roc_auc"] == pytest.approx(evaluated.data.metrics["roc_auc"])
    assert {found.info.status for found in story.runs()} == {"FINISHED"}


def test_an_evaluation_that_fails_says_so_by_its_exit_code(story: Story, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="FileNotFoundError"):
        run(
            ROOT / "flows" / "flights_evaluate.py",
            *("--model", "models:/m-none", "--train", str(tmp_path / "none"), "--test", str(tmp_path / "none")),
        )
    assert story.parent().info.status == "FAILED"


def test_what_the_readme_shows_runs(story: Story, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)[0]
    script = tmp_path / "flights.py"
    script.write_text(code)
    run(script)
    assert story.parent().data.params == {"rows": "100", "learning_rate": "0.1"}
    assert story.parent().data.tags["tracklayer.workflow"] == "flights"
    prepared, trained = story.stage("data-prep"), story.stage("training")
    assert links(trained) == {prepared.info.run_id}
    assert trained.data.params == {"learning_rate": "0.1"}
    assert trained.data.metrics == {"auc": 0.91}
