"""The scheduler's end of the process that ends parents.

A process and not a thread: the scheduler forks (its executor, its tasks), and a fork while a thread imports a module
or logs can leave the child waiting for a lock that nobody holds any more. Nothing here waits for that process.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections import deque
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("tracklayer")

BACKLOG: Final = 4 * 1024 * 1024
"""Bytes of ends that are kept while the process does not read (it waits for the tracking server)."""

LARGEST: Final = 1024 * 1024
"""Bytes that one end takes at most. What is larger has a conf, params or documentation that are data in themselves."""

LONGEST: Final = 2_000
"""Characters that are kept of each thing of an end that is larger, and number of things of one kind."""

GIVEN: Final = 128 * 1024
"""Bytes of ends that are kept although the process was given them: as many as may lie in the pipe and in its hands."""

GIVEN_AGAIN: Final = 600.0
"""Seconds after which an end is not given to another process: the one that had it has written it to its journal."""

SHORT: Final = 10.0
"""Seconds of a life that is so short that the next process may die of the same: it cannot import something, or has no memory."""

PAUSE: Final = 60.0
"""Longest time between two processes of which one after the other dies so soon, in seconds."""

FAREWELL: Final = 5.0
"""Seconds that the scheduler waits at its own end for the last parents to be ended."""


class Closer:
    """Starts `tracklayer_airflow.closing` when there is first something to do, and writes to it without waiting."""

    def __init__(self) -> None:
        from tracklayer.forking import ProcessLock

        self._lock = ProcessLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._backlog = bytearray()
        self._written = 0  # of the backlog's first line, which the process has not been given to its end
        # What it may not have written to its journal yet, and since when.
        self._given: deque[tuple[float, bytes]] = deque()
        self._began = 0.0
        self._short_lives = 0  # one after the other
        self._not_before = 0.0

    def submit(self, end: Mapping[str, Any]) -> None:
        """Have the parent of a DAG run ended; returns at once.

        Args:
            end: plain values, see `tracklayer_airflow.closing.close`.
        """
        line = _line(end)
        with self._lock:
            self._own()
            if len(self._backlog) + len(line) > BACKLOG:
                log.warning("tracking: too many DAG runs wait for their parents to be ended; one was left out")
                return
            self._backlog += line
            self._write()

    def begin(self) -> None:
        """Start the process, if it does not run: it looks after what is killed on this machine. Returns at once."""
        with self._lock:
            self._own()
            self._write()

    def _own(self) -> None:
        """A fork of the process that started it has to start its own."""
        if self._pid != os.getpid():
            self._drop()
            self._backlog = bytearray()
            self._given.clear()
            self._short_lives, self._not_before = 0, 0.0

    def _write(self) -> None:
        for _ in range(2):  # a process that has died is started anew, once
            if self._process is None or self._process.poll() is not None:
                self._bury()
                if time.monotonic() < self._not_before:
                    return
                self._start()
            stdin = self._stdin
            if stdin is None:
                return
            try:
                while self._backlog:
                    self._written += os.write(stdin.fileno(), self._backlog[self._written : self._written + 65_536])
                    # Only whole lines are gone: should the process die now, the next one needs this one from its beginning.
                    whole = self._backlog.rfind(b"\n", 0, self._written) + 1
                    self._keep(bytes(self._backlog[:whole]))
                    del self._backlog[:whole]
                    self._written -= whole
            except BlockingIOError:  # the pipe is full; the rest goes with what comes next
                return
            except BrokenPipeError:
                self._bury()
            else:
                return

    def _keep(self, lines: bytes) -> None:
        """Remember lines that the process was given: a pipe says that it takes them, not that anybody has read them."""
        if lines:
            self._given.append((time.monotonic(), lines))
            kept = sum(len(each) for _, each in self._given)
            while kept > GIVEN and len(self._given) > 1:
                kept -= len(self._given.popleft()[1])

    def _bury(self) -> None:
        """Forget a process that has ended; after a violent death the next one is given the last ends again.

        They are safe to repeat, and in their order the last word on each DAG run stays the last.
        """
        process = self._process
        if process is None:
            return
        self._drop()
        given = list(self._given)
        self._given.clear()
        if process.returncode == 0:  # it was stopped, and has done all that it was given
            self._short_lives = 0
            return
        now = time.monotonic()
        self._backlog[:0] = b"".join(lines for since, lines in given if now - since < GIVEN_AGAIN)
        self._short_lives = self._short_lives + 1 if now - self._began < SHORT else 0
        if self._short_lives > 1:
            # Each start takes the scheduler some of its time; what waits meanwhile goes with what comes next.
            self._not_before = now + min(PAUSE, 2.0**self._short_lives)
            log.warning(
                "tracking: the process that ends parents has died %d times, each time at once", self._short_lives
            )

    def _start(self) -> None:
        first, self._pid = self._pid != os.getpid(), os.getpid()
        self._began = time.monotonic()
        # -P: not with the working folder in front of the path, where there may be a queue.py or an mlflow.py.
        command = [sys.executable, "-P", "-m", "tracklayer_airflow.closing", *self._connection]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        if first:
            atexit.register(self._farewell)

    def _drop(self) -> None:
        """Forget a process that has ended."""
        process, self._process = self._process, None
        self._written = 0
        if process is not None:
            process.poll()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()

    def _farewell(self) -> None:
        """Let the process finish what it has; it goes on by itself if that takes too long."""
        if self._pid != os.getpid():
            return
        until = time.monotonic() + FAREWELL
        try:
            with self._lock:
                self._not_before = 0.0  # nothing comes any more that could take along what waits
                if self._backlog or (self._process is not None and self._process.poll()):
                    self._write()
                while self._backlog and (stdin := self._stdin) and (left := until - time.monotonic()) > 0:
                    select.select([], [stdin], [], left)
                    self._write()
                if stdin := self._stdin:
                    stdin.close()
                process = self._process
            if process is not None:
                process.wait(max(0.0, until - time.monotonic()))
        except (OSError, subprocess.TimeoutExpired) as error:
            log.info("tracking: parents are still being ended: %s", error)

    @property
    def _stdin(self) -> IO[bytes] | None:
        return self._process.stdin if self._process is not None else None

    @cached_property
    def _connection(self) -> list[str]:
        """The name of the connection with the MLflow server, if there is one; it is not looked up here."""
        from tracklayer_airflow.server import connection_here

        try:
            conn_id = connection_here()
        except Exception as error:
            log.warning("tracking: nobody knows which connection names the MLflow server: %s", error)
            return []
        return [conn_id] if conn_id else []


def _line(end: Mapping[str, Any]) -> bytes:
    """An end as it is written. That a DAG run has ended is told, however much else there is to tell of it."""
    line = _encoded(end)
    if line is not None and len(line) <= LARGEST:
        return line
    facts = {name: _cut(value) for name, value in end.get("facts", {}).items()}
    log.warning(
        "tracking: the conf, params or documentation of %s, %s cannot be handed on whole (they are large, or no JSON): they were cut",
        facts.get("dag_id"),
        facts.get("run_id"),
    )
    told = {**end, "facts": facts, "error": _cut(end.get("error"))}
    line = _encoded(told)
    if line is None or len(line) > LARGEST:
        told |= {
            "facts": {**facts, "params": {}, "dag_tags": []},
            "deferred": list(end.get("deferred") or ())[:LONGEST],
        }
        line = _encoded(told)
    return line or b""


def _encoded(value: Any) -> bytes | None:
    """The value as a line of JSON; None if it cannot be one (within itself, nested too deeply, with keys that are no text)."""
    try:
        return json.dumps(value, default=str).encode() + b"\n"
    except (RecursionError, ValueError, TypeError):
        return None


def _cut(value: Any) -> Any:
    """What is short of a value: the beginning of a text, of a collection those that are short. None is left of others."""
    if _is_short(value):
        return value
    if isinstance(value, str):
        return value[:LONGEST]
    if isinstance(value, dict):
        few = itertools.islice(value.items(), LONGEST)
        return {str(name)[:LONGEST]: one[:LONGEST] if isinstance(one, str) else one for name, one in few if _fits(one)}
    if isinstance(value, list | tuple):
        return [one for one in value[:LONGEST] if _is_short(one)]
    return None


def _fits(value: Any) -> bool:
    """Whether anything is left of a value within a collection."""
    return isinstance(value, str) or _is_short(value)


def _is_short(value: Any) -> bool:
    line = _encoded(value)
    return line is not None and len(line) <= LONGEST
