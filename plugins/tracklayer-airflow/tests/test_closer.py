"""The scheduler's end of the process that ends parents: what it does when that process dies, of whatever."""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from dag_run_ends import end_of

from tracklayer_airflow import closer as closer_module
from tracklayer_airflow.closer import Closer

if TYPE_CHECKING:
    from collections.abc import Iterator

READS = "import sys, time; sys.stdin.readline() and time.sleep(60)"
DIES = "raise SystemExit('no module')"


class Started:
    """Processes that are started in place of the real one."""

    def __init__(self, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.code = code
        self.all: list[subprocess.Popen[bytes]] = []
        self._popen = subprocess.Popen
        monkeypatch.setattr(subprocess, "Popen", self)

    def __call__(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        self.all.append(self._popen([sys.executable, "-c", self.code], stderr=subprocess.DEVNULL, **options))
        return self.all[-1]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Processes that read one line each, and then no more."""
    started = Started(READS, monkeypatch)
    yield started
    for process in started.all:
        process.kill()
        process.wait(10)
        if process.stdin is not None:
            process.stdin.close()


@pytest.fixture
def closer(started: Started) -> Iterator[Closer]:
    """One that has nothing to do any more when the test has ended."""
    closer = Closer()
    yield closer
    atexit.unregister(closer._farewell)


def waiting(closer: Closer) -> list[str]:
    """The DAG runs whose ends the process has not been given yet."""
    return [json.loads(line)["facts"]["run_id"] for line in bytes(closer._backlog).splitlines()]


def given(closer: Closer) -> list[str]:
    """The DAG runs whose ends would be given again."""
    return [json.loads(line)["facts"]["run_id"] for _, lines in closer._given for line in lines.splitlines()]


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    process.wait(10)


def test_what_one_that_was_killed_had_is_given_again_in_its_order(closer: Closer, started: Started) -> None:
    for run_id in ("first", "second"):
        closer.submit(end_of(run_id))
    assert waiting(closer) == []
    end(started.all[0], signal.SIGKILL)
    closer.submit(end_of("third"))
    assert len(started.all) == 2
    assert given(closer) == ["first", "second", "third"]
    assert waiting(closer) == []


def test_what_is_kept_is_little_and_of_late(closer: Closer, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closer_module, "GIVEN", 1_000)
    for number in range(20):  # of some 300 bytes each
        closer.submit(end_of(f"{number}"))
    assert given(closer)[-1] == "19"
    assert len(given(closer)) < 5
    monkeypatch.setattr(closer_module, "GIVEN_AGAIN", 0.0)
    end(started.all[0], signal.SIGKILL)
    closer.begin()
    assert given(closer) == []


def test_one_that_was_stopped_has_done_what_it_was_given(closer: Closer, started: Started) -> None:
    started.code = "import sys; sys.stdin.readline()"
    closer.submit(end_of("done"))
    assert started.all[0].wait(10) == 0
    closer.submit(end_of("next"))
    assert given(closer) == ["next"]


def test_those_that_die_at_once_are_not_started_again_and_again(
    closer: Closer, started: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started.code = DIES
    for number in range(20):
        closer.submit(end_of(f"{number}"))
        started.all[-1].wait(10)
    assert len(started.all) == 2
    assert "has died 2 times, each time at once" in caplog.text
    assert waiting(closer) == [f"{number}" for number in range(20)], "it is kept meanwhile"
    started.code = READS
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + closer_module.PAUSE)
    closer.begin()
    assert len(started.all) == 3
    assert waiting(closer) == []
    assert len(given(closer)) == 20


def test_at_the_end_the_last_process_is_given_what_one_that_was_killed_had(closer: Closer, started: Started) -> None:
    closer.submit(end_of("last"))
    end(started.all[0], signal.SIGKILL)
    started.code = "import sys; sys.stdin.read()"
    closer._farewell()
    assert [process.poll() for process in started.all] == [-signal.SIGKILL, 0]
