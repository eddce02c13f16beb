"""How a block of user code ended, as a run's status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tracklayer.context import Status

OUTCOME_TAG: Final = "tracklayer.outcome"
"""One word for people that the status of a run does not tell."""

OF_AN_END: Final = frozenset({OUTCOME_TAG, "tracklayer.error.type", "tracklayer.error.message"})
"""Tags that tell how a try ended."""

ELSEWHERE: Final = "ends from its trigger"
"""Value of the tag ``tracklayer.outcome`` on the run of a task that no process of ours sees the end of: its code is left
for good while it waits, and its orchestrator ends it. The run is left open, until the end is told with that of the
workflow run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try ended.

    Attributes:
        status: the run's status; ``RUNNING`` leaves it open (a deferred task, a suspended flow).
        note: one word for people (``skipped``, ``deferred``); becomes the tag ``tracklayer.outcome``.
    """

    status: Status
    note: str | None = None


def of_exception(error: BaseException) -> Outcome:
    """What an exception that leaves the user's block says, where no orchestrator knows better.

    ``sys.exit()`` and ``sys.exit(0)`` are how a script says that it is done, and so is a generator that its caller
    closes; another exit code and any `Exception` are failures; what else ends a block from outside (Ctrl-C, a
    termination signal, a cancellation) is a kill.

    >>> of_exception(ValueError("no data")).status
    'FAILED'
    >>> of_exception(SystemExit(0)).status
    'FINISHED'
    >>> of_exception(KeyboardInterrupt()).status
    'KILLED'
    """
    if isinstance(error, GeneratorExit) or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return Outcome("FINISHED")
    if isinstance(error, (Exception, SystemExit)):
        return Outcome("FAILED")
    return Outcome("KILLED")
