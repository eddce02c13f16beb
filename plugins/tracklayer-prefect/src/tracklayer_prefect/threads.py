"""Blocking calls out of coroutines: in a thread, so that a slow tracking server never stops the user's event loop."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

THREADS: Final = 8
"""So many runs are opened or ended at once; MLflow's server does not take many more."""


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` returns, run in a thread with a copy of this context.

    If the caller is cancelled meanwhile, a call that has begun is waited for (core's time-outs bound it) before the
    cancellation goes on, so that nobody has to clean up after a call that is still running.
    """
    future = _executor(os.getpid()).submit(copy_context().run, call)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel():
            wait([future])
        raise


@lru_cache(maxsize=2)
def _executor(pid: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a fork has no threads of its parent's
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="tracklayer")
