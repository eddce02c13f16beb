"""What the doctor finds in the plugins' own tables: what is misspelt, of a wrong type, or read by nobody."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tracklayer import registry
from tracklayer import settings as settings_module
from tracklayer.cli.finding import Finding
from tracklayer.cli.plugins import installed_plugins
from tracklayer.exceptions import PluginError, SettingsError
from tracklayer.redaction import mask_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer.registry import PluginInfo
    from tracklayer.settings import Settings

SECTION: Final = "Settings"


def tables(settings: Settings) -> Iterator[Finding]:
    """Look at what is set for plugins, each by what it says of its settings.

    Args:
        settings: those of core, with the tables.
    """
    read: set[str] = set()
    for info in installed_plugins(settings):
        names = _names(info)
        read.update(names)
        if not (info.error or info.disabled):
            yield from _of_plugin(info, names, settings)
    for name in sorted(_set(settings) - read - set(settings.disabled_plugins)):
        yield Finding(
            section=SECTION,
            name=name,
            text=f"is set for the plugin {name}, which is not installed here",
            level="warning",
            advice=f"nothing reads it here: install the plugin, or say so with disabled_plugins = [{name!r}]",
        )


def _of_plugin(info: PluginInfo, names: list[str], settings: Settings) -> Iterator[Finding]:
    try:
        kind = registry.settings_type(settings, info.name)
    except PluginError as error:
        yield Finding(
            section="Plugins",
            name=info.name,
            text=mask_text(str(error)),
            level="problem",
            advice=f"correct {registry.SETTINGS} in the plugin",
        )
        return
    is_set = _set(settings)
    if kind is None:
        if unchecked := sorted(is_set.intersection(names)):
            text = f"the plugin does not say which settings it has ({registry.SETTINGS}), so they are not checked here"
            yield Finding(section=SECTION, name=unchecked[0], text=text)
        return
    for name in names:
        if info.distribution is None and name not in is_set:
            continue  # which part of module:object the plugin calls itself by shows only where it has a table
        try:
            settings_module.table(settings, name, kind)
        except SettingsError as error:
            for line in str(error).splitlines():
                yield Finding(
                    section=SECTION,
                    name="wrong",
                    text=mask_text(line),
                    level="problem",
                    advice=f"correct it there; until then the plugin {name} cannot read its settings",
                )


def _names(info: PluginInfo) -> list[str]:
    """What the plugin's table may be called."""
    return [info.name] if info.distribution else re.split(r"[.:]", info.name)


def _set(settings: Settings) -> set[str]:
    """The plugins for which anything is set."""
    environment = (name.partition(".")[0] for name in settings_module.origins() if "." in name)
    return {*settings.tables, *environment}
