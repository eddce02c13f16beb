"""The tags with which ``mlflow.start_run`` creates a run: below the stage in which it is called."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final

from mlflow.tracking.context.abstract_context import RunContextProvider

from tracklayer.mlflow_plugins import callers
from tracklayer.mlflow_plugins.stages import child_tags, current_stage, log, tracked_in

PARENT_VARIABLE: Final = "TRACKLAYER_PARENT"


class StageRunContext(RunContextProvider):
    """Parent and tags for runs that are started inside a stage; a link for those of a stage's subprocess.

    What the user gives as tags, or as parent, wins. The same question is asked for models and for the sources of
    datasets, which are no runs: they get nothing.
    """

    def in_context(self) -> bool:
        """True inside a stage, and in a process that was given a token."""
        return current_stage() is not None or PARENT_VARIABLE in os.environ

    def tags(self) -> dict[str, str]:
        """The tags. Outside of a stage a token in the environment becomes a link and no more: it is not our word."""
        if not callers.creates_run():
            return {}
        stage = current_stage()
        if stage is None:
            return dict(_link(os.environ.get(PARENT_VARIABLE, "")))
        from mlflow import get_tracking_uri

        from tracklayer.mlflow_plugins.active_runs import install

        install()
        return child_tags(stage) if tracked_in(stage, get_tracking_uri()) else {}


@lru_cache(maxsize=4)
def _link(token: str) -> tuple[tuple[str, str], ...]:
    """The tags that link a run to the one that `token` names."""
    from tracklayer.context import Upstream
    from tracklayer.exceptions import TokenError
    from tracklayer.identity import parse_token
    from tracklayer.linking import link_tags

    try:
        run = parse_token(token).run
    except TokenError as error:
        log.warning("the environment variable %s is ignored: %s", PARENT_VARIABLE, error)
        return ()
    return tuple(link_tags([Upstream(run=run, kind="token")]).items())
