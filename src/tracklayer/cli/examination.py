"""What the doctor looks at. Nothing is changed, no run is opened, and no secret is told."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import msgspec

from tracklayer import backend, dispatch, registry, scripts
from tracklayer import settings as settings_module
from tracklayer.cli.finding import Finding
from tracklayer.cli.plugins import installed_plugins, origin, unknown_names
from tracklayer.cli.tables import tables
from tracklayer.cli.terminal import Listener
from tracklayer.cli.tracking import WAYS, open_store, read_settings
from tracklayer.cli.undelivered import undelivered
from tracklayer.context import SCRIPT, RunContext, TaskRun, WorkflowRun
from tracklayer.exceptions import AccessDenied, SettingsError, StoreError, StoreUnavailable, TracklayerError
from tracklayer.redaction import Redaction, mask_text
from tracklayer.store.endpoint import Endpoint, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer.settings import Settings

_ORCHESTRATORS: Final = (
    ("apache-airflow", "airflow", "tracklayer-airflow"),
    ("prefect", "prefect", "tracklayer-prefect"),
    ("kfp", "kubeflow", "tracklayer-kubeflow"),
)
"""Distribution of each orchestrator, the name of its plugin, and the distribution that brings it."""

_ALWAYS_SHOWN: Final = ("tracking_uri", "experiment", "run_name", "parent_name")


def examine(tracking_uri: str | None = None) -> list[Finding]:
    """Look at everything, in the order of `tracklayer.cli.finding.SECTIONS`.

    Args:
        tracking_uri: look at this tracking back end instead of that of the settings.
    """
    findings = [*_installed()]
    try:
        settings = read_settings(tracking_uri)
    except SettingsError as error:
        advice = "correct it there; until then tracking is off, and pipelines run untracked"
        return findings + [
            Finding(section="Settings", name="wrong", text=line, level="problem", advice=advice)
            for line in str(error).splitlines()
        ]
    findings += _plugins(settings)
    findings += _settings(settings, tracking_uri)
    findings += tables(settings)
    findings += _server(settings)
    findings += undelivered(settings)
    findings += _place(settings)
    return findings


def _installed() -> Iterator[Finding]:
    yield Finding(section="Installed", name="python", text=f"{platform.python_version()} on {platform.platform()}")
    yield Finding(
        section="Installed", name="tracklayer", text=_version("tracklayer") or "not installed, only importable"
    )
    mlflow = _version("mlflow") or _version("mlflow-skinny")
    yield Finding(
        section="Installed",
        name="mlflow",
        text=mlflow or "not installed (not needed for an http or https tracking URI)",
    )
    for distribution, _, _ in _ORCHESTRATORS:
        found = _version(distribution)
        if found:
            yield Finding(section="Installed", name=distribution, text=found)


def _plugins(settings: Settings) -> Iterator[Finding]:
    infos = installed_plugins(settings)
    for info in infos:
        if info.error:
            yield Finding(
                section="Plugins",
                name=info.name,
                text=mask_text(info.error),
                level="problem",
                advice=f"repair or reinstall it, or switch it off: disabled_plugins = [{info.name!r}]",
            )
        elif info.disabled:
            yield Finding(section="Plugins", name=info.name, text=f"{origin(info)}: disabled by disabled_plugins")
        else:
            hooks = ", ".join(name.removeprefix("tracklayer_") for name in info.hooks)
            yield Finding(
                section="Plugins",
                name=info.name,
                text=f"{origin(info)}: {hooks or 'implements no hook'}",
                level="ok" if hooks else "warning",
                advice=None if hooks else "mark its functions with @tracklayer.hookimpl",
            )
    for name in unknown_names(settings, infos):
        yield Finding(section="Plugins", name=name, text="is in disabled_plugins, and no plugin here is called so")
    names = {info.name for info in infos}
    for distribution, plugin, brought_by in _ORCHESTRATORS:
        if _version(distribution) and plugin not in names:
            yield Finding(
                section="Plugins",
                name=plugin,
                text=f"{distribution} is installed, its plugin is not",
                level="warning",
                advice=f"pip install {brought_by}, if its workflows are to be tracked",
            )


def _settings(settings: Settings, tracking_uri: str | None) -> Iterator[Finding]:
    """Every setting with where it comes from; defaults and plugins' tables are details."""
    origins = dict(settings_module.origins())
    if tracking_uri:
        origins["tracking_uri"] = "--tracking-uri"
    redaction = Redaction(settings.redact)
    for name in settings.__struct_fields__:
        if name == "tables":
            continue
        value = getattr(settings, name)
        shown = _shown(redaction, name, value)
        where = origins.pop(name, None)
        yield Finding(
            section="Settings",
            name=name,
            text=f"{shown}  ({where.removeprefix('in ') if where else 'default'})",
            detail=where is None and name not in _ALWAYS_SHOWN,
        )
    for name, where in sorted(origins.items()):
        plugin, _, field = name.partition(".")
        value = settings.tables.get(plugin, {}).get(field)
        shown = _shown(redaction, name, value) if value is not None else "set"
        yield Finding(section="Settings", name=name, text=f"{shown}  ({where.removeprefix('in ')})")
    if not settings.enabled:
        yield Finding(
            section="Settings",
            name="enabled",
            text="tracking is switched off",
            level="warning",
            advice="set enabled = true, or unset TRACKLAYER_ENABLED, to track",
        )


