from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pytest

from tracklayer import dispatch, registry
from tracklayer.context import RunContext, RunRef, WorkflowRun
from tracklayer.exceptions import PluginError
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTEXT = RunContext(workflow_run=WorkflowRun(orchestrator="airflow", workflow="flights", run_id="r1"))
RUN = RunRef(run_id="a" * 32, experiment_id="1")

HEAD = "from tracklayer import hookimpl\n"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Write a plugin module and return its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, body: str) -> str:
        unique = f"{name}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{unique}.py").write_text(HEAD + body)
        sys.modules.pop(unique, None)
        return unique

    return write


def settings(*plugins: str, strict: bool = False, disabled: tuple[str, ...] = ()) -> Settings:
    everything_else = tuple(info.name for info in registry.installed(Settings()))
    return Settings(plugins=plugins, disabled_plugins=everything_else + disabled, on_error="raise" if strict else "log")


def test_a_plugin_from_the_settings_answers(plugin: Callable[[str, str], str]) -> None:
    name = plugin("naming", "@hookimpl\ndef tracklayer_stage(context):\n    return 'training'\n")
    assert dispatch.stage(registry.load(settings(name)), CONTEXT) == "training"


def test_an_object_in_a_module_can_be_the_plugin(plugin: Callable[[str, str], str]) -> None:
    body = "class Mine:\n    @hookimpl\n    def tracklayer_run_tags(self, context):\n        return {'team': 'risk'}\nmine = Mine()\n"
    name = plugin("objects", body)
    assert dispatch.run_tags(registry.load(settings(f"{name}:mine")), CONTEXT) == {"team": "risk"}


def test_a_plugin_that_raises_at_import_is_named_and_left_out(
    plugin: Callable[[str, str], str], caplog: pytest.LogCaptureFixture
) -> None:
    broken = plugin("broken", "raise RuntimeError('no licence')\n")
    works = plugin("works", "@hookimpl\ndef tracklayer_stage(context):\n    return 'training'\n")
    chosen = settings(broken, works)
    with caplog.at_level(logging.WARNING, "tracklayer"):
        assert dispatch.stage(registry.load(chosen), CONTEXT) == "training"
    assert f"plugin '{broken}' cannot be imported: RuntimeError: no licence" in caplog.text
    info = {info.name: info for info in registry.installed(chosen)}
    assert "no licence" in (info[broken].error or "")
    assert info[works].hooks == ("tracklayer_stage",)


def test_a_plugin_that_exits_at_import_does_not_end_the_process(plugin: Callable[[str, str], str]) -> None:
    name = plugin("exits", "raise SystemExit(3)\n")
    registry.load(settings(name))


@pytest.mark.parametrize(
    "body",
    [
        "@hookimpl\ndef tracklayer_no_such_hook(context):\n    return 1\n",
        "@hookimpl\ndef tracklayer_stage(context, airflow):\n    return 1\n",
    ],
)
def test_a_plugin_whose_hooks_do_not_fit_is_left_out(plugin: Callable[[str, str], str], body: str) -> None:
    name = plugin("misfit", body)
    chosen = settings(name)
    assert dispatch.stage(registry.load(chosen), CONTEXT) is None
    errors = [info.error for info in registry.installed(chosen) if info.error]
    assert len(errors) == 1
    assert f"plugin '{name}' does not fit the hooks" in errors[0]


def test_with_raise_a_broken_plugin_raises(plugin: Callable[[str, str], str]) -> None:
    name = plugin("strict", "raise RuntimeError('no licence')\n")
    with pytest.raises(PluginError, match="no licence"):
        registry.load(settings(name, strict=True))


def test_a_disabled_plugin_is_not_even_imported(plugin: Callable[[str, str], str]) -> None:
    name = plugin("off", "raise RuntimeError('was imported')\n")
    chosen = settings(name, disabled=(name,))
    registry.load(chosen)
    (info,) = [info for info in registry.installed(chosen) if info.name == name]
    assert info.disabled
    assert info.error is None
    assert name not in sys.modules


def test_a_failing_resolve_hook_is_named_and_the_next_plugin_is_asked(
    plugin: Callable[[str, str], str], caplog: pytest.LogCaptureFixture
) -> None:
    answers = plugin("answers", "@hookimpl\ndef tracklayer_stage(context):\n    return 'training'\n")
    raises = plugin("raises", "@hookimpl\ndef tracklayer_stage(context):\n    raise KeyError('stage')\n")
    manager = registry.load(settings(answers, raises))
    assert dispatch.stage(manager, CONTEXT) == "training"
    assert f"plugin '{raises}' failed in tracklayer_stage: KeyError: 'stage'" in caplog.text
    with pytest.raises(PluginError, match=f"plugin '{raises}' failed in tracklayer_stage"):
        dispatch.stage(manager, CONTEXT, strict=True)


def test_a_failing_collect_hook_costs_only_its_own_part(plugin: Callable[[str, str], str]) -> None:
    first = plugin("first", "@hookimpl\ndef tracklayer_run_params(context):\n    return {'a': 1, 'both': 'first'}\n")
    second = plugin("second", "@hookimpl\ndef tracklayer_run_params(context):\n    return {'b': 2, 'both': 'second'}\n")
    raises = plugin("third", "@hookimpl\ndef tracklayer_run_params(context):\n    raise OSError('disk')\n")
    odd = plugin("fourth", "@hookimpl\ndef tracklayer_run_params(context):\n    return 42\n")
    manager = registry.load(settings(first, second, raises, odd))
    assert dispatch.run_params(manager, CONTEXT) == {"a": 1, "b": 2, "both": "second"}


def test_a_failing_notify_hook_keeps_nobody_else_from_hearing(
    plugin: Callable[[str, str], str], tmp_path: Path
) -> None:
    heard = tmp_path / "heard"
    body = (
        "@hookimpl\ndef tracklayer_run_started(run):\n"
        f"    with open({str(heard)!r}, 'a') as file:\n        file.write(run.run_id)\n"
    )
    before, after = plugin("before", body), plugin("after", body)
    exits = plugin("quits", "@hookimpl\ndef tracklayer_run_started(run):\n    raise SystemExit(1)\n")
    dispatch.run_started(registry.load(settings(before, exits, after)), RUN)
    assert heard.read_text() == RUN.run_id * 2


def test_plugins_share_what_feeds_a_run_once(plugin: Callable[[str, str], str]) -> None:
    body = (
        "from tracklayer import RunRef, Upstream\n"
        "@hookimpl\ndef tracklayer_upstream(context):\n"
        "    return [Upstream(run=RunRef(run_id='x', experiment_id='1'))]\n"
    )
    manager = registry.load(settings(plugin("one", body), plugin("two", body)))
    assert [item.run.run_id for item in dispatch.upstream(manager, CONTEXT)] == ["x"]
