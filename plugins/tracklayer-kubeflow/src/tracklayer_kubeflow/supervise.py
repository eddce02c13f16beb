"""``python3 -m tracklayer_kubeflow.supervise [--stage S] -m MODULE …``: run a module, and track it as one stage run.

The process that KFP starts for a tracked component. The component's own code runs in a child of it, so whatever
happens to that (an exception, ``sys.exit``, ``os._exit``, a kill for lack of memory, a return value that KFP refuses)
is seen here, and passed on: exit code or signal are the child's. Tracking is behind a fence: if it cannot work at
all, the module runs as it would have run without.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from tracklayer_kubeflow.child import Child, Forwarding, leave

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracklayer_kubeflow.supervision import Supervision

log = logging.getLogger("tracklayer")

USAGE = "usage: python3 -m tracklayer_kubeflow.supervise [--stage STAGE] -m MODULE [ARGUMENT ...]"


def main(arguments: Sequence[str]) -> None:
    """Supervise; ends this process.

    Args:
        arguments: the command line without the program.
    """
    stage, module = parse(arguments)
    forwarding = Forwarding()
    forwarding.install()
    child = Child(module)
    forwarding.to(child.process)
    supervision = _opened(stage, module)
    child.release(_variables(supervision))
    ended = child.wait()
    forwarding.to(None)
    if supervision is not None:
        try:
            supervision.close(ended)
        except Exception as error:
            log.warning("tracking: ending the stage run failed: %s: %s", type(error).__name__, error)
    leave(ended)


def parse(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The stage, and the module with its arguments.

    Raises:
        SystemExit: the arguments are not as `USAGE` says.
    """
    rest = list(arguments)
    stage = None
    if rest[:1] == ["--stage"] and len(rest) > 1:
        stage, rest = rest[1], rest[2:]
    if rest[:1] != ["-m"] or len(rest) < 2:
        raise SystemExit(USAGE)
    return stage, rest[1:]


def _opened(stage: str | None, module: Sequence[str]) -> Supervision | None:
    """The stage run, opened; None if it cannot be."""
    try:
        from tracklayer_kubeflow.supervision import Supervision

        return Supervision(stage, module)
    except Exception as error:
        log.warning("tracking: this task runs untracked: %s: %s", type(error).__name__, error)
        return None


def _variables(supervision: Supervision | None) -> dict[str, str]:
    """What is added to the executor's environment; its code has a current run also if there is none to log to."""
    try:
        found = {} if supervision is None else supervision.variables()
    except Exception as error:
        log.warning("tracking: this task's code is not attached to its run: %s: %s", type(error).__name__, error)
        found = {}
    return {"TRACKLAYER_ATTACH": "untracked", **found}


if __name__ == "__main__":
    main(sys.argv[1:])
