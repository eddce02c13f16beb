"""The end of a pipeline run's parent by KFP's word; runs in an exit task."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tracklayer.context import Status

log = logging.getLogger("tracklayer")

STATUS: Final[dict[str, Status]] = {
    "SUCCEEDED": "FINISHED",  # the local runner's word
    "COMPLETE": "FINISHED",  # a cluster's
    "CACHED": "FINISHED",
    "SKIPPED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELLED": "KILLED",
    "CANCELED": "KILLED",
}


def finish(state: str | None, message: str | None = None) -> None:
    """End the parent of the pipeline run in which this runs. Never raises.

    Args:
        state: KFP's final state; one that is not known counts as failed.
        message: KFP's error message, None if there is none.
    """
    try:
        from tracklayer import settings as core_settings
        from tracklayer.tracking import close_workflow_run
        from tracklayer_kubeflow.settings import KubeflowSettings
        from tracklayer_kubeflow.task import this_task

        task = this_task()
        if task is None:
            log.warning("tracking: this is no task of a pipeline run: there is nothing to finish")
            return
        settings = core_settings.load()
        own = core_settings.table(settings, "kubeflow", KubeflowSettings)
        context = task.context(instance=settings.instance, settings=own)
        close_workflow_run(
            context,
            STATUS.get((state or "").upper(), "FAILED"),
            parent=context.parent,
            error=message,
            settings=settings,
        )
    except Exception as error:
        log.warning("tracking: the pipeline run's parent was not ended: %s: %s", type(error).__name__, error)
