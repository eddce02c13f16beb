"""A flow in a process of its own, to be ended from outside: ``prefect_script.py FILE [serve NAME]``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from prefect import flow, task

from tracklayer_prefect import tracked_flow, tracked_task


@tracked_task(stage="training")
@task
def wait() -> None:
    """Say that it runs, then wait to be ended."""
    Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    time.sleep(120)


@tracked_flow
@flow(name="waiting")
def waiting() -> None:
    """Wait."""
    wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        waiting.serve(name=sys.argv[2], print_starting_message=False)
    else:
        waiting()
