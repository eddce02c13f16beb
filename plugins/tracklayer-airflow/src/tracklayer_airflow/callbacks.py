"""What is done once the state of a task is decided, before what its user wants to be called then.

Airflow tells its listeners after that. And a process whose callbacks take longer than ``[core] task_success_overtime`` is
killed before it tells anybody.

A callback of ours among the user's would be seen by code that looks at its own, or calls them by itself. So their list
stays what it is, but for who goes through it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("tracklayer")

KINDS: Final = {
    "on_success_callback": "success",
    "on_failure_callback": "failed",
    "on_retry_callback": "up_for_retry",
    "on_skipped_callback": "skipped",
}
"""The lists of callbacks of an operator, by the state in which Airflow calls them: the task instance has it by then."""


def call_first(ti: Any, announce: Callable[[Any, bool], None]) -> None:
    """Have something called before the callbacks of a task; nothing is done for an end for which it has none.

    Args:
        ti: the task instance that runs in this process.
        announce: called with what the task failed with, None if it has not, and with whether it has skipped itself. Once:
            when Airflow has decided that, and goes through the callbacks to call them.
    """
    for kind in KINDS:
        callbacks = getattr(ti.task, kind, None)
        # Anything else was set past Airflow's __init__, and is between its author and Airflow.
        likeness = _LIKENESSES.get(type(callbacks))
        if callbacks and likeness is not None:
            made = likeness(callbacks)
            made.before = _Announcement(ti, kind, announce)
            setattr(ti.task, kind, made)


class _Announcement:
    """Announces the end of a task once; raises nothing."""

    def __init__(self, ti: Any, kind: str, announce: Callable[[Any, bool], None]) -> None:
        self._ti = ti
        self._kind = kind
        self._announce = announce
        self._over = False

    def __call__(self) -> None:
        # Code of the task's may look at them, or call them by itself.
        if self._over or self._ti.state != KINDS[self._kind]:
            return
        self._over = True
        failed = self._kind in {"on_failure_callback", "on_retry_callback"}
        try:
            error = (self._ti.get_template_context().get("exception") or "the task failed") if failed else None
            self._announce(error, self._kind == "on_skipped_callback")
        except Exception:
            log.warning("tracking: the end of an observed task is told only after its callbacks", exc_info=True)


class _Announcing:
    """What a list and a tuple of callbacks have in common that announce the end of the task when Airflow goes through them.

    A copy, and what comes of it in another process, is an ordinary one: nothing is to be announced there.
    """

    before: _Announcement | None = None

    def __iter__(self) -> Iterator[Any]:
        if self.before is not None:
            self.before()
        return super().__iter__()  # type: ignore[misc,no-any-return]  # of the list, or tuple, that it is mixed into

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        plain = list if isinstance(self, list) else tuple
        return plain, (self[:],)  # type: ignore[index]  # as above


class _List(_Announcing, list[Any]):
    """A list of callbacks."""


class _Tuple(_Announcing, tuple[Any, ...]):  # noqa: SLOT001  # it has an attribute
    """A tuple of callbacks."""


_LIKENESSES: Final[dict[type, type[Any]]] = {list: _List, tuple: _Tuple}
