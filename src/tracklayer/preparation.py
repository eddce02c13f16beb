"""Asking everybody about a run before it is created: hooks, templates, the user's arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tracklayer import dispatch, naming
from tracklayer.context import RunContext, RunRef, Upstream
from tracklayer.current import inherited_token
from tracklayer.description import NOTE_TAG
from tracklayer.exceptions import TokenError
from tracklayer.fence import log
from tracklayer.identity import parse_token, run_key
from tracklayer.machine import PROCESS_TAG, this_process
from tracklayer.opening import Opening, milliseconds
from tracklayer.params import encode, valid_key
from tracklayer.redaction import Redaction
from tracklayer.tags import experiment_tags, run_tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pluggy

    from tracklayer.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What everybody said about a run.

    Attributes:
        opening: what creating it takes.
        context: where it runs, with the stage filled in, and with all that the orchestrator knows.
        params: params that the user gave from the start.
        collected: params that plugins know. They are logged last, and give way to what user code logs by the same
            name: MLflow never changes a param, so the other way round the user's own call would fail.
    """

    opening: Opening
    context: RunContext
    params: Mapping[str, object]
    collected: Mapping[str, object]


def prepare(
    context: RunContext,
    settings: Settings,
    plugins: pluggy.PluginManager,
    *,
    run_name: str | None = None,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    experiment: str | None = None,
    outer: RunRef | None = None,
    with_parent: bool = True,
    inherits: bool = True,
) -> Preparation:
    """Ask the hooks about the run of `context`.

    Args:
        context: where the code runs.
        settings: the settings.
        plugins: from `tracklayer.registry.load`.
        run_name: the user's own name for it; None: hooks and template decide.
        params: the user's own params, known from the start.
        tags: the user's own tags.
        experiment: name of the stage run's experiment, taken literally; None: hooks and template decide.
        outer: the stage run within which this one is opened; it is then its parent.
        with_parent: False where the workflow-run parent is known to exist, so that nobody need be asked about it.
        inherits: False where `context` has the token in this process's environment already, if that is one.
    """
    strict = settings.on_error == "raise"
    if inherits:
        context = _with_inherited_token(context)
    is_stage = context.task_run is not None
    if context.task_run is not None and context.stage is None:
        context = replace(context, stage=dispatch.stage(plugins, context, strict=strict) or context.task_run.task)
    redaction = Redaction(settings.redact)
    collected = dispatch.run_params(plugins, context, strict=strict)
    told = {**collected, **(params or {})}
    all_tags = {
        **run_tags(context),
        **_process(context),
        **dispatch.run_tags(plugins, context, strict=strict),
        **(tags or {}),
    }
    upstream = dispatch.upstream(plugins, context, strict=strict) if is_stage and outer is None else []
    if not upstream and outer is None:
        upstream = [Upstream(run=token.run, kind="token") for token in context.tokens]
    home = _experiment(context.of_workflow_run(), settings, plugins)
    if outer is not None:
        experiment = None
    elif experiment is None:
        experiment = _experiment(context, settings, plugins) if is_stage else home
    name = run_name or dispatch.run_name(plugins, context, strict=strict)
    named = naming.valid_run_name(name) if name else naming.run_name(context, settings, told)
    started = context.task_run.started_at if context.task_run else context.workflow_run.started_at
    of_parent: dict[str, Any] = {}
    if not is_stage and told:  # a stage run's are logged by the stage, as user code's are
        encoded = encode(told, redact=redaction)
        of_parent = {"params": dict(encoded.params), "artifacts": dict(encoded.artifacts)}
    elif is_stage and outer is None and with_parent:
        of_parent = {"parent": prepare(context.of_workflow_run(), settings, plugins, inherits=False).opening}
    described = context.workflow_run.description
    opening = Opening(
        context=context.bare(),
        key=run_key(context),
        experiment=experiment,
        home=home,
        experiment_tags=experiment_tags(context, settings),
        name=named,
        tags={valid_key(str(name)): str(redaction.mask(str(name), str(value))) for name, value in all_tags.items()},
        upstream=tuple(item for item in upstream if outer is None or item.run.run_id != outer.run_id),
        start_time=milliseconds(started),
        outer=outer,
        note=str(redaction.mask(NOTE_TAG, all_tags.get(NOTE_TAG) or (not is_stage and described) or "")),
        attempts=settings.attempts,
        strict=strict,
        **of_parent,
    )
    return Preparation(opening=opening, context=context, params=params or {}, collected=collected)


def _experiment(context: RunContext, settings: Settings, plugins: pluggy.PluginManager) -> str:
    name = dispatch.experiment_name(plugins, context, strict=settings.on_error == "raise")
    return naming.valid_experiment_name(name) if name else naming.experiment_name(context, settings)


def _with_inherited_token(context: RunContext) -> RunContext:
    """Add the token in this process's environment, if it is one and the context has none."""
    text = inherited_token()
    if text is None or context.tokens:
        return context
    try:
        return replace(context, tokens=(parse_token(text),))
    except TokenError as error:
        log.warning("the environment variable TRACKLAYER_PARENT is ignored: %s", error)
        return context


def _process(context: RunContext) -> dict[str, str]:
    """The tag that names the process, where the run ends with it or belongs to it; see `tracklayer.machine`."""
    return {PROCESS_TAG: this_process()} if context.task_run is not None or context.owns_workflow_run else {}
