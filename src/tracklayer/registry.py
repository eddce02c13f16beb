"""Which plugins there are: found by entry point or by the settings, sorted, blockable, each import fenced.

A plugin that cannot be imported, or whose hookimpls do not fit the specs, is left out with a warning that names it;
the others work on, and so does the pipeline.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import msgspec
import pluggy

from tracklayer import hookspecs
from tracklayer.exceptions import PluginError
from tracklayer.interruption import let_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracklayer.settings import Settings

GROUP = "tracklayer"
"""The entry-point group in which distributions announce their plugins."""

SETTINGS = "tracklayer_settings"
"""The attribute by which a plugin says what its own settings are: a `msgspec.Struct`, or where it is, ``module:Struct``."""

log = logging.getLogger("tracklayer")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """One plugin, whether or not it works.

    Attributes:
        name: the entry point's name, or the text ``module:object`` of the settings.
        distribution: name of the distribution that brings it; None for one from the settings.
        version: version of that distribution, None with it.
        hooks: names of the hooks that it implements; empty while it is disabled or broken.
        error: why it cannot be used; None if it can.
        disabled: True if the setting ``disabled_plugins`` names it.
    """

    name: str
    distribution: str | None = None
    version: str | None = None
    hooks: tuple[str, ...] = ()
    error: str | None = None
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    target: str
    distribution: str | None
    version: str | None


def load(settings: Settings) -> pluggy.PluginManager:
    """The plugin manager with every plugin that the settings allow; one for each set of plugins in a process.

    A broken plugin is left out with a warning; with ``on_error = "raise"`` it raises.

    Raises:
        PluginError: a plugin is broken and ``on_error`` is ``"raise"``.
    """
    manager, infos = _load(tuple(settings.plugins), tuple(settings.disabled_plugins))
    if settings.on_error == "raise":
        for info in infos:
            if info.error:
                raise PluginError(info.error)
    return manager


def installed(settings: Settings) -> Sequence[PluginInfo]:
    """Every plugin that was found, sorted by name, with what is wrong with it if anything is."""
    return _load(tuple(settings.plugins), tuple(settings.disabled_plugins))[1]


def settings_type(settings: Settings, name: str) -> type[msgspec.Struct] | None:
    """What a plugin's own settings are, so that somebody else than the plugin can check its table.

    Args:
        settings: which plugins there are.
        name: the plugin's name.

    Returns:
        The struct that its attribute ``tracklayer_settings`` names; None if it has none.

    Raises:
        PluginError: the attribute names nothing that can be imported, or no struct.
    """
    manager, _ = _load(tuple(settings.plugins), tuple(settings.disabled_plugins))
    told = getattr(manager.get_plugin(name), SETTINGS, None)
    if told is None:
        return None
    try:
        found = _resolve(told) if isinstance(told, str) else told
    except Exception as error:
        let_through(error)
        raise PluginError(f"{SETTINGS} of the plugin {name!r}: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, msgspec.Struct)):
        raise PluginError(
            f"{SETTINGS} of the plugin {name!r} must be a msgspec.Struct, or 'module:Struct', not {told!r}"
        )
    return found


def _found(plugins: tuple[str, ...]) -> Iterator[_Found]:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        dist = entry.dist
        yield _Found(entry.name, entry.value, dist.name if dist else None, dist.version if dist else None)
    for text in plugins:
        yield _Found(text, text, None, None)


@lru_cache(maxsize=16)
def _load(plugins: tuple[str, ...], disabled: tuple[str, ...]) -> tuple[pluggy.PluginManager, Sequence[PluginInfo]]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    infos = []
    for found in _found(plugins):
        error: str | None = None
        off = found.name in disabled
        if not off:
            error = _register(manager, found)
            if error:
                log.warning("%s; going on without it", error)
        plugin = manager.get_plugin(found.name)
        callers = (manager.get_hookcallers(plugin) or []) if plugin is not None else []
        infos.append(
            PluginInfo(
                name=found.name,
                distribution=found.distribution,
                version=found.version,
                hooks=tuple(sorted(caller.name for caller in callers)),
                error=error,
                disabled=off,
            )
        )
    return manager, tuple(infos)


def _register(manager: pluggy.PluginManager, found: _Found) -> str | None:
    """Import and register one plugin; the text of what is wrong, or None."""
    source = f"plugin {found.name!r}" + (f" of {found.distribution} {found.version}" if found.distribution else "")
    try:
        plugin = _resolve(found.target)
    except (Exception, SystemExit) as error:  # whatever a plugin's module does at import, the pipeline goes on
        let_through(error)
        return f"{source} cannot be imported: {type(error).__name__}: {error}"
    if manager.is_registered(plugin):
        return None
    try:
        manager.register(plugin, name=found.name)
        manager.check_pending()
    except Exception as error:
        if manager.get_plugin(found.name) is not None:
            manager.unregister(name=found.name)
        let_through(error)
        return f"{source} does not fit the hooks: {error}"
    return None


def _resolve(target: str) -> object:
    module, _, attributes = target.partition(":")
    if not module:
        raise ImportError(f"{target!r} must have the form 'module' or 'module:object'")
    value: object = import_module(module)
    for name in attributes.split(".") if attributes else ():
        value = getattr(value, name)
    return value
