"""Opening runs for flows and tasks: where this plugin meets core."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracklayer import settings as settings_module
from tracklayer.backend import tracking_uri
from tracklayer.current import current_run
from tracklayer.fence import fence
from tracklayer.settings import Settings
from tracklayer.tracking import open_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.context import RunContext
    from tracklayer.stage import StageRun
    from tracklayer_prefect.declaration import Tracked


def settings_of(how: Tracked) -> Settings:
    """The settings with what was declared. Where they are wrong, tracking is off and the log says why."""
    overrides = {} if how.experiment is None else {"experiment": how.experiment}
    with fence("reading the settings", "raise" if os.environ.get("TRACKLAYER_ON_ERROR") == "raise" else "log"):
        return settings_module.load(overrides)
    return Settings(enabled=False)


def is_on(settings: Settings) -> bool:
    """False if nothing is to be tracked; then Prefect's server is not asked for anything either."""
    return settings.enabled and tracking_uri(settings) is not None


def open_run(
    context: RunContext, how: Tracked, *, settings: Settings | None = None, tags: Mapping[str, str] | None = None
) -> StageRun:
    """Open the run of a task's try, or (where `context` has no task) that of the flow run itself.

    It is not made current; may be called in another thread than the user's code. Never fails, unless the setting
    ``on_error`` is ``"raise"``.

    Args:
        context: where the code runs.
        how: what was declared about it.
        settings: None lets core load them.
        tags: more tags.
    """
    run = open_stage(
        how.stage,
        context=context,
        run_name=how.run_name,
        tags={**dict(how.tags), **(tags or {})},
        settings=settings,
    )
    caller = current_run()
    if caller is not None and caller.context.workflow_run.run_id == context.workflow_run.run_id:
        run.outer = caller  # its flow's own run (or a task that calls this one), open around it in this process
    return run
