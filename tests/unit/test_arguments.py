"""Arguments of a wrong type: the pipeline goes on untracked, and one line says which, what it was, and what is wanted."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest

import tracklayer
from harness.pipeline import PLUGINS
from tracklayer import RunContext, WorkflowRun, registry
from tracklayer.exceptions import TracklayerError
from tracklayer.preparation import prepare
from tracklayer.settings import Settings
from tracklayer.tracking import open_stage

NOBODY = "http://127.0.0.1:9"

WRONG: dict[str, tuple[object, str]] = {
    "stage": (7, 'stage must be text, as in stage="training", not 7 (int)'),
    "context": ("etl", "context must be a tracklayer.RunContext, not 'etl' (str)"),
    "run_name": (7, 'run_name must be text, as in run_name="first fold", not 7 (int)'),
    "params": ([("lr", 0.1)], "params must be a mapping, as in params={\"lr\": 0.1}, not [('lr', 0.1)] (list)"),
    "tags": ("team=risk", 'tags must be a mapping, as in tags={"team": "risk"}, not \'team=risk\' (str)'),
    "experiment": (7, "setting 'experiment' in the arguments must be text, not 7"),
    "tracking_uri": (5000, "setting 'tracking_uri' in the arguments must be text, not 5000"),
    "on_error": ("ignore", "setting 'on_error' in the arguments must be 'log' or 'raise', not 'ignore'"),
    "outcome": ("FAILED", "outcome must be a function that takes an exception and returns a tracklayer.Outcome, not"),
    "settings": ({"team": "risk"}, "settings must be a tracklayer.settings.Settings (load() makes them), not {'team'"),
}
"""By argument: a value of a wrong type, and what is said of it."""


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_argument_of_track_is_in_the_table() -> None:
    assert list(inspect.signature(tracklayer.track).parameters) == list(WRONG)


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "given"])
@pytest.mark.parametrize("name", WRONG)
def test_the_pipeline_goes_on_and_one_line_says_what_is_wrong(
    name: str, loaded: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, told = WRONG[name]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    arguments: dict[str, Any] = {} if loaded else {"settings": Settings(tracking_uri=NOBODY)}
    done = []
    with tracklayer.track(**{**arguments, name: value}) as run:
        run.log_metric("auc", 0.9)
        done.append(run.run_id)
    assert done == [None]
    [line] = lines(caplog)
    assert told in line
    assert "the stage is not tracked" in line or "tracking is off" in line
    assert all(record.exc_info is None for record in caplog.records), "nobody needs a traceback for that"
    with pytest.raises(KeyError, match="mine"), tracklayer.track(**{**arguments, name: value}):
        raise KeyError("mine")


@pytest.mark.parametrize("name", [name for name in WRONG if name != "on_error"])
def test_who_wants_to_hear_of_it_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_ON_ERROR", "raise")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    value, told = WRONG[name]
    with pytest.raises(TracklayerError) as raised, tracklayer.track(**{name: value}):  # type: ignore[arg-type]
        raise AssertionError("the block is not to run")
    assert told in str(raised.value)


def test_all_that_is_wrong_is_said_at_once_and_no_secret_is(caplog: pytest.LogCaptureFixture) -> None:
    class Unspeakable:
        def __repr__(self) -> str:
            raise ValueError("no")

    tags: Any = ["password=hunter2 of the database"]
    with tracklayer.track(7, params=Unspeakable(), tags=tags, settings=Settings(tracking_uri=NOBODY)):  # type: ignore[arg-type]
        pass
    [line] = lines(caplog)
    assert [name for name in WRONG if f"{name} must be" in line] == ["stage", "params", "tags"]
    assert "hunter2" not in line


def test_names_of_tags_are_taken_as_text_as_set_tags_takes_them() -> None:
    settings, tags = Settings(disabled_plugins=PLUGINS), {7: "seven", "token": "hunter2", None: 1}
    context = RunContext(workflow_run=WorkflowRun(orchestrator="test", workflow="flights", run_id="r1"))
    opening = prepare(context, settings, registry.load(settings), tags=tags).opening  # type: ignore[arg-type]
    assert {name: opening.tags[name] for name in ("7", "token", "None")} == {"7": "seven", "token": "***", "None": "1"}


def test_plugins_open_a_stage_with_wrong_settings_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    settings: Any = {"team": "risk"}
    run = open_stage("training", settings=settings)
    run.end("FINISHED")
    assert run.run_id is None
    assert "settings must be" in caplog.text
