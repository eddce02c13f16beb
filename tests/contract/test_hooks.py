"""Every hook is documented with its exact signature, its example runs, and it does what its kind promises."""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import typer

import tracklayer
from tracklayer import (
    Link,
    RunContext,
    RunRef,
    State,
    TaskRun,
    Token,
    Upstream,
    WorkflowRun,
    dispatch,
    hookimpl,
    hookspecs,
)
from tracklayer.exceptions import PluginError
from tracklayer.identity import format_token, parse_token
from tracklayer.testing import check_hooks, plugin_manager

if TYPE_CHECKING:
    from collections.abc import Callable

    import pluggy

REFERENCE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "reference" / "hooks.md"
SPECS = {
    name: getattr(hookspecs, name)
    for name in vars(hookspecs)
    if name.startswith("tracklayer_") and callable(getattr(hookspecs, name))
}
RUN = RunRef(run_id="a" * 32, experiment_id="1", name="train", stage="training")
TASK = RunContext(
    workflow_run=WorkflowRun(
        orchestrator="cron",
        workflow="flights",
        run_id="1",
        logical_date=datetime(2026, 11, 21, tzinfo=UTC),
        params={"rows": 5},
    ),
    task_run=TaskRun(task="train"),
    stage="training",
)
PARENT = TASK.of_workflow_run()


class LedgerStore:
    """Stands for the back end in an example."""

    def __init__(self, uri: str) -> None:
        self.uri = uri


def report() -> None:
    """Stands for the command in an example."""


def status_of(state: State | None) -> str | None:
    return None if state is None else state.status


ASKED: dict[str, tuple[Callable[[pluggy.PluginManager], Any], Callable[[Any], bool]]] = {
    "tracklayer_run_context": (
        dispatch.run_context,
        lambda told: told.workflow_run.run_id == "41" and told.task_run.task == "main",
    ),
    "tracklayer_stage": (lambda pm: dispatch.stage(pm, TASK), lambda told: told == "training"),
    "tracklayer_experiment_name": (
        lambda pm: dispatch.experiment_name(pm, TASK),
        lambda told: told == "/Shared/risk/flights",
    ),
    "tracklayer_run_name": (lambda pm: dispatch.run_name(pm, TASK), lambda told: told == "training-20261121"),
    "tracklayer_run_params": (
        lambda pm: [dispatch.run_params(pm, PARENT), dispatch.run_params(pm, TASK)],
        lambda told: told == [{"workflow": {"rows": 5}}, {}],
    ),
    "tracklayer_run_tags": (
        lambda pm: dispatch.run_tags(pm, TASK),
        lambda told: told == {"team": "risk", "cost-center": "4711"},
    ),
    "tracklayer_upstream": (
        lambda pm: dispatch.upstream(pm, TASK),
        lambda told: [item.run.run_id for item in told] == [RUN.run_id],
    ),
    "tracklayer_run_started": (lambda pm: dispatch.run_started(pm, RUN), lambda told: told is None),
    "tracklayer_run_linked": (
        lambda pm: dispatch.run_linked(pm, Link(consumer=RUN, upstream=Upstream(run=RUN))),
        lambda told: told is None,
    ),
    "tracklayer_hand_over": (
        lambda pm: dispatch.hand_over(pm, TASK, RUN, "tl1.token"),
        lambda _: pathlib.Path("previous-step").read_text() == "tl1.token",
    ),
    "tracklayer_run_ended": (lambda pm: dispatch.run_ended(pm, RUN, "FAILED"), lambda told: told is None),
    "tracklayer_workflow_state": (
        lambda pm: status_of(dispatch.workflow_state(pm, TASK.workflow_run)),
        lambda told: told == "RUNNING",
    ),
    "tracklayer_task_state": (
        lambda pm: status_of(dispatch.task_state(pm, TASK.workflow_run, TaskRun(task="train"))),
        lambda told: told is None,
    ),
    "tracklayer_store": (lambda pm: dispatch.store(pm, "ledger://x"), lambda told: told.uri == "ledger://x"),
    "tracklayer_commands": (dispatch.commands, lambda told: [app.info.name for app in told] == ["risk"]),
}
"""How each hook is called, and what its docstring's example answers."""


def example(name: str) -> str:
    """The code in a hook's docstring."""
    told = inspect.getdoc(SPECS[name]) or ""
    _, _, code = told.partition("Example:\n    ::\n")
    return textwrap.dedent(code)


def kind(name: str) -> str:
    return (inspect.getdoc(SPECS[name]) or "").partition(":")[0]


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    monkeypatch.setenv("MY_JOB", "flights")
    monkeypatch.setenv("MY_JOB_ID", "41")
    monkeypatch.setenv("MY_PREVIOUS_STEP", format_token(Token(run=RUN)))
    return []


