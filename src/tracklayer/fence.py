"""The fence between tracking and the user's pipeline: what fails in here is logged, and raised only on request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from tracklayer.exceptions import TracklayerError
from tracklayer.interruption import is_interruption

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("tracklayer")

OnError = Literal["log", "raise"]


class fence:  # noqa: N801 - used like a function: with fence(...)
    """Keep what fails inside the block from the user's code.

    Args:
        what: what was being done, for the message (``"opening the run"``).
        on_error: ``"log"`` swallows every `Exception` after logging it as a warning (with its traceback where it is
            not one of tracklayer's own, which explain themselves); ``"raise"`` lets it through.
            ``KeyboardInterrupt`` and other ways to end the process always pass, and so does what a signal handler of the
            pipeline's has raised meanwhile: they are not tracking's to stop.
    """

    def __init__(self, what: str, on_error: OnError) -> None:
        self._what = what
        self._on_error = on_error

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or self._on_error == "raise" or is_interruption(error):
            return False
        explained = isinstance(error, TracklayerError)
        detail = str(error) if explained else f"{type(error).__name__}: {error}"
        log.warning(
            "tracking: %s failed, the pipeline goes on: %s", self._what, detail, exc_info=None if explained else error
        )
        return True
