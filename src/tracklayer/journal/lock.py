"""Whose a journal is: held by the one process that writes or delivers it, and free as soon as that has ended.

The system's own file lock (``flock``) is let go by the system itself, however a process ends. Some network folders
have none; there a process claims the journal by a file with its name, and whoever comes later looks whether that
process still lives, which it can tell on its own machine only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from functools import lru_cache
from pathlib import Path
from typing import Final

from tracklayer.jitter import spread
from tracklayer.json_text import decoded

log = logging.getLogger("tracklayer")

NAME: Final = "lock"

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})

_SETTLED: Final = 60.0
"""Seconds after which a claim without a name is nobody's: whoever made it died before it could write its name."""

_LOOKS: Final = 1.0
"""Seconds after which it is not tried again to take what others look at all the time."""


class Lock:
    """A journal's lock, held. `take` makes it."""

    def __init__(self, descriptor: int, claim: Path | None = None) -> None:
        self._descriptor: int | None = descriptor
        self._claim = claim

    @classmethod
    def take(cls, folder: Path) -> Lock | None:
        """The lock of the journal in `folder`; None if another process holds it, or the journal is gone by now.

        Raises:
            OSError: the folder is not there, or not ours to write to.
        """
        path = folder / NAME
        descriptor = os.open(path, _FLAGS, 0o600)
        held = None
        try:
            answer = _exclusively(descriptor)
            if answer is None:
                _warn(folder.parent)
                claim = _claim(folder)
                held = None if claim is None else cls(descriptor, claim)
            elif answer and _same(descriptor, path):
                held = cls(descriptor)
                _sign(descriptor)
        finally:
            if held is None:
                os.close(descriptor)
        return held

    @classmethod
    def of_new(cls, folder: Path) -> Lock:
        """The lock of a journal that nobody else knows of yet. Raises OSError."""
        held = cls.take(folder)
        if held is None:
            raise BlockingIOError(errno.EWOULDBLOCK, "the new journal is locked by another process", str(folder))
        return held

    @classmethod
    def is_held(cls, folder: Path) -> bool:
        """Whether some process holds it."""
        try:
            descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            answer = _flock(descriptor, shared=True)
            return _is_claimed(folder) if answer is None else not answer
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Let it go."""
        if self._claim is not None:
            with contextlib.suppress(OSError):
                self._claim.unlink()
        self.forget()

    def forget(self) -> None:
        """In a forked child: close what is the parent's, who goes on holding it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _exclusively(descriptor: int) -> bool | None:
    """As `_flock`. Whoever only looks has a share of it for a moment: that is no holder, and is waited for."""
    until = time.monotonic() + _LOOKS
    while True:
        answer = _flock(descriptor)
        if answer is not False or not _flock(descriptor, shared=True) or time.monotonic() > until:
            return answer
        # A share was to be had, so nobody holds it. Ours goes: of two who take it at once, neither keeps the other off.
        _unlock(descriptor)
        time.sleep(0.001 * spread(0.0, 2.0))  # so that those two do not go on in step


def _unlock(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _flock(descriptor: int, *, shared: bool = False) -> bool | None:
    """True: it is ours now (or, shared: nobody's). False: somebody else's. None: there are no locks here."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise
    return True


def _same(descriptor: int, path: Path) -> bool:
    """Whether the file that is locked is still the journal's: another process may have removed it meanwhile."""
    try:
        there = path.stat(follow_symlinks=False)
    except OSError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _sign(descriptor: int) -> None:
    """Write down who holds it, for people; a full disk is no reason to go without the lock."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _name(), 0)


def _name() -> bytes:
    pid = os.getpid()
    return json.dumps({"host": socket.gethostname(), "pid": pid, "since": _since(pid)}).encode()


def _since(pid: int) -> str:
    """When the process began, as the system counts; empty where it does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _claims(folder: Path) -> list[int]:
    numbers = (path.name.removeprefix(f"{NAME}.") for path in folder.glob(f"{NAME}.*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def _claim(folder: Path) -> Path | None:
    """Claim the journal if the last one who did is gone. Of several who try at once one succeeds."""
    claims = _claims(folder)
    if claims and _lives(folder / f"{NAME}.{claims[-1]}"):
        return None
    mine = folder / f"{NAME}.{(claims[-1] if claims else 0) + 1}"
    try:
        descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return None
    try:
        os.write(descriptor, _name())
    finally:
        os.close(descriptor)
    return mine


def _is_claimed(folder: Path) -> bool:
    claims = _claims(folder)
    return bool(claims) and _lives(folder / f"{NAME}.{claims[-1]}")


def _lives(claim: Path) -> bool:
    """Whether the process that made a claim may still be there; of another machine's processes we cannot know."""
    try:
        text = claim.read_text()
        if not text:
            return time.time() - claim.stat().st_mtime < _SETTLED
        owner = decoded(text)
        host, pid, since = owner["host"], int(owner["pid"]), str(owner["since"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return True
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return _since(pid) == since


@lru_cache(maxsize=16)
def _warn(folder: Path) -> None:
    """Say once a folder that it has no locks."""
    log.warning(
        "the file system of the journal folder %s has no locks: journals that a process on another machine left there "
        "are not delivered from here; set TRACKLAYER_JOURNAL to a folder on a local disk",
        folder,
    )
