"""The conformance kit finds what is wrong: each check fails on what it is there for, and on nothing else."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

import tracklayer
from tracklayer import RunContext, RunRef, TaskRun, Token, WorkflowRun, hookimpl, testing
from tracklayer.exceptions import TokenError
from tracklayer.identity import format_token, upstream_tag
from tracklayer.store import Run
from tracklayer.testing import CHECKS, Evidence

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASKS = [("prepare", None), ("train", None), ("train", None), ("score", "a"), ("score", "b"), ("broken", None)]
STATUSES = ["FINISHED", "FAILED", "FINISHED", "FINISHED", "FINISHED", "FAILED"]


class Cron:
    name = "cron"
    retries = True
    maps = True

    def run(self, folder: Path, tracking_uri: str) -> None:
        """Runs nothing."""


def a_run(run_id: str, status: str, tags: dict[str, str]) -> Run:
    return Run(
        run_id=run_id,
        experiment_id="1",
        name=run_id,
        status=status,
        start_time=int(run_id.removeprefix("r") or 0),
        end_time=None,
        artifact_uri="",
        tags=tags,
    )


def good() -> Evidence:
    """What an orchestrator leaves with whom all is well."""
    seen, stages = [], {}
    for number, ((task, item), status) in enumerate(zip(TASKS, STATUSES, strict=True)):
        run_id, key = f"r{number}", f"cron:default/w/1/{task}[{item}]#{number}"
        token = Token(run=RunRef(run_id=run_id, experiment_id="1"), parent=RunRef(run_id="r99", experiment_id="1"))
        seen.append(
            {
                "task": task,
                "item": item,
                "run_id": run_id,
                "token": format_token(token),
                "key": key,
                "hooked_key": key,
                "workflow_key": "cron:default/w/1",
                "attached": False,
                "orchestrator": "cron",
                "trouble": None,
            }
        )
        tags = {"mlflow.parentRunId": "r99"}
        tags |= {upstream_tag("r0"): "{}"} if task == "train" else {}
        tags |= {"tracklayer.superseded_by": "r2"} if number == 1 else {}
        tags |= {"tracklayer.error.type": "ValueError"} if task == "broken" else {}
        stages[run_id] = a_run(run_id, status, tags)
    return Evidence(orchestrator=Cron(), seen=seen, parents=[a_run("r99", "FAILED", {})], stages=stages)


def told(evidence: Evidence, number: int, **changes: Any) -> Evidence:
    seen = [{**one, **changes} if place == number else one for place, one in enumerate(evidence.seen)]
    return dataclasses.replace(evidence, seen=seen)


def stage(evidence: Evidence, run_id: str, **changes: Any) -> Evidence:
    return dataclasses.replace(
        evidence,
        stages={**evidence.stages, run_id: dataclasses.replace(evidence.stages[run_id], **changes)},
    )


def failing(evidence: Evidence) -> list[str]:
    names = []
    for check in CHECKS:
        try:
            check(evidence)
        except (AssertionError, TokenError):
            names.append(check.__name__)
    return names


def without(tags: dict[str, str], prefix: str) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.startswith(prefix)}


BROKEN: dict[str, tuple[Callable[[Evidence], Evidence], set[str]]] = {
    "nothing": (lambda all_is: all_is, set()),
    "a task did not run": (
        lambda all_is: dataclasses.replace(all_is, seen=all_is.seen[:-1]),
        {"check_tasks_ran", "check_endings"},
    ),
    "no context inside": (lambda all_is: told(all_is, 0, trouble="None"), {"check_context_inside"}),
    "another orchestrator's context": (
        lambda all_is: told(all_is, 0, orchestrator="airflow"),
        {"check_context_inside"},
    ),
    "two tries share a key": (
        lambda all_is: told(all_is, 2, key=all_is.seen[1]["key"], hooked_key=all_is.seen[1]["key"]),
        {"check_keys"},
    ),
    "the hook derives another key": (lambda all_is: told(all_is, 0, hooked_key="other"), {"check_keys"}),
    "two workflow runs": (lambda all_is: told(all_is, 0, workflow_key="other"), {"check_keys"}),
    "two parents": (
        lambda all_is: dataclasses.replace(all_is, parents=[*all_is.parents, a_run("r98", "FAILED", {})]),
        {"check_one_parent"},
    ),
    "the parent is left open": (
        lambda all_is: dataclasses.replace(all_is, parents=[a_run("r99", "RUNNING", {})]),
        {"check_one_parent"},
    ),
    "an orphan": (
        lambda all_is: stage(all_is, "r5", tags={"tracklayer.error.type": "ValueError"}),
        {"check_one_parent"},
    ),
    "a failure that is told as a success": (lambda all_is: stage(all_is, "r5", status="FINISHED"), {"check_endings"}),
    "a first try that nobody marked": (
        lambda all_is: stage(all_is, "r1", tags=without(dict(all_is.stages["r1"].tags), "tracklayer.superseded")),
        {"check_endings"},
    ),
    "a link that is missing": (
        lambda all_is: stage(all_is, "r2", tags=without(dict(all_is.stages["r2"].tags), "mlflow.tracklayer.")),
        {"check_links"},
    ),
    "a token that is none": (lambda all_is: told(all_is, 0, token="hello"), {"check_tokens"}),
    "a token of another run": (
        lambda all_is: told(all_is, 0, token=all_is.seen[1]["token"]),
        {"check_tokens"},
    ),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_each_check_fails_on_what_it_is_there_for(wrong: str) -> None:
    change, names = BROKEN[wrong]
    assert set(failing(change(good()))) == names


# --------------------------------------------------------------------------------------------------------------------
# Any plugin
# --------------------------------------------------------------------------------------------------------------------


class Tags:
    @hookimpl
    def tracklayer_run_tags(self, context: RunContext) -> dict[str, str]:
        return {"team": "risk"}


class Unmarked(Tags):
    def tracklayer_stage(self, context: RunContext) -> str:
        return "training"


class Misspelt:
    @hookimpl
    def tracklayer_run_tag(self, context: RunContext) -> dict[str, str]:
        return {}


class OtherArguments:
    @hookimpl
    def tracklayer_run_tags(self, run: RunContext) -> dict[str, str]:
        return {}


class Everywhere:
    @hookimpl
    def tracklayer_run_context(self) -> RunContext:
        run = WorkflowRun(orchestrator="cron", workflow="w", run_id="1")
        return RunContext(workflow_run=run, task_run=TaskRun(task="t"))


def test_hookimpls_are_held_against_the_specs() -> None:
    testing.check_hooks(Tags())
    with pytest.raises(AssertionError, match="not marked with @hookimpl: tracklayer_stage"):
        testing.check_hooks(Unmarked())
    with pytest.raises(AssertionError, match="implements no hook"):
        testing.check_hooks(object())
    with pytest.raises(pluggy.PluginValidationError):
        testing.check_hooks(Misspelt())
    with pytest.raises(pluggy.PluginValidationError):
        testing.check_hooks(OtherArguments())


def test_a_plugin_manager_holds_the_given_plugins_and_no_other() -> None:
    plugin = Tags()
    assert testing.plugin_manager(plugin).get_plugins() == {plugin}
    assert testing.plugin_manager().get_plugins() == set()


def test_heavy_imports_are_found() -> None:
    testing.check_import("tracklayer.testing")
    with pytest.raises(AssertionError, match="imports urllib3"):
        testing.check_import("urllib3")
    with pytest.raises(AssertionError, match="cannot be imported"):
        testing.check_import("no_such_plugin")


def test_a_plugin_must_know_where_it_is_not() -> None:
    with pytest.raises(AssertionError, match="must be None"):
        testing.check_outside(Everywhere())
    with pytest.raises(AssertionError, match="tracklayer_run_context is missing"):
        testing.check_outside(Tags())


def test_a_step_writes_down_where_it_runs_and_fails_where_the_story_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKLAYER_DISABLED_PLUGINS", "airflow,git,kubeflow,prefect")
    (tmp_path / testing.RETRIES).touch()
    with tracklayer.track():  # tracking is off: there is no tracking URI
        assert testing.step("prepare", tmp_path) == "prepare is done"
        with pytest.raises(ValueError, match="train fails"):
            testing.step("train", tmp_path)
        assert testing.step("train", tmp_path) == "train is done"
        with pytest.raises(ValueError, match="broken fails"):
            testing.step("broken", tmp_path)
    seen = json.loads((tmp_path / "seen-prepare-None-1.json").read_text())
    assert (seen["task"], seen["run_id"], seen["trouble"]) == ("prepare", None, "the run context is None")
