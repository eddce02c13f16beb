"""Which process on which machine a run belongs to, and whether that process still lives.

A process that is killed cannot say so, and nobody else does where there is no orchestrator: a script's run would stay
RUNNING for good. So its runs carry a tag that names its process beyond doubt: a process id is used again, and the
same in every container, but not together with the machine's boot, the namespace and the moment of its start.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from socket import gethostname
from typing import Final

import msgspec

_LATEST: Final = 253_402_300_800_000
"""The first moment that Python has no date for, in milliseconds since the epoch."""

PROCESS_TAG: Final = "mlflow.tracklayer.process"
"""Name of the tag that holds the process, a JSON object."""


class Process(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process, as the tag holds it.

    Attributes:
        host: name of its machine.
        pid: its process id.
        at: when the tag was made, in milliseconds since the epoch.
        boot: id of the machine's boot; empty where the system has none.
        space: number of the namespace that counts process ids; 0 where the system has none.
        start: when it started, in the machine's clock ticks since its boot; 0 where that cannot be read.
    """

    host: str
    pid: int
    at: int
    boot: str = ""
    space: int = 0
    start: int = 0

    @property
    def lives(self) -> bool | None:
        """Whether it still runs; None if that cannot be told from here: it is another machine's, or container's."""
        boot, space = _place()
        if (self.host, self.boot, self.space) != (gethostname(), boot, space):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):  # not ours to signal, so it is there; or it is no process id at all
            pass
        started, zombie = _stat(self.pid)
        if zombie:
            return False
        return started == self.start if started and self.start else True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> str:
    """The tag's value for this process."""
    pid, (boot, space) = os.getpid(), _place()
    at = time.time_ns() // 1_000_000
    process = Process(host=gethostname(), pid=pid, at=at, boot=boot, space=space, start=_stat(pid)[0])
    return msgspec.json.encode(process).decode()


def process_of(text: str | None) -> Process | None:
    """The process that a tag's value names; None if there is no tag, or it cannot be read."""
    try:
        found = msgspec.json.decode(text, type=Process) if text else None
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if found is not None and 0 <= found.at < _LATEST else None


@lru_cache(maxsize=1)
def _place() -> tuple[str, int]:
    """The boot and the namespace of process ids, where the system has such (Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, Path("/proc/self/ns/pid").stat().st_ino
    except (OSError, ValueError):
        return "", 0


def _stat(pid: int) -> tuple[int, bool]:
    """When a process started (0 if that cannot be read), and whether it is dead and only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, False
    fields = text.rpartition(")")[2].split()  # what stands before may hold blanks and brackets: the program's name
    try:
        return int(fields[19]), fields[0] in {"Z", "X"}
    except (IndexError, ValueError):
        return 0, False
