"""Programs that tests start, each in a process group of its own that ends with the tests, however those end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

GONE = 20.0
"""Seconds after which a process that was killed is gone, however busy the machine is."""

# Runs beside the program and holds the reading end of a pipe whose other end only the tests have. When that closes,
# because they closed it or because they were killed, the whole process group goes.
_KEEPER = """
import os, signal, subprocess, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def follow():
    code = program.wait()
    os._exit(code if code >= 0 else 128 - code)
threading.Thread(target=follow, daemon=True).start()
while sys.stdin.buffer.read():
    pass
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGCONT)
os.killpg(0, signal.SIGTERM)
threading.Event().wait(2)
os.killpg(0, signal.SIGKILL)
"""


def hold_port(port: int = 0) -> socket.socket:
    """A socket that keeps a TCP port of 127.0.0.1: connections are refused there, and nobody is given it by the kernel.

    A server that sets ``SO_REUSEADDR``, as all do that listen at ports they are told, can listen at it all the same.

    Args:
        port: which one; 0 for any that is free.
    """
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))  # bound and not listening
    except BaseException:
        sock.close()
        raise
    return sock


_HELD: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free, and that nobody else gets as long as this process lives; see `hold_port`."""
    _HELD.append(hold_port())
    return int(_HELD[-1].getsockname()[1])


class Program:
    """A running program with its children, as one process group; its output goes to a file."""

    def __init__(
        self, command: Sequence[str], *, log: Path, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Start it.

        Args:
            command: program and arguments.
            log: file for its output and errors, appended to.
            environ: its whole environment; None for that of the tests.
            cwd: its working directory; None for that of the tests.
        """
        self.command = tuple(command)
        self.log = log
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", "-c", _KEEPER, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environ is None else dict(environ),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._keeper.poll() is None

    def output(self, characters: int = 3000) -> str:
        """The end of what it has written."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and its children; ``SIGSTOP`` freezes them, ``SIGCONT`` wakes them."""
        for process in self._group():
            # A frozen keeper could not end the others.
            if process.pid != self._keeper.pid or number == signal.SIGKILL:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def stop(self, patience: float = 10.0) -> None:
        """End it, politely first; returns when the whole group is gone.

        Args:
            patience: seconds that it has to end by itself before it is killed.
        """
        if self._keeper.stdin is not None:
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(patience)
        self.signal(signal.SIGKILL)
        self._keeper.wait(GONE)
        wait_for(lambda: not self._group(), GONE, "the end of a process group")

    def _group(self) -> list[psutil.Process]:
        """The processes of the group; without zombies, which stay where nobody reaps orphans and hold nothing."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getpgid(process.pid) == self._keeper.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def wait_for(condition: Callable[[], bool], seconds: float, what: str, program: Program | None = None) -> None:
    """Wait until a condition holds.

    Raises:
        RuntimeError: the program ended instead; with the end of its output.
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if program is not None and not program.running:
            raise RuntimeError(f"{program.command[0]} ended before {what}:\n{program.output()}")
        if time.monotonic() > deadline:
            told = "" if program is None else f":\n{program.output()}"
            raise TimeoutError(f"no {what} within {seconds:g} s{told}")
        time.sleep(0.05)
