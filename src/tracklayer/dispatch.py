"""Typed hook calls, and the only user of ``pm.hook``: resolve, collect, notify, each plugin's failure fenced.

Every function takes the plugin manager first. With ``strict=True`` (the setting ``on_error = "raise"``) a failing
plugin raises `PluginError`; else it is logged with the plugin's and the hook's name, and passed over.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, get_args

from tracklayer.context import State, Truth
from tracklayer.exceptions import PluginError
from tracklayer.interruption import let_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pluggy
    import typer

    from tracklayer.context import Link, RunContext, RunRef, Status, TaskRun, Upstream, WorkflowRun
    from tracklayer.store import Store

log = logging.getLogger("tracklayer")

_COLLECTING = frozenset({"tracklayer_run_params", "tracklayer_run_tags", "tracklayer_upstream", "tracklayer_commands"})


def run_context(pm: pluggy.PluginManager, *, strict: bool = False) -> RunContext | None:
    """Where this code runs; None if no plugin knows."""
    answer: RunContext | None = _resolve(pm, "tracklayer_run_context", {}, strict)
    return answer


def stage(pm: pluggy.PluginManager, context: RunContext, *, strict: bool = False) -> str | None:
    """The stage that plugins give to `context`; None if none has an opinion."""
    answer: str | None = _resolve(pm, "tracklayer_stage", {"context": context}, strict)
    return answer


def experiment_name(pm: pluggy.PluginManager, context: RunContext, *, strict: bool = False) -> str | None:
    """The experiment that plugins choose; None if none has an opinion."""
    answer: str | None = _resolve(pm, "tracklayer_experiment_name", {"context": context}, strict)
    return answer


def run_name(pm: pluggy.PluginManager, context: RunContext, *, strict: bool = False) -> str | None:
    """The run name that plugins choose; None if none has an opinion."""
    answer: str | None = _resolve(pm, "tracklayer_run_name", {"context": context}, strict)
    return answer


def workflow_state(
    pm: pluggy.PluginManager, workflow_run: WorkflowRun, *, strict: bool = False, failed: list[str] | None = None
) -> State | None:
    """What has become of the workflow run; None if no plugin knows. `failed` takes the names of plugins that failed."""
    return _state(pm, "tracklayer_workflow_state", {"workflow_run": workflow_run}, strict, failed)


def task_state(
    pm: pluggy.PluginManager,
    workflow_run: WorkflowRun,
    task_run: TaskRun,
    *,
    strict: bool = False,
    failed: list[str] | None = None,
) -> State | None:
    """What has become of one try of a task; None if no plugin knows. `failed` takes the names of plugins that failed."""
    return _state(pm, "tracklayer_task_state", {"workflow_run": workflow_run, "task_run": task_run}, strict, failed)


def store(pm: pluggy.PluginManager, uri: str, *, strict: bool = False) -> Store | None:
    """A plugin's own back end for `uri`; None if core's stores are to serve it."""
    answer: Store | None = _resolve(pm, "tracklayer_store", {"uri": uri}, strict)
    return answer


def run_params(pm: pluggy.PluginManager, context: RunContext, *, strict: bool = False) -> dict[str, object]:
    """All plugins' params of the run of `context`; the plugin that was registered last wins a name."""
    return _merge(pm, "tracklayer_run_params", context, strict)


def run_tags(pm: pluggy.PluginManager, context: RunContext, *, strict: bool = False) -> dict[str, str]:
    """All plugins' tags of the run of `context`; the plugin that was registered last wins a name."""
    return {str(name): str(value) for name, value in _merge(pm, "tracklayer_run_tags", context, strict).items()}


def upstream(pm: pluggy.PluginManager, context: RunContext, *, strict: bool = False) -> list[Upstream]:
    """The stage runs that feed this one as orchestrators hand them over, each run once."""
    found: dict[str, Upstream] = {}
    for plugin, answer in _answers(pm, "tracklayer_upstream", {"context": context}, strict):
        try:
            for item in answer:
                found.setdefault(item.run.run_id, item)
        except Exception as error:
            _report(plugin, "tracklayer_upstream", error, strict)
    return list(found.values())


