"""Arguments of `tracklayer.track` of a wrong type: a message that says which, what it was, and what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import RunContext
from tracklayer.conversion import Found
from tracklayer.exceptions import ArgumentError
from tracklayer.interruption import let_through

if TYPE_CHECKING:
    from collections.abc import Iterator

_WANTED: Final[Mapping[str, tuple[Any, str]]] = {
    "stage": (str, 'text, as in stage="training"'),
    "context": (RunContext, "a tracklayer.RunContext"),
    "run_name": (str, 'text, as in run_name="first fold"'),
    "params": (Mapping, 'a mapping, as in params={"lr": 0.1}'),
    "tags": (Mapping, 'a mapping, as in tags={"team": "risk"}'),
    "experiment": (str, 'text, as in experiment="flights"'),
    "outcome": (Callable, "a function that takes an exception and returns a tracklayer.Outcome"),
}


def check(**arguments: object) -> None:
    """Check arguments by their names; None is none, and so is an empty list where a mapping is wanted.

    Raises:
        ArgumentError: some are of a wrong type.

    >>> check(run_name=7)
    Traceback (most recent call last):
    tracklayer.exceptions.ArgumentError: the stage is not tracked: run_name must be text, as in run_name="first fold", not 7 (int)
    """
    if wrong := list(_wrong(arguments)):
        raise ArgumentError(f"the stage is not tracked: {'; '.join(wrong)}")


def _wrong(arguments: Mapping[str, object]) -> Iterator[str]:
    for name, value in arguments.items():
        kind, wanted = _WANTED[name]
        empty = kind is Mapping and isinstance(value, list | tuple) and not value
        if not (value is None or empty or isinstance(value, kind)):
            yield f"{name} must be {wanted}, not {_shown(name, value)} ({type(value).__name__})"


def _shown(name: str, value: object) -> str:
    try:
        return Found(name, value, "").shown
    except Exception as error:  # a value whose own methods raise
        let_through(error)
        return "what cannot be shown"
