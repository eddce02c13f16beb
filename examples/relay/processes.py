"""Child processes that never outlive the relay: not when it fails, is interrupted, or is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SUBREAPER = 36
"""``PR_SET_CHILD_SUBREAPER`` of Linux: orphaned grandchildren become our children, so that we can find them."""
_GRACE = 20.0
"""Seconds that a process gets to end by itself."""
_LEVELS = 4
"""So many processes may wait for one another: Airflow for the pipeline, the pipeline for a task, the task for the flow."""

# Reads which process groups there are ("+pid", "-pid") until the relay is gone, and ends those that it left: its own
# SIGKILL is the one end after which the relay cannot clean up.
_WATCHDOG = """
import os, signal, sys, time
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for number in (signal.SIGTERM, signal.SIGKILL) if groups else ():
    for group in groups:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            pass
    time.sleep(3)
"""


class Interrupted(BaseException):
    """A signal asked the relay to stop. Not an Exception, so that no fence on the way keeps it from stopping."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Failed(Exception):
    """A process did not do what it was started for; the message says which and shows the end of its log."""


class Household:
    """Everything that was started; gone when the ``with`` block is left, with whatever that started in turn.

    The first SIGINT, SIGTERM or SIGHUP raises `Interrupted` inside the block; later ones are ignored, as cleaning up
    takes a bounded time.
    """

    def __init__(self) -> None:
        self._exits = contextlib.ExitStack()
        self._watchdog: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        with contextlib.ExitStack() as exits:
            for number in _STOPPING:
                exits.callback(signal.signal, number, signal.getsignal(number))
            exits.callback(_end_descendants)
            command = [sys.executable, "-S", "-c", _WATCHDOG]
            self._watchdog = exits.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
            )
            exits.callback(_ignore_signals)
            for number in _STOPPING:
                # Started with nohup: then a closed terminal is no reason to stop.
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, _interrupt)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._exits.close()

    @contextlib.contextmanager
    def running(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        inside_out: bool = False,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run `command` while the block lasts; it and what it started are ended with the block.

        It gets a session of its own, so that Ctrl-C in the terminal reaches only the relay, which ends things in order.

        Args:
            command: program and arguments.
            env: its whole environment.
            log: file that its output is appended to.
            cwd: its working directory.
            inside_out: how it is ended. False: SIGTERM to all of it. True: SIGINT to the innermost processes, and so on
                outwards, so that whoever waits for a process sees it fail and can put things in order.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._watch(f"+{process.pid}")
            yield process
        finally:
            _end(process, inside_out=inside_out)
            self._watch(f"-{process.pid}")

    def _watch(self, line: str) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(f"{line}\n")
            self._watchdog.stdin.flush()


def tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log, indented, for a message about a failure."""
    try:
        text = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text[-lines:])


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise Interrupted(signum)


def _ignore_signals() -> None:
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _end(process: subprocess.Popen[bytes], *, inside_out: bool) -> None:
    """Ask the whole group to end; SIGKILL to what is left of it after the grace."""
    if inside_out:
        _interrupt_inside_out(process)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _interrupt_inside_out(process: subprocess.Popen[bytes]) -> None:
    """SIGINT to the processes that wait for no other; to those that then still run, level by level; each gets it once."""
    interrupted = set[psutil.Process]()
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        for _ in range(_LEVELS):
            for one in _innermost({top, *top.children(recursive=True)} - interrupted, interrupted):
                interrupted.add(one)
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_GRACE / _LEVELS)
                return


def _innermost(processes: set[psutil.Process], done: set[psutil.Process]) -> list[psutil.Process]:
    """Those of `processes` all of whose descendants are `done`."""
    found = []
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if done.issuperset(one.children(recursive=True)):
                found.append(one)
    return found


def _end_descendants() -> None:
    """End what left its group: SIGTERM to every descendant, SIGKILL to those that stay, until there is none."""
    me = psutil.Process(os.getpid())
    patience = _GRACE
    while descendants := me.children(recursive=True):
        for child in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate() if patience else child.kill()
        psutil.wait_procs(descendants, timeout=patience or 1.0)
        patience = 0.0
