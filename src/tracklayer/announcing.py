"""Telling the plugins that a run is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer import dispatch
from tracklayer.identity import format_token

if TYPE_CHECKING:
    import pluggy

    from tracklayer.opening import Opened
    from tracklayer.preparation import Preparation


def announce(preparation: Preparation, opened: Opened, plugins: pluggy.PluginManager) -> None:
    """Tell the plugins of a run that was opened in this process, and let them hand it over."""
    strict, context = preparation.opening.strict, preparation.context
    if opened.made_parent is not None:
        announce_run(opened.made_parent, plugins, strict=strict)
    announce_run(opened, plugins, strict=strict)
    if context.task_run is not None and preparation.opening.outer is None:
        dispatch.hand_over(plugins, context, opened.ref, format_token(opened.token), strict=strict)


def announce_run(opened: Opened, plugins: pluggy.PluginManager, *, strict: bool) -> None:
    """Tell the plugins of a run that exists by now, and of its links."""
    dispatch.run_started(plugins, opened.ref, strict=strict)
    for link in opened.links:
        dispatch.run_linked(plugins, link, strict=strict)
