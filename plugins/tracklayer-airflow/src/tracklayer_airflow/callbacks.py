"""What is done once the state of a task is decided, before what its user wants to be called then.

Airflow tells its listeners after that. And a process whose callbacks take longer than ``[core] task_success_overtime`` is
killed before it tells anybody.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

log = logging.getLogger("tracklayer")

KINDS: Final = ("on_success_callback", "on_failure_callback", "on_retry_callback", "on_skipped_callback")


def call_first(operator: Any, announce: Callable[[Any, bool], None]) -> None:
    """Have something called before the callbacks of a task; nothing is done for an end for which it has none.

    Args:
        operator: that of the try which runs in this process.
        announce: called with what the task failed with, None if it has not, and with whether it has skipped itself.
    """
    for kind in KINDS:
        callbacks = getattr(operator, kind, None)
        # Anything else was set past Airflow's __init__, and is between its author and Airflow.
        if callbacks and isinstance(callbacks, (list, tuple)):
            setattr(operator, kind, [_Before(kind, announce), *callbacks])


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """A callback that stands before those of the user.

    The operator may be copied, with the rest of its DAG: by pickle for a process that does a part of its work, where
    nothing is to be announced.

    Attributes:
        kind: the callbacks before which it stands.
        announce: see `call_first`.
    """

    kind: str
    announce: Callable[[Any, bool], None]

    def __call__(self, context: Any) -> None:
        """Announce the end; raise nothing."""
        failed, skipped = self.kind in {"on_failure_callback", "on_retry_callback"}, self.kind == "on_skipped_callback"
        try:
            self.announce((context.get("exception") or "the task failed") if failed else None, skipped)
        except Exception:
            log.warning("tracking: the end of an observed task is told only after its callbacks", exc_info=True)

    def __copy__(self) -> Self:
        """A copy in this process is the same one, as of a function."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """See `__copy__`."""
        return self

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """In another process it is one that announces nothing."""
        return _Before, (self.kind, _to_nobody)


def _to_nobody(error: Any, skipped: bool) -> None:
    """In a process that is not the task's, nobody hears of its end."""