def commands(pm: pluggy.PluginManager, *, strict: bool = False) -> list[typer.Typer]:
    """Command groups that plugins add to the command line."""
    found: list[typer.Typer] = []
    for plugin, answer in _answers(pm, "tracklayer_commands", {}, strict):
        try:
            found.extend(answer)
        except Exception as error:
            _report(plugin, "tracklayer_commands", error, strict)
    return found


def run_started(pm: pluggy.PluginManager, run: RunRef, *, strict: bool = False) -> None:
    """Tell everybody that a run was opened."""
    _notify(pm, "tracklayer_run_started", {"run": run}, strict)


def run_linked(pm: pluggy.PluginManager, link: Link, *, strict: bool = False) -> None:
    """Tell everybody that a link was written."""
    _notify(pm, "tracklayer_run_linked", {"link": link}, strict)


def hand_over(pm: pluggy.PluginManager, context: RunContext, run: RunRef, token: str, *, strict: bool = False) -> None:
    """Let orchestrators give the run's token to whatever comes next."""
    _notify(pm, "tracklayer_hand_over", {"context": context, "run": run, "token": token}, strict)


def run_ended(pm: pluggy.PluginManager, run: RunRef, status: Status, *, strict: bool = False) -> None:
    """Tell everybody that a run was ended."""
    _notify(pm, "tracklayer_run_ended", {"run": run, "status": status}, strict)


def _answers(
    pm: pluggy.PluginManager,
    hook: str,
    arguments: Mapping[str, object],
    strict: bool,
    failed: list[str] | None = None,
) -> Iterator[tuple[str, Any]]:
    """One answer that is not None from each plugin in pluggy's calling order.

    Plugins are called one at a time through a hook caller from which all others are removed, because in one call a
    raising hookimpl would keep the later ones from being asked.
    """
    implementations = getattr(pm.hook, hook).get_hookimpls()
    plugins = list(dict.fromkeys(implementation.plugin for implementation in reversed(implementations)))
    for plugin in plugins:
        name = pm.get_name(plugin) or repr(plugin)
        caller = pm.subset_hook_caller(hook, [other for other in plugins if other is not plugin])
        try:
            answer = caller(**arguments)
        except (Exception, SystemExit) as error:  # a plugin must not end the user's task
            _report(name, hook, error, strict)
            if failed is not None:
                failed.append(name)
            continue
        if hook in _COLLECTING:  # pluggy answers with a list, one item for each hookimpl of the plugin
            for item in answer:
                yield name, item
        elif answer is not None:
            yield name, answer


def _resolve(pm: pluggy.PluginManager, hook: str, arguments: Mapping[str, object], strict: bool) -> Any:
    return next((answer for _, answer in _answers(pm, hook, arguments, strict)), None)


def _state(
    pm: pluggy.PluginManager, hook: str, arguments: Mapping[str, object], strict: bool, failed: list[str] | None
) -> State | None:
    """The first answer that is a state; one that is none is its plugin's failure."""
    for plugin, answer in _answers(pm, hook, arguments, strict, failed):
        state = State(status=answer) if isinstance(answer, str) else answer  # type: ignore[arg-type]  # checked below
        if isinstance(state, State) and state.status in get_args(Truth):
            return state
        _report(plugin, hook, TypeError(f"{answer!r} is no state"), strict)
        if failed is not None:
            failed.append(plugin)
    return None


def _merge(pm: pluggy.PluginManager, hook: str, context: RunContext, strict: bool) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for plugin, answer in _answers(pm, hook, {"context": context}, strict):
        try:
            merged = {**dict(answer), **merged}
        except Exception as error:
            _report(plugin, hook, error, strict)
    return merged


def _notify(pm: pluggy.PluginManager, hook: str, arguments: Mapping[str, object], strict: bool) -> None:
    for _ in _answers(pm, hook, arguments, strict):
        pass


def _report(plugin: str, hook: str, error: BaseException, strict: bool) -> None:
    let_through(error)
    problem = PluginError(f"plugin {plugin!r} failed in {hook}: {type(error).__name__}: {error}")
    if strict:
        raise problem from error
    log.warning("%s; going on without its answer", problem, exc_info=error)


__all__: Sequence[str] = [
    "commands",
    "experiment_name",
    "hand_over",
    "run_context",
    "run_ended",
    "run_linked",
    "run_name",
    "run_params",
    "run_started",
    "run_tags",
    "stage",
    "store",
    "task_state",
    "upstream",
    "workflow_state",
]
