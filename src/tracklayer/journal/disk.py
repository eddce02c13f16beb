"""Files as a journal wants them: for their owner only, written whole or not at all, and on the disk where that is asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def sync(descriptor: int) -> None:
    """Wait until what was written to the file is on the disk. Raises OSError."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the disk knows what is in a folder: else a new file may be gone after a loss of power. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes, how: int, *, durable: bool) -> None:
    """Write all of it, or, where it is added to a file, nothing of it.

    Args:
        path: the file; made for its owner only if it is not there.
        content: what to write.
        how: ``os.O_APPEND`` or ``os.O_TRUNC``.
        durable: wait for the disk.

    Raises:
        OSError: it could not be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how
    descriptor = os.open(path, flags, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, content) != len(content):
            os.ftruncate(descriptor, before)
            raise OSError("the disk is full")
        if durable:
            sync(descriptor)
    finally:
        os.close(descriptor)
