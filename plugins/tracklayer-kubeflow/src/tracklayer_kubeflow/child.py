"""The user's executor as a child process: started, signalled, waited for, and its end passed on exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

FORWARDED: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
"""Signals that are meant for the user's code, and are passed on to it."""

OUTSIDE: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL})
"""Signals by which a process is ended from outside, rather than by what it did."""

_TERMINAL: Final = frozenset({"SIGINT", "SIGQUIT"})
_REPORT_LENGTH: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the child ended.

    Attributes:
        code: its exit code; None if a signal ended it.
        signal: the number of that signal; None if none did.
        error: type of the exception that ended it; None if none did, or if it could not tell.
        message: the exception's message.
    """

    code: int | None = None
    signal: int | None = None
    error: str | None = None
    message: str = ""

    @property
    def succeeded(self) -> bool:
        """True if KFP takes the task as done."""
        return self.code == 0

    @property
    def signal_name(self) -> str | None:
        """``SIGKILL`` and the like; None if no signal ended it."""
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"signal {self.signal}"


class Forwarding:
    """Passes signals on to the child. Those that arrive before there is one reach it as soon as there is."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._pending: list[int] = []

    def install(self) -> None:
        """Take over the signals, except those that whoever started us wants ignored."""
        for name in FORWARDED:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def to(self, child: subprocess.Popen[bytes] | None) -> None:
        """The process to pass signals on to; None once it has ended."""
        self._child = child
        pending, self._pending = self._pending, []
        for number in pending if child is not None else ():
            self._send(number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._child is None:
            self._pending.append(number)
        elif signal.Signals(number).name not in _TERMINAL or not _in_foreground():  # else the terminal has told it
            self._send(number)

    def _send(self, number: int) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)


def _in_foreground() -> bool:
    """True if this process, and so the child, is what a terminal sends Ctrl-C to."""
    try:
        with Path("/dev/tty").open("rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


class Child:
    """A Python module in a child process, started; it waits for `release` before it runs.

    Args:
        arguments: the module's name and its arguments, as after ``python3 -m``.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._report, report = os.pipe()
        variables, self._variables = os.pipe()
        numbers = [str(report), str(variables), str(os.getpid())]
        try:
            for pipe in (report, variables):
                os.set_inheritable(pipe, True)
            # Whatever else the caller of this process wants inherited is: files that Python opens here are not.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tracklayer_kubeflow.launch", *numbers, *arguments], close_fds=False
            )
        finally:
            os.close(report)
            os.close(variables)

    def release(self, variables: Mapping[str, str]) -> None:
        """Let the module run, with these environment variables on top of the ones that this process has."""
        with suppress(BrokenPipeError), os.fdopen(self._variables, "wb") as pipe:  # broken: it was killed meanwhile
            pipe.write(json.dumps(dict(variables)).encode())

    def wait(self) -> Ended:
        """Wait for its end."""
        code = self.process.wait()
        error, message = _report(self._report)
        os.close(self._report)
        return Ended(code=code if code >= 0 else None, signal=-code if code < 0 else None, error=error, message=message)


def _report(reader: int) -> tuple[str | None, str]:
    """What the child told, without waiting for those that may still hold the pipe open."""
    os.set_blocking(reader, False)
    try:
        text = os.read(reader, _REPORT_LENGTH).decode("utf-8", "replace")
    except BlockingIOError:
        return None, ""
    kind, _, message = text.partition("\n")
    return kind or None, message


def leave(ended: Ended) -> NoReturn:
    """End this process as the child ended: with its exit code, or by its signal."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if ended.signal is not None:
        _without_core_dump()
        with suppress(OSError, ValueError):  # SIGKILL and SIGSTOP have no handler to set back
            signal.signal(ended.signal, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ended.signal})
        os.kill(os.getpid(), ended.signal)
    os._exit(128 + ended.signal if ended.code is None and ended.signal is not None else ended.code or 0)


def _without_core_dump() -> None:
    """The child has left one if it was to."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ImportError, OSError, ValueError):
        return
