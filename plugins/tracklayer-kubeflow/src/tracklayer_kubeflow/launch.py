"""Runs a module as ``python3 -m`` would, and tells the supervisor by which exception it ended.

An exit code does not say what went wrong, and reading it off stderr would put a pipe between the user's code and its
terminal or log. So the supervisor starts the executor through this module, which adds nothing but one line to a pipe
of its own when an exception leaves the module.

While the supervisor opens the stage run, this process already imports what the module needs; then it waits for the
variables by which the module's code finds that run. So tracking costs a task hardly any time.

Standard library only, and little of that: the user's code runs in this process.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

MESSAGE_LIMIT = 4_000
"""Longest exception message that is told, in characters; the pipe takes it without a reader."""


def main(arguments: list[str]) -> None:
    """Run a module in this process, as ``__main__``.

    Args:
        arguments: numbers of the file descriptors to report to and to get variables from, process id of the
            supervisor, the module's name, and the module's own arguments.
    """
    report, variables, supervisor, module = int(arguments[0]), int(arguments[1]), int(arguments[2]), arguments[3]
    for pipe in (report, variables):
        os.set_inheritable(pipe, False)
    _end_with(supervisor)
    sys.argv[1:] = arguments[4:]
    with suppress(BaseException):  # it will happen again where it belongs, when the module is run
        __import__(module.rpartition(".")[0])
    _set_variables(variables)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (None, 0)):
            _tell(report, error)
        _leave(error, module)


def _end_with(supervisor: int) -> None:
    """Have Linux kill this process if the supervisor is killed.

    Whoever kills a task's process means the task: it must not go on training where nobody sees it any more.
    """
    if sys.platform != "linux":
        return
    try:
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
        if os.getppid() != supervisor:
            os.kill(os.getpid(), signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return  # a system without it: the task then ends like any orphan


def _set_variables(pipe: int) -> None:
    """Wait for the supervisor to send variables, and set them."""
    with os.fdopen(pipe, "rb") as sent:
        text = sent.read()
    if text:
        os.environ.update(json.loads(text))


def _tell(report: int, error: BaseException) -> None:
    try:
        kind = type(error)
        message = str(error.code) if isinstance(error, SystemExit) else str(error)
        text = f"{kind.__qualname__}\n{message[:MESSAGE_LIMIT]}"
    except BaseException:  # a user's exception may fail to print itself
        text = f"{type(error).__name__}\n(its message cannot be shown)"
    try:
        os.write(report, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return


def _leave(error: BaseException, module: str) -> NoReturn:
    """Raise `error` on, with a traceback that shows what ``python3 -m`` would show."""

    def hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if value is error:
            traceback = _without_this_module(traceback, module)
            value.__traceback__ = traceback  # Python shows this one, not the argument
        sys.__excepthook__(kind, value, traceback)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = hook
    raise error


def _without_this_module(traceback: TracebackType | None, module: str) -> TracebackType | None:
    """The traceback without what stands between Python's own start and the module that was run."""
    before: list[TracebackType] = []
    while traceback is not None and traceback.tb_frame.f_globals is not globals():
        before.append(traceback)
        traceback = traceback.tb_next
    found = traceback
    while found is not None and getattr(found.tb_frame.f_globals.get("__spec__"), "name", None) != module:
        found = found.tb_next
    shown = found or traceback  # there is no frame of a module that could not be found
    for entry in reversed(before):
        shown = TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shown


if __name__ == "__main__":
    main(sys.argv[1:])
