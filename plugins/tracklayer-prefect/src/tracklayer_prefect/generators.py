"""Generators of user code, driven so that their run is current only while their own code runs.

Between two items the consumer's code runs, and what that logs belongs to the consumer's run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from tracklayer_prefect.scopes import Scope


def driven(scope: Scope, items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Yield what `items` yields, send and throw into it what comes, return what it returns."""
    error: BaseException | None = None
    try:
        scope.open()
        with scope.current():
            item = next(items)
        while True:
            try:
                sent = yield item
            except BaseException as thrown:  # GeneratorExit too: the user's generator is closed by it
                with scope.current():
                    item = items.throw(thrown)
            else:
                with scope.current():
                    item = items.send(sent)
    except StopIteration as end:
        return scope.returned(end.value)
    except BaseException as raised:
        error = raised
        raise
    finally:
        with scope.current():
            scope.close(error)


async def driven_async(scope: Scope, items: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, None]:
    """Yield what `items` yields; closing this one closes it."""
    error: BaseException | None = None
    try:
        await scope.open_async()
        while True:
            with scope.current():
                try:
                    item = await items.__anext__()
                except StopAsyncIteration:
                    return
            yield item
    except BaseException as raised:
        error = raised
        raise
    finally:
        with scope.current():
            await items.aclose()
            await scope.close_async(error)
