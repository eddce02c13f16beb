"""What the process of each tracked task imports, imported once in the process that those are forked from.

With LocalExecutor a task's process is forked from the scheduler's, with CeleryExecutor from the worker's. What that
has imported the task has, too: some 130 ms of CPU time less for each try, and a few megabytes that all of them share.
"""

from __future__ import annotations

import importlib
import logging
from importlib.metadata import entry_points
from typing import Final

log = logging.getLogger("tracklayer")

MODULES: Final = (
    "encodings.ascii",
    "encodings.idna",
    "tracklayer.journal.inheritance",
    "tracklayer.journal.recovery",
    "tracklayer.observation",
    "tracklayer.store.rest",
    "tracklayer.tracking",
    "tracklayer_airflow.execution",
    "tracklayer_airflow.hookimpls",
    "tracklayer_airflow.late",
    "tracklayer_airflow.observing",
)
"""With these comes all that a stage needs on a server over HTTP; neither mlflow nor user code is among it."""

OURS: Final = "tracklayer"


def import_ahead() -> None:
    """Import it. Never raises: what fails here fails again where it is needed, and is told there."""
    plugins = [entry.module for entry in entry_points(group=OURS) if entry.module.startswith(OURS)]
    for name in (*MODULES, *plugins):
        try:
            importlib.import_module(name)
        except Exception as error:
            log.debug("%s cannot be imported ahead: %s", name, error)
