"""What is done at the end of a process: of that very one, however it ends in order."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, multiprocessing, os, sys
from tracklayer.workers import at_end

def say(word):
    print(word, flush=True)

def arrange():
    at_end(lambda: say("first"), first=True)
    at_end(lambda: say("then"))

def forked():
    pid = os.fork()
    if pid == 0:
        atexit._clear()
        arrange()
        atexit._run_exitfuncs()  # as in a task of Airflow's
        os._exit(0)
    os.waitpid(pid, 0)

def forking():
    arrange()
    pid = os.fork()
    if pid == 0:
        atexit._run_exitfuncs()
        os._exit(0)
    os.waitpid(pid, 0)
    say("goes on")

if __name__ == "__main__":
    method, work = sys.argv[1:]
    if method == "none":
        globals()[work]()
    else:
        worker = multiprocessing.get_context(method).Process(target=globals()[work])
        worker.start()
        worker.join()
"""


def said(program: str, *arguments: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return ended.stdout.split("\n")[:-1]


@pytest.fixture
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("workers") / "program.py"
    path.write_text(PROGRAM)
    return str(path)


@pytest.mark.parametrize(
    ("method", "ends"),
    [
        ("none", ["then", "first"]),  # atexit's order: what was registered last
        ("fork", ["first", "then"]),
        ("forkserver", ["first", "then"]),
        ("spawn", ["first", "then", "then", "first"]),  # both ways
    ],
)
def test_it_is_called_in_whatever_process(program: str, method: str, ends: list[str]) -> None:
    assert said(program, method, "arrange") == ends


@pytest.mark.parametrize("method", ["none", "fork", "forkserver", "spawn"])
def test_it_is_called_in_what_a_worker_forks_by_itself(program: str, method: str) -> None:
    assert said(program, method, "forked") == ["then", "first"]


@pytest.mark.parametrize("method", ["none", "fork", "spawn"])
def test_it_is_not_called_in_what_is_forked_after_it(program: str, method: str) -> None:
    assert said(program, method, "forking")[0] == "goes on"
