"""The function that a tracked flow or task runs in place of the user's.

Prefect looks closely at that function, and each rule here comes from something that broke:

- It is of the same kind as the user's (sync, async, generator, async generator): Prefect chooses its engine by that.
- Its globals are those of the user's function: pydantic resolves postponed annotations of flow parameters in them.
- It carries the user's function as ``__wrapped__`` (signature, source) and as ``__prefect_task_source__`` (newer
  Prefect derives the task's key from that).
- It is pickled by value into process, Dask and Ray workers: everything it needs at run time is imported inside, it
  names no global, and its closure holds the user's function and plain values only.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from tracklayer_prefect.declaration import Tracked

MARK = "__tracklayer__"
"""Attribute of the wrapping function that holds the declaration."""


def wrap(fn: Callable[..., Any], how: Tracked, *, is_async: bool, is_generator: bool) -> Callable[..., Any]:
    """A function that runs `fn` as a tracked one, of the same kind.

    Args:
        fn: the user's function.
        how: what was declared about it.
        is_async: as Prefect sees it.
        is_generator: as Prefect sees it.
    """
    make = {
        (False, False): _sync,
        (True, False): _async,
        (False, True): _generator,
        (True, True): _async_generator,
    }[is_async, is_generator]
    made = make(fn, how)
    its_globals = getattr(inspect.unwrap(fn), "__globals__", None)
    if isinstance(its_globals, dict) and isinstance(made, types.FunctionType):
        made = types.FunctionType(made.__code__, its_globals, made.__name__, made.__defaults__, made.__closure__)
    functools.update_wrapper(made, fn)
    setattr(made, MARK, how)
    made.__prefect_task_source__ = fn  # type: ignore[attr-defined]
    return made


def mark_of(fn: object) -> Tracked | None:
    """The declaration on a wrapping function; None for any other."""
    return getattr(fn, MARK, None)


def _sync(fn: Callable[..., Any], how: Tracked) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        from tracklayer_prefect.scopes import scope

        with scope(how) as opened:
            return opened.returned(fn(*args, **kwargs))

    return run


def _async(fn: Callable[..., Any], how: Tracked) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        from tracklayer_prefect.scopes import scope

        async with scope(how) as opened:
            return opened.returned(await fn(*args, **kwargs))

    return run


def _generator(fn: Callable[..., Any], how: Tracked) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        from tracklayer_prefect.generators import driven
        from tracklayer_prefect.scopes import scope

        return (yield from driven(scope(how), fn(*args, **kwargs)))

    return run


def _async_generator(fn: Callable[..., Any], how: Tracked) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        from contextlib import aclosing

        from tracklayer_prefect.generators import driven_async
        from tracklayer_prefect.scopes import scope

        async with aclosing(driven_async(scope(how), fn(*args, **kwargs))) as items:
            async for item in items:
                yield item

    return run
