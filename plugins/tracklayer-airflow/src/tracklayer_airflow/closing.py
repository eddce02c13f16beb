"""Ending parents: what is done with the word that a DAG run has ended.

Run as a module (``python -m tracklayer_airflow.closing``) it is the process to which the scheduler's listener writes:
one JSON object a line on standard input. Each goes to this process's journal, from where it is delivered, however long
the tracking server is away; meanwhile it delivers what tasks left behind on this machine, too. It ends when its
standard input is closed or the scheduler is gone; what is not delivered by then, the next one delivers.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger("tracklayer")

WATCH: Final = 5.0
"""Seconds after which the process looks whether the scheduler still lives."""

DRAIN: Final = 20.0
"""Seconds that are taken at the end to deliver what is still to be delivered."""


def close(end: Mapping[str, Any]) -> None:
    """Have the parent of a DAG run ended, as the listener heard that it ended.

    Args:
        end: ``facts`` (see `tracklayer_airflow.workflow`), ``status``, ``error``, and ``tracked``: whether the DAG has
            tracked tasks. If so, and the tracking server has no parent, it is waited for: the tasks' journals may still
            have to be delivered.

    Raises:
        tracklayer.exceptions.TracklayerError: only with ``on_error = "raise"``.
    """
    from tracklayer import settings as settings_module
    from tracklayer.context import RunContext, RunRef
    from tracklayer.identity import workflow_run_key
    from tracklayer.provisional import PENDING, provisional_id
    from tracklayer.tracking import close_workflow_run
    from tracklayer_airflow import workflow

    settings = settings_module.load()
    workflow_run = workflow.workflow_run(end["facts"], instance=settings.instance)
    key = workflow_run_key(workflow_run)
    parent = RunRef(run_id=provisional_id(key), experiment_id=PENDING, key=key) if end.get("tracked") else None
    context = RunContext(workflow_run=workflow_run)
    close_workflow_run(context, end["status"], parent=parent, error=end["error"], settings=settings)


def main() -> None:
    """Do what is written to standard input, until it is closed or the process that started this one is gone."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    stopping: list[int] = []
    # Ctrl-C and a stop of the whole process group reach this process too: it still has to write the last ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    for line in _lines(sys.stdin.fileno(), stopping):
        try:
            close(json.loads(line))
        except ValueError:
            log.warning("tracking: the end of a DAG run could not be read: %.200r", line)
        except Exception as error:
            log.warning("tracking: the parent of a DAG run was not ended: %s: %.200r", error, line)


def _lines(stdin: int, stopping: list[int]) -> Iterator[bytes]:
    """The lines on standard input as they come."""
    parent = os.getppid()
    rest = b""
    while not stopping and os.getppid() == parent:
        if select.select([stdin], [], [], WATCH)[0]:
            chunk = os.read(stdin, 65_536)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines


if __name__ == "__main__":
    main()