def test_every_hook_is_asked_here() -> None:
    assert list(ASKED) == list(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_the_example_in_the_docstring_runs(name: str, paged: list[object]) -> None:
    names: dict[str, Any] = {
        **{name: getattr(tracklayer, name) for name in tracklayer.__all__ if name != "__version__"},
        "os": os,
        "datetime": datetime,
        "UTC": UTC,
        "pathlib": pathlib,
        "typer": typer,
        "parse_token": parse_token,
        "LedgerStore": LedgerStore,
        "report": report,
        "page_somebody": paged.append,
    }
    exec(compile(example(name), name, "exec"), names)
    plugin = type("Example", (), {name: staticmethod(names[name])})
    check_hooks(plugin)
    ask, expected = ASKED[name]
    assert expected(ask(plugin_manager(plugin)))
    assert paged == (["train"] if name == "tracklayer_run_ended" else [])


@pytest.mark.parametrize("name", SPECS)
def test_no_plugin_and_a_plugin_without_an_opinion_are_the_same(name: str) -> None:
    ask, _ = ASKED[name]
    silent = type("Silent", (), {name: staticmethod(hookimpl(specname=name)(lambda: None))})
    nothing = ask(plugin_manager())
    assert nothing in (None, {}, [], [{}, {}])
    assert ask(plugin_manager(silent)) == nothing


@pytest.mark.parametrize("name", SPECS)
def test_a_plugin_that_raises_is_named_and_passed_over(name: str, caplog: pytest.LogCaptureFixture) -> None:
    ask, _ = ASKED[name]

    def fails() -> None:
        raise ValueError("out of coffee")

    broken = type("Broken", (), {name: staticmethod(hookimpl(specname=name, tryfirst=True)(fails))})
    assert ask(plugin_manager(broken)) == ask(plugin_manager())
    assert name in caplog.text
    assert "out of coffee" in caplog.text
    assert "Broken" in caplog.text


@pytest.mark.parametrize("name", [name for name in SPECS if kind(name) == "Resolve"])
def test_where_one_plugin_fails_the_next_one_is_asked(name: str) -> None:
    ask, _ = ASKED[name]

    def fails() -> None:
        raise ValueError("out of coffee")

    answer: object = "FINISHED"
    broken = type("Broken", (), {name: staticmethod(hookimpl(specname=name)(fails))})
    answering = type("Answering", (), {name: staticmethod(hookimpl(specname=name)(lambda: answer))})
    assert ask(plugin_manager(answering, broken)) == answer


@pytest.mark.parametrize("answer", ["DONE", 3, State(status="SCHEDULED")])  # type: ignore[arg-type]
def test_what_is_no_state_is_a_failure_of_its_plugin(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    name = "tracklayer_workflow_state"
    wrong = type("Wrong", (), {name: staticmethod(hookimpl(specname=name)(lambda: answer))})
    right = type("Right", (), {name: staticmethod(hookimpl(specname=name)(lambda: State(status="GONE", said="404")))})
    assert dispatch.workflow_state(plugin_manager(right, wrong), TASK.workflow_run) == State(status="GONE", said="404")
    assert "Wrong" in caplog.text


def test_on_request_a_failing_plugin_raises() -> None:
    def fails() -> None:
        raise ValueError("out of coffee")

    broken = type("Broken", (), {"tracklayer_stage": staticmethod(hookimpl(specname="tracklayer_stage")(fails))})
    with pytest.raises(PluginError, match=r"Broken.*tracklayer_stage.*out of coffee"):
        dispatch.stage(plugin_manager(broken), TASK, strict=True)


@pytest.mark.parametrize("name", SPECS)
def test_the_kind_in_the_docstring_is_the_one_of_the_spec(name: str) -> None:
    manager = plugin_manager()
    first_result = getattr(manager.hook, name).spec.opts["firstresult"]
    assert kind(name) in {"Resolve", "Collect", "Notify"}
    assert first_result == (kind(name) == "Resolve")
    notified = str(inspect.signature(SPECS[name]).return_annotation) == "None"
    assert notified == (kind(name) == "Notify")


@pytest.mark.parametrize("name", SPECS)
def test_the_hook_is_documented_with_its_signature(name: str) -> None:
    text = REFERENCE.read_text()
    signature = f"{name}{inspect.signature(SPECS[name])}".replace("'", "")
    assert f"### `{name}`" in text
    section = text.partition(f"### `{name}`")[2].partition("\n#")[0]
    assert f"```python\n{signature}\n```" in section
    assert f"**{kind(name)}.**" in section


def test_the_page_has_the_hooks_in_the_order_of_a_runs_life_and_no_others() -> None:
    assert re.findall(r"^### `(tracklayer_\w+)`$", REFERENCE.read_text(), re.MULTILINE) == list(SPECS)
