"""The recorders of this process: one for each tracking back end, closed when the process ends."""

from __future__ import annotations

import os
import threading
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING

from tracklayer.journal.recorder import Recorder
from tracklayer.singleton import singleton
from tracklayer.workers import at_end

if TYPE_CHECKING:
    from tracklayer.backend import Backend
    from tracklayer.settings import Settings


def recorder_of(backend: Backend, settings: Settings) -> Recorder:
    """This process's recorder for a tracking back end, made when it is first asked for.

    Args:
        backend: the tracking back end.
        settings: those with which it is made; whoever asks first decides.
    """
    key = (os.getpid(), backend.store.uri)
    recorder = _recorders().get(key)
    if recorder is None:
        with _making(os.getpid()):
            recorder = _recorders().get(key)
            if recorder is None:
                made = Recorder(backend, settings)
                recorder = _recorders().setdefault(key, made)
                if recorder is made:
                    _close_in_the_end(recorder)
                else:  # a signal handler that logs came in the middle of it, and goes on with its own
                    made.discard()
    return recorder


def close_recorders(*, carry: str | None = None) -> None:
    """Close the recorders of this process, as its end does. The next one that is asked for is new.

    Args:
        carry: the folder to which what is left is taken; None is where the settings say.
    """
    pid = os.getpid()
    for key in [key for key in _recorders() if key[0] == pid]:
        recorder = _recorders().pop(key, None)
        if recorder is not None:
            recorder.close(carry=carry)


@singleton
def _recorders() -> dict[tuple[int, str], Recorder]:
    """The recorders by process and tracking URI: a forked process finds those of its parent, and uses none of them."""
    return {}


@lru_cache(maxsize=4)
def _making(pid: int) -> threading.RLock:
    """Held while a recorder is made; of each process its own, so that a fork finds none locked."""
    del pid
    return threading.RLock()


def _close_in_the_end(recorder: Recorder) -> None:
    reference, pid = weakref.ref(recorder), os.getpid()

    def close() -> None:
        found = reference()
        if found is not None:
            _recorders().pop((pid, found.backend.store.uri), None)
            found.close()

    at_end(close)
