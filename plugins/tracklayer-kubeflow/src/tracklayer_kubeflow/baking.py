"""What a tracked pipeline's compiled form holds beyond KFP's own: variables in the environment of its tasks.

Only of tasks that are tracked, and never in place of a variable that the pipeline's author has set.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tracklayer_kubeflow import graph, variables
from tracklayer_kubeflow.facts import PipelineFacts, to_text

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("tracklayer")

KUBERNETES: Final = "kubernetes"
CONFIG_VARIABLE: Final = "TRACKLAYER_CONFIG"
CODE_TAGS: Final = ("mlflow.source.git.", "tracklayer.git.")
"""Tags that say which code a pipeline was compiled from. Others would tell of the machine that compiled it."""

SETTINGS: Final = (
    "attempts",
    "enabled",
    "experiment",
    "instance",
    "parent_name",
    "project",
    "run_name",
    "team",
    "tracking_uri",
    "ui_url",
    "version",
)
"""Core's settings that reach the tasks if a settings file where the pipeline is compiled has them."""


def bake(spec: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The deployment part of a pipeline's specification, with variables for every tracked task.

    Args:
        spec: the specification as a dictionary.
        values: variables that are the same for all tasks.

    Returns:
        A new ``deploymentSpec``.
    """
    facts = graph.tasks(spec)
    tracked = graph.executors(spec)
    deployment = dict(spec.get("deploymentSpec", {}))
    deployment["executors"] = {
        label: {**executor, "container": _with_variables(executor["container"], values, facts.get(label))}
        if label in tracked
        else executor
        for label, executor in deployment.get("executors", {}).items()
    }
    return deployment


def _with_variables(container: Mapping[str, Any], values: Mapping[str, str], facts: Any) -> dict[str, Any]:
    own = {} if facts is None else {variables.TASK: to_text(facts)}
    before = list(container.get("env", ()))
    names = {item.get("name") for item in before}
    skipped = {"TRACKLAYER_TRACKING_URI"} if "MLFLOW_TRACKING_URI" in names else set()
    added = [
        {"name": name, "value": value}
        for name, value in sorted({**values, **own}.items())
        if name not in names and name not in skipped
    ]
    return {**container, "env": [*before, *added]}


def bake_platform(
    executors: Mapping[str, Any], labels: list[str], secrets: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """Kubernetes' part: variables that a pod's own fields and secrets fill in.

    Args:
        executors: what is there already, by executor label.
        labels: the executors of tracked tasks.
        secrets: variables by name: the secret and the key in it.

    Returns:
        New ``executors``.
    """
    found = {label: dict(config) for label, config in executors.items()}
    for label in labels:
        config = found.setdefault(label, {})
        fields = list(config.get("fieldPathAsEnv", ()))
        names = {field.get("name") for field in fields}
        fields += [{"name": name, "fieldPath": path} for name, path in variables.DOWNWARD.items() if name not in names]
        config["fieldPathAsEnv"] = fields
        if secrets:
            config["secretAsEnv"] = [*config.get("secretAsEnv", ()), *map(_secret, secrets.items())]
    return found


def _secret(item: tuple[str, tuple[str, str]]) -> dict[str, Any]:
    variable, (secret, key) = item
    return {
        "secretName": secret,
        "secretNameParameter": {"runtimeValue": {"constant": secret}},
        "keyToEnv": [{"secretKey": key, "envVar": variable}],
        "optional": False,
    }


def common_variables(pipeline: PipelineFacts, tags: Mapping[str, str]) -> dict[str, str]:
    """Variables that are the same for all tasks: what the pipeline is, its code, and the settings in files."""
    named = {**_settings(), variables.PIPELINE: to_text(pipeline)}
    return {**named, variables.TAGS: _json(tags)} if tags else named


def relative_source(source: str | None) -> str | None:
    """The file that defines the pipeline, as it may be written into the compiled form: no path of this machine."""
    if source is None:
        return None
    path = Path(source)
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return path.name


def code_tags(pipeline: PipelineFacts) -> dict[str, str]:
    """Tags that name the code in the pipeline's file, from whatever plugin knows; empty if none does."""
    from tracklayer import dispatch, registry, settings
    from tracklayer.context import RunContext, WorkflowRun
    from tracklayer.exceptions import TracklayerError

    run = WorkflowRun(orchestrator="kubeflow", workflow=pipeline.name, run_id="compiled", source=pipeline.source)
    try:
        tags = dispatch.run_tags(registry.load(settings.load()), RunContext(workflow_run=run))
    except TracklayerError as error:
        log.warning("the pipeline %r is compiled without its code version: %s", pipeline.name, error)
        return {}
    return {name: value for name, value in sorted(tags.items()) if name.startswith(CODE_TAGS)}


def _settings() -> dict[str, str]:
    """What a settings file says, as environment variables. The environment of this machine is left out of it."""
    from tracklayer import settings
    from tracklayer.exceptions import TracklayerError
    from tracklayer_kubeflow.settings import KubeflowSettings

    file = os.environ.get(CONFIG_VARIABLE, "")
    try:
        found = settings.load(environ={CONFIG_VARIABLE: file} if file else {})
        own = settings.table(found, "kubeflow", KubeflowSettings)
    except TracklayerError as error:
        log.warning("the pipeline is compiled without the settings: %s", error)
        return {}
    default = settings.Settings()
    told = {f"TRACKLAYER_{name.upper()}": getattr(found, name) for name in SETTINGS}
    usual = {f"TRACKLAYER_{name.upper()}": getattr(default, name) for name in SETTINGS}
    told["TRACKLAYER_KUBEFLOW_UI_URL"] = own.ui_url
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in told.items()
        if value is not None and value != usual.get(name) and not _has_credentials(str(value))
    }


def _has_credentials(value: str) -> bool:
    try:
        return "://" in value and "@" in urlsplit(value).netloc
    except ValueError:
        return True


def _json(tags: Mapping[str, str]) -> str:
    import json

    return json.dumps(dict(tags), sort_keys=True)
