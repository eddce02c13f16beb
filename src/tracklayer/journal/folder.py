"""Where journals are, whose they are, and which were left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracklayer.journal.files import FOLDER as FILES
from tracklayer.journal.lock import Lock
from tracklayer.journal.record import HEAD, head
from tracklayer.journal.refusals import ARTIFACT, refusals
from tracklayer.journal.segments import FileSegment, header_of, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracklayer.journal.inspection import JournalInfo
    from tracklayer.journal.operations import Header
    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")

FORMAT: Final = 1
"""Version of the journal's format that this version writes, and the latest that it reads."""

OFF: Final = "off"
"""In place of a folder: nothing is written to any disk."""

AS_WHOM: Final = "let this user read it, or run this as the user whose journals are there"
"""What to do about a folder that cannot be read, in words."""

_MAKING: Final = ".new-"
_REMOVING: Final = ".gone-"

_SETTLED: Final = "settled"
"""Name of an empty file in a journal of which only the refused values are kept."""

_NAME: Final = re.compile(r"\d{8}T\d{6}Z-[A-Za-z0-9-]+-\d+-[0-9a-f]{8}")

_SCARCE: Final = 32 * 1024 * 1024
"""Bytes from which on a disk is taken to be full: two segments of a journal."""

_FORGOTTEN: Final = 3600.0
"""Seconds after which a folder that was being made or removed by a process that died is removed."""


class JournalFolder:
    """The folder in which the journals of one user on one machine are.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, settings: Settings) -> JournalFolder | None:
        """Where the settings say, else where such data belongs, else below the folder for temporary files.

        Returns:
            None if nothing is to be written to disk, or there is no folder to which it could be.
        """
        if settings.journal == OFF:
            return None
        wanted = _wanted(settings)
        if wanted is not None and _make(wanted):
            return cls(wanted)
        temporary = _temporary()
        if _is_private(temporary.parent, make=True) and _make(temporary):
            if settings.journal:
                log.warning("the journal folder %s cannot be written: %s is used", wanted, temporary)
            return cls(temporary)
        log.warning("there is no folder for the journal: neither %s nor %s can be written", wanted, temporary)
        return None

    @classmethod
    def every(cls, settings: Settings) -> list[JournalFolder]:
        """All folders in which a process with these settings may have left a journal, as far as they exist."""
        found = [] if settings.journal == OFF or (wanted := _wanted(settings)) is None else [wanted]
        if _is_private(_temporary().parent, make=False):
            found.append(_temporary())
        return [cls(path) for path in dict.fromkeys(found) if is_folder(path)]

    def make(self, header: Header, fill: Callable[[Path], None]) -> tuple[Path, Lock]:
        """A new journal's folder and its lock.

        Nobody sees it before it is locked and filled: a process that looks for what was left behind would take it.

        Args:
            header: what it is for.
            fill: puts the first segment into the folder.

        Raises:
            OSError: it cannot be made; nothing is left of it.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = name_for(header)
        making, made = self.path / f"{_MAKING}{name}", self.path / name
        making.mkdir(mode=0o700)
        held = None
        try:
            held = Lock.of_new(making)
            fill(making)
            making.rename(made)
        except BaseException:
            if held is not None:
                held.release()
            _remove(making)
            raise
        return made, held

    def paths(self) -> list[Path]:
        """The folders of this user's journals, the oldest first. Other folders, other users' ones, and links are passed over."""
        return sorted(path for path in self._folders() if _NAME.fullmatch(path.name))

    def others(self) -> int:
        """How many journals here are other users'."""
        me, count = _user(), 0
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):
                        count += entry.stat(follow_symlinks=False).st_uid != me
        return count

    def left(self, *tracking_uris: str | None) -> list[Path]:
        """Journals whose process has ended without removing them, the oldest first.

        What was delivered to its end, and is kept only because the server refused some of it, is not among them.

        Args:
            tracking_uris: only those for these servers, as `Header.tracking_uri` says it; none, or None, for all of them.
        """
        self._sweep()
        return [path for path in self.paths() if _is_left(path, tracking_uris or (None,))]

    @property
    def trouble(self) -> str | None:
        """Why nobody can say which journals are here; None if all of them can be listed."""
        try:
            next(self.path.iterdir(), None)
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror or error}"
        return None

    def unreadable(self) -> list[Path]:
        """Journals whose process has ended and that nobody can deliver: they do not say whose they are, or a later version wrote them."""
        return [path for path in self.paths() if _is_unreadable(path)]

    def journals(self) -> list[JournalInfo]:
        """What is known about each journal, the oldest first. Reads all of them."""
        from tracklayer.journal.inspection import inspect

        return [info for path in self.paths() if (info := inspect(path)) is not None]

    def _folders(self) -> Iterator[Path]:
        me = _user()
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == me:
                        yield Path(entry.path)

    def _sweep(self) -> None:
        """Remove what a process left that died while it made or removed a journal."""
        for path in self._folders():
            if path.name.startswith((_MAKING, _REMOVING)):
                with contextlib.suppress(OSError):
                    old = time.time() - path.stat(follow_symlinks=False).st_mtime > _FORGOTTEN
                    if old and not Lock.is_held(path):
                        _remove(path)


def name_for(header: Header) -> str:
    """A name for a new journal, which no other one has."""
    return f"{_stamp(header.started_at)}-{_word(header.host)}-{header.pid}-{os.urandom(4).hex()}"


