"""Rewriting a component's command, so that its executor runs below the supervisor.

KFP compiles a Python component to a shell script that ends in ``python3 -m kfp.dsl.executor_main … "$@"``. The
rewritten script runs the same line with ``-m tracklayer_kubeflow.supervise --stage S`` before that module, if the
image has our package; else the line as it was. The words ``kfp.dsl.executor_main`` stay, because KFP's local runner
looks for them. Nothing in the new command differs from run to run, so the task's cache key does not either.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

EXECUTOR: Final = "kfp.dsl.executor_main"
SUPERVISOR: Final = "tracklayer_kubeflow.supervise"

_CALL: Final = f"python3 -m {EXECUTOR}"
_GUARD: Final = 'python3 -c "import tracklayer_kubeflow" 2>/dev/null'


class NotAPythonComponent(TypeError):
    """The command does not run KFP's executor: there is nothing to supervise."""


def is_supervised(command: Sequence[object]) -> bool:
    """True if the command was rewritten by `supervised`."""
    return any(isinstance(part, str) and SUPERVISOR in part for part in command)


def supervised(command: Sequence[str], stage: str | None) -> list[str]:
    """The command with the supervisor in it.

    Args:
        command: the compiled command of a lightweight or a containerized Python component.
        stage: the stage's name; None leaves it to the plugins and the task's name.

    Raises:
        NotAPythonComponent: it does not run KFP's executor.

    >>> print(supervised(["sh", "-ec", 'python3 -m kfp.dsl.executor_main "$@"', "<source>"], "training")[2])
    if python3 -c "import tracklayer_kubeflow" 2>/dev/null; then
    python3 -m tracklayer_kubeflow.supervise --stage training -m kfp.dsl.executor_main "$@"
    else
    python3 -m kfp.dsl.executor_main "$@"
    fi
    """
    parts = list(command)
    if is_supervised(parts):
        raise NotAPythonComponent("the component is tracked already")
    if parts[:3] == ["python3", "-m", EXECUTOR]:  # a containerized component: its image holds the code
        script = _guarded(f'exec {_CALL} "$@"', stage)
        return ["sh", "-ec", script, "sh", *parts[3:]]
    for index, part in enumerate(parts):
        if _CALL in part:  # the first one: user code, which comes after the script, may hold the same words
            parts[index] = _rewritten(part, stage)
            return parts
    raise NotAPythonComponent(f"its command does not call {EXECUTOR}")


def _rewritten(script: str, stage: str | None) -> str:
    lines = script.split("\n")
    first = next(index for index, line in enumerate(lines) if _CALL in line)
    last = first
    while lines[last].endswith("\\") and last + 1 < len(lines):
        last += 1
    call = "\n".join(lines[first : last + 1])
    return "\n".join([*lines[:first], _guarded(call, stage), *lines[last + 1 :]])


def _guarded(call: str, stage: str | None) -> str:
    option = "" if stage is None else f" --stage {shlex.quote(stage)}"
    tracked = call.replace(_CALL, f"python3 -m {SUPERVISOR}{option} -m {EXECUTOR}", 1)
    return f"if {_GUARD}; then\n{tracked}\nelse\n{call}\nfi"
