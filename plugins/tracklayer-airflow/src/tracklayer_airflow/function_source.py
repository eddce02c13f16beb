"""The source of tracked functions for another interpreter: without the decorators that track them.

``@tracked(task.external_python)`` is seen by its name. But whoever decorates many tasks gives it a name of their own
(``remote = tracked(task.external_python)``), which only the place where it is used knows.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

TRACKED: Final = "tracked"


@dataclass(frozen=True, slots=True)
class _Decorated:
    """How a function was decorated.

    Attributes:
        by: the decorator, and those that have made it.
        names: what they were called there, be it in a function that builds a DAG.
    """

    by: tuple[object, ...]
    names: frozenset[str]


@lru_cache(maxsize=1)
def _decorated() -> WeakKeyDictionary[Callable[..., Any], _Decorated]:
    """The functions that were decorated in this process, for as long as they are there."""
    return WeakKeyDictionary()


def remember(function: Callable[..., Any], *by: object) -> None:
    """Remember how a function is decorated; called by the decorator itself.

    Args:
        function: what is decorated.
        by: the decorator, and those that have made it.
    """
    frame = sys._getframe(2)  # noqa: SLF001  # where the decorator stands; there is no public way to it
    seen = {**frame.f_globals, **frame.f_locals}
    names = frozenset(name for name, value in seen.items() if _is_among(value, by))
    with contextlib.suppress(TypeError):  # a callable that cannot be referred to weakly has no source either
        _decorated()[function] = _Decorated(by, names)


def without_tracked(source: str, function: Callable[..., Any]) -> str:
    """Source of a function without those of its decorators that track it.

    Args:
        source: the source, beginning with its decorators.
        function: the function that was decorated.
    """
    try:
        parsed = ast.parse(source).body[0]
    except (SyntaxError, IndexError, RecursionError):
        return source
    known = _decorated().get(function, _Decorated((), frozenset()))
    found = inspect.unwrap(function)
    within: dict[str, Any] = getattr(found, "__globals__", {})
    lines = source.splitlines(keepends=True)
    for decorator in reversed(getattr(parsed, "decorator_list", [])):
        called = [decorator, *(node.func for node in ast.walk(decorator) if isinstance(node, ast.Call))]
        if any(_tracks(one, known, within) for one in called):
            del lines[decorator.lineno - 1 : decorator.end_lineno]
    return "".join(lines)


def _tracks(called: ast.expr, known: _Decorated, within: dict[str, Any]) -> bool:
    if getattr(called, "id", getattr(called, "attr", None)) == TRACKED:
        return True
    if isinstance(called, ast.Name) and called.id in known.names:
        return True
    return _is_among(_value(called, within), known.by)


def _value(named: ast.expr, within: dict[str, Any]) -> object:
    """What a name with dots stands for in a module; None if that cannot be told."""
    if isinstance(named, ast.Name):
        return within.get(named.id)
    if isinstance(named, ast.Attribute) and (above := _value(named.value, within)) is not None:
        with contextlib.suppress(Exception):  # a property of whatever that is
            return getattr(above, named.attr, None)
    return None


def _is_among(value: object, some: tuple[object, ...]) -> bool:
    return any(value is one for one in some)
