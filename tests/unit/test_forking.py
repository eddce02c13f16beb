"""A forked child sees no module that a thread of ours was importing, and no lock that nobody lets go of."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SLOW = """
import __main__, time

__main__.over.wait(__main__.SLOWNESS)
WHOLE = True
AT = time.monotonic()
"""

PROGRAM = """
import os, sys, threading, time

import tracklayer.forking
from tracklayer.forking import importing

tracklayer.forking.PATIENCE, SLOWNESS = map(float, sys.argv[1:3])

def load():
    with importing():
        begun.set()
        import slow_to_import

begun, over = threading.Event(), threading.Event()
thread = threading.Thread(target=load)
thread.start()
begun.wait()
time.sleep(0.1)
before = time.monotonic()
child = os.fork()
if child == 0:
    if len(sys.argv) > 3:
        os._exit(0)
    with importing():
        import slow_to_import
    os._exit(0 if hasattr(slow_to_import, "WHOLE") else 3)
forked = time.monotonic()
over.set()
thread.join()
with importing():
    pass
import slow_to_import
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), forked - before, forked - slow_to_import.AT)
"""


LOCKS = """
import gc, os, threading, weakref
from tracklayer.forking import ProcessLock, tell_of_forks

class Told:
    def forked(self):
        told.append(os.getpid())

def hold(lock):
    with lock:
        held.set()
        over.wait()

held, over, told = threading.Event(), threading.Event(), []
mine, others, item = ProcessLock(), ProcessLock(), Told()
tell_of_forks(item)
gone = weakref.ref(ProcessLock())
gc.collect()
assert gone() is None  # nothing is kept alive
thread = threading.Thread(target=hold, args=(others,))
thread.start()
held.wait()
with mine, mine:
    child = os.fork()
    if child == 0:
        assert told == [os.getpid()]
        with others:  # which nobody holds here
            pass
        taken = threading.Thread(target=hold, args=(mine,), daemon=True)
        held.clear()
        taken.start()
        assert not held.wait(0.2)  # what the thread that forked holds, it holds still
if child == 0:
    assert held.wait(10)  # and lets go of
    os._exit(0)
assert told == []
held.clear()
again = threading.Thread(target=hold, args=(others,))
again.start()
assert not held.wait(0.2)  # in the parent it is held as before
over.set()
thread.join()
again.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "slow_to_import.py").write_text(SLOW)
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def _run(program: Path, *arguments: str) -> list[float]:
    command = [sys.executable, str(program), *arguments]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ)).stdout
    return [float(one) for one in told.split()]


def test_a_fork_waits_for_what_a_thread_imports(program: Path) -> None:
    status, _, after_the_import = _run(program, "60", "0.5")
    assert status == 0
    assert after_the_import >= 0


def test_a_fork_does_not_wait_for_ever(program: Path) -> None:
    _, waited, after_the_import = _run(
        program, "0.1", "30", "without importing in the child, which would wait for ever"
    )
    assert 0.09 < waited < 20
    assert after_the_import < 0


def test_a_child_finds_a_lock_free_that_another_thread_of_its_parent_holds(program: Path) -> None:
    program.write_text(LOCKS)
    assert _run(program) == [0]
