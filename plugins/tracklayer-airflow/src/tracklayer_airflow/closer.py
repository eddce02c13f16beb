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
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("tracklayer")

BACKLOG: Final = 4 * 1024 * 1024
"""Bytes of ends that are kept while the process does not read (it waits for the tracking server)."""

LARGEST: Final = 1024 * 1024
"""Bytes that one end takes at most. What is larger has a conf, params or documentation that are data in themselves."""

LONGEST: Final = 2_000
"""Characters that are kept of each thing of an end that is larger, and number of things of one kind."""

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

    def _write(self) -> None:
        for _ in range(2):  # a process that has died is started anew, once
            if self._process is None or self._process.poll() is not None:
                self._start()
            stdin = self._process.stdin if self._process else None
            if stdin is None:
                return
            try:
                while self._backlog:
                    self._written += os.write(stdin.fileno(), self._backlog[self._written : self._written + 65_536])
                    # Only whole lines are gone: should the process die now, the next one needs this one from its beginning.
                    whole = self._backlog.rfind(b"\n", 0, self._written) + 1
                    del self._backlog[:whole]
                    self._written -= whole
            except BlockingIOError:  # the pipe is full; the rest goes with what comes next
                return
            except BrokenPipeError:
                self._drop()
            else:
                return

    def _start(self) -> None:
        self._drop()
        first, self._pid = self._pid != os.getpid(), os.getpid()
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
        if self._process is None or self._pid != os.getpid():
            return
        until = time.monotonic() + FAREWELL
        try:
            with self._lock:
                if self._backlog:
                    self._write()
                while self._backlog and self._process.stdin and (left := until - time.monotonic()) > 0:
                    select.select([], [self._process.stdin], [], left)
                    self._write()
                if self._process.stdin is not None:
                    self._process.stdin.close()
            self._process.wait(max(0.0, until - time.monotonic()))
        except (OSError, subprocess.TimeoutExpired) as error:
            log.info("tracking: parents are still being ended: %s", error)

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