def _server(settings: Settings) -> Iterator[Finding]:
    uri = backend.tracking_uri(settings)
    if uri is None:
        yield Finding(
            section="Server", name="tracking URI", text="none, so nothing is tracked", level="problem", advice=WAYS
        )
        return
    yield Finding(section="Server", name="tracking URI", text=without_credentials(uri))
    try:
        credentials = _credentials(uri)
        if credentials:
            yield Finding(section="Server", name="credentials", text=credentials)
        with Listener() as listener:
            store = open_store(settings, patient=False)
            started = time.perf_counter()
            found = store.ping()
            took = (time.perf_counter() - started) * 1_000
    except (StoreError, SettingsError, OSError) as error:
        yield Finding(
            section="Server", name="answer", text=mask_text(str(error)), level="problem", advice=_advice(error, uri)
        )
        return
    except ImportError as error:
        yield Finding(
            section="Server",
            name="answer",
            text=f"this tracking URI needs a library that cannot be imported: {error}",
            level="problem",
            advice="pip install 'tracklayer[mlflow]', and the driver of the database if that is missing",
        )
        return
    kind = "MLflow server" if _is_http(uri) else "read through the mlflow library"
    yield Finding(section="Server", name="answer", text=f"{kind} {found}, in {took:.0f} ms", level="ok")
    for message in listener.messages:
        yield Finding(section="Server", name="warning", text=message, level="warning", advice="see the message")


def _place(settings: Settings) -> Iterator[Finding]:
    """What a stage that is opened right here would be called."""
    with Listener() as listener:
        try:
            yield from _names(settings)
        except TracklayerError as error:
            yield Finding(
                section="This place",
                name="names",
                text=mask_text(str(error)),
                level="problem",
                advice="correct what the message names",
            )
    for message in listener.messages:
        yield Finding(
            section="This place",
            name="warning",
            text=mask_text(message),
            level="problem" if "failed in" in message else "warning",
            advice="the plugin or the setting that the message names needs a look",
        )


def _names(settings: Settings) -> Iterator[Finding]:
    from tracklayer.preparation import prepare

    plugins = registry.load(_forgiving(settings))
    context = dispatch.run_context(plugins)
    if context is None:
        yield Finding(
            section="This place",
            name="orchestrator",
            text="none; a script example.py with a stage called training would be tracked like this:",
        )
        workflow_run = WorkflowRun(
            orchestrator=SCRIPT, instance=scripts.instance(), workflow="example", run_id="example-run"
        )
        context = RunContext(
            workflow_run=workflow_run, task_run=TaskRun(task="training"), stage="training", owns_workflow_run=True
        )
    else:
        yield Finding(section="This place", name="orchestrator", text=context.workflow_run.orchestrator)
        yield Finding(section="This place", name="workflow", text=context.workflow_run.workflow)
        yield Finding(section="This place", name="workflow run", text=context.workflow_run.run_id)
    quiet = _forgiving(settings)
    opening = prepare(context, quiet, plugins, with_parent=False).opening
    parent = prepare(context.of_workflow_run(), quiet, plugins).opening
    yield Finding(
        section="This place", name="experiment", text=opening.experiment or parent.experiment or "", level="ok"
    )
    yield Finding(section="This place", name="parent", text=parent.name, level="ok")
    if opening.context.task_run is not None:
        yield Finding(section="This place", name="run", text=opening.name, level="ok")
        yield Finding(section="This place", name="stage", text=opening.context.stage or "", level="ok")
    yield Finding(section="This place", name="key", text=opening.key, level="ok")
    redaction = Redaction(settings.redact)
    for name, value in sorted(opening.tags.items()):
        yield Finding(section="This place", name=f"tag {name}", text=_shown(redaction, name, value), detail=True)


def _forgiving(settings: Settings) -> Settings:
    """The settings with failures of plugins logged, so that the doctor sees all of them and not only the first."""
    return msgspec.structs.replace(settings, on_error="log")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _shown(redaction: Redaction, name: str, value: object) -> str:
    masked = redaction.mask(name, value)
    text = ", ".join(map(str, masked)) or "none" if isinstance(masked, (tuple, list)) else str(masked)
    return mask_text(without_credentials(text) if name in ("tracking_uri", "ui_url") else text)


def _is_http(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))


def _credentials(uri: str) -> str | None:
    if not _is_http(uri):
        return None
    found = Endpoint.find(uri).credentials_from
    return f"from {found}" if found else "none"


def _advice(error: Exception, uri: str) -> str:
    if isinstance(error, AccessDenied):
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to credentials that "
            "may read and create runs"
        )
    if isinstance(error, StoreUnavailable):
        return (
            "is the server running, is the address right, and does a firewall, proxy (HTTPS_PROXY, NO_PROXY) or "
            "certificate stand between? Pipelines run on meanwhile"
            if _is_http(uri)
            else "is the database running, and is the address right? Pipelines run on meanwhile"
        )
    return (
        "is this the tracking URI of an MLflow server (without /#/… of its pages), or of a database that MLflow set up?"
    )