def discard(path: Path, *, keep_refused: bool, first: bytes = b"") -> None:
    """Remove a journal that is delivered. Never raises: what cannot be removed is there to be looked at.

    Args:
        path: its folder; whoever calls holds the lock.
        keep_refused: leave what the server refused, with as much as it takes to say whose it is.
        first: the frame that says that, where no segment may be left: what was written last may have been in memory.
    """
    try:
        if keep_refused:
            _shrink(path, first)
            return
        removing = path.with_name(_REMOVING + path.name)
        path.rename(removing)
        _remove(removing)
    except OSError as error:
        log.warning("the journal in %s is delivered and cannot be removed: %s", path, error)


def _shrink(path: Path, first: bytes) -> None:
    kept = {refusal.value for refusal in refusals(path) if refusal.kind == ARTIFACT}
    for copy in path.glob(f"{FILES}/*"):
        if copy.name not in kept:
            copy.unlink(missing_ok=True)
    if not kept:
        _remove(path / FILES)
    segments = load(path)
    for segment in segments[:-1]:
        segment.remove()
    (path / _SETTLED).touch(0o600)  # before the rest, for which the disk may have no room
    for last in segments[-1:]:
        os.truncate(last.path, head(last.read(last.start, HEAD)))
    if first and not segments:
        FileSegment.create(path, 0, first).close()


def _remove(path: Path) -> None:
    """Remove a folder with all that is in it, as far as that can be done. Links are removed, not followed."""
    with contextlib.suppress(OSError):
        for entry in list(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                _remove(entry)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()
        path.rmdir()


def _is_left(path: Path, tracking_uris: tuple[str | None, ...]) -> bool:
    """Also one of which all is delivered: its process did not come to removing it, nor perhaps to ending its runs."""
    try:
        if Lock.is_held(path) or is_settled(path):
            return False
        header = header_of(load(path))
    except OSError:  # it is gone by now, or not ours
        return False
    if header is None or header.format > FORMAT:
        return False
    return None in tracking_uris or header.tracking_uri in tracking_uris


def is_folder(path: Path) -> bool:
    """Also one that cannot be looked at: whoever asks for it is to be told."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def _is_unreadable(path: Path) -> bool:
    header = None
    with contextlib.suppress(OSError):
        if Lock.is_held(path) or is_settled(path):
            return False
        header = header_of(load(path))
    if header is not None:
        return header.format > FORMAT
    return path.exists() and not Lock.is_held(path)  # else somebody delivers it, or has done so, at this moment


def is_settled(path: Path) -> bool:
    """Whether nothing is left to be done about a journal: it is there only for what the server refused."""
    return (path / _SETTLED).exists()


def missing(settings: Settings) -> Path | None:
    """The folder that the settings name, if nobody has made it yet; None also where they name none, or `misplaced`."""
    wanted = _wanted(settings) if settings.journal and settings.journal != OFF else None
    return None if wanted is None or is_folder(wanted) or misplaced(settings) else wanted


def misplaced(settings: Settings) -> str | None:
    """Why no journal can be found, or can ever have been written, where the settings say; None if one can."""
    wanted = None if settings.journal == OFF else _wanted(settings)
    if wanted is None:
        return None
    if _is_adrift(settings):
        return no_folder(wanted)
    there = _nearest(wanted)
    return None if is_folder(there) else f"{there} is no folder"


def _is_adrift(settings: Settings) -> bool:
    """Whether the folder is named from a working directory that was removed: nobody knows what is in it."""
    wanted = None if settings.journal == OFF else _wanted(settings)
    return wanted is not None and not wanted.is_absolute()


def no_folder(path: Path) -> str:
    """That there is no such folder, in words."""
    told = f"there is no folder {path}"
    return told if path.is_absolute() else f"{told}: the working directory was removed, so give an absolute path"


def absolute(path: Path) -> Path:
    """The path from the root on; as it is, if it is relative and the working directory was removed."""
    try:
        return path.absolute()
    except FileNotFoundError:
        return path


def obstacle(settings: Settings) -> str | None:
    """Why no journal can be written where the settings say; None if one can, as far as that shows without writing."""
    wanted = None if settings.journal == OFF else _wanted(settings)
    if wanted is None:
        return None
    if why := misplaced(settings):
        return why
    there = _nearest(wanted)
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to"
    found = os.statvfs(there)
    if found.f_blocks and found.f_bavail * found.f_frsize < _SCARCE:
        return f"the disk of {there} is full, or nearly so: {found.f_bavail * found.f_frsize // 1_000_000} MB are left"
    return None


def _nearest(path: Path) -> Path:
    """The path itself, or what is there of it."""
    return next(part for part in (path, *path.parents) if part == part.parent or os.access(part, os.F_OK))


def _wanted(settings: Settings) -> Path | None:
    """The folder that the settings name, else the usual one."""
    return absolute(Path(settings.journal).expanduser()) if settings.journal else _usual()


def _temporary() -> Path:
    """The folder for whoever has no other, in one of the user's own."""
    import tempfile

    return Path(tempfile.gettempdir(), f"tracklayer-{_user()}", "journal")


def _usual() -> Path | None:
    """Where programs keep data like this on this machine; None for a user without a home."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if Path(state).is_absolute():
        return Path(state, "tracklayer", "journal")
    try:
        return Path.home() / ".local" / "state" / "tracklayer" / "journal"
    except RuntimeError:
        return None


def _make(path: Path) -> bool:
    """Whether it is a folder to which this user may write; made if it was not there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)


def _is_private(path: Path, *, make: bool) -> bool:
    """Whether a folder, where everybody may make some, is ours alone, and no link to elsewhere."""
    try:
        if make:
            path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == _user() and not found.st_mode & 0o077


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _stamp(milliseconds: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(milliseconds / 1000))


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40] or "host"
