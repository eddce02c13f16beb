"""One object a process, whoever asks for it first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tracklayer.singleton import singleton


def test_threads_that_ask_first_at_the_same_moment_get_the_same() -> None:
    both = threading.Barrier(2, timeout=30)

    @singleton
    def runs() -> list[str]:
        both.wait()  # each of them is making one
        return []

    with ThreadPoolExecutor(2) as pool:
        one, other = (thread.result() for thread in [pool.submit(runs), pool.submit(runs)])
    assert one is other
    assert runs() is one
