"""Whether a process lives: told beyond doubt on its own machine, and not at all elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import msgspec
import pytest

from harness.process import wait_for
from tracklayer.machine import PROCESS_TAG, Process, process_of, this_process
from tracklayer.redaction import Redaction


def mine() -> Process:
    process = process_of(this_process())
    assert process is not None
    return process


def test_this_process_lives() -> None:
    assert mine().lives is True
    assert mine().pid == os.getpid()
    assert str(os.getpid()) in str(mine())
    assert abs(mine().at - time.time_ns() // 1_000_000) < 60_000
    tag = this_process()
    assert Redaction().mask(PROCESS_TAG, tag) == tag, "it is no secret"


def test_a_child_has_a_tag_of_its_own_and_is_gone_when_it_has_ended() -> None:
    script = "from tracklayer.machine import this_process; print(this_process(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdin is not None
    process = process_of(child.stdout.readline())
    assert process is not None
    assert process.pid == child.pid
    assert process.lives
    child.kill()
    # Killed, and not reaped yet: it is dead all the same.
    wait_for(lambda: process.lives is False, 30, "end of the child")
    child.communicate()
    assert process.lives is False


def test_a_fork_is_another_process() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, this_process().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        process = process_of(pipe.read())
    os.waitpid(pid, 0)
    assert process is not None
    assert process.pid == pid != os.getpid()
    assert process.lives is False


@pytest.mark.parametrize(
    ("changes", "lives"),
    [
        ({"start": 1}, False),
        ({"start": 0}, True),
        ({"boot": "another"}, None),
        ({"host": "another"}, None),
        ({"space": 1}, None),
        ({"pid": 2**40}, True),
    ],
)
def test_a_process_id_alone_says_nothing(changes: dict[str, object], lives: bool | None) -> None:
    assert msgspec.structs.replace(mine(), **changes).lives is lives


@pytest.mark.parametrize(
    "text",
    [None, "", "nonsense", "{}", '{"host":1,"pid":1,"at":1}', '{"host":"h","pid":1,"at":1000000000000000000}', "[]"],
)
def test_what_cannot_be_read_names_no_process(text: str | None) -> None:
    assert process_of(text) is None
