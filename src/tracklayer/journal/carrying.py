"""A journal leaves a machine whose disk goes away: packed, to a folder of any file system that fsspec knows.

Folders of this machine (``file:///…`` or a path) need no fsspec. What is packed is meant for whoever may read that
folder: it holds what was logged, and no credentials. What is unpacked came from outside: only files that a journal
consists of are taken out, and it is delivered to no other server than the one that the reader's own settings name.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from tracklayer.exceptions import StoreError
from tracklayer.journal.claim import Claimed, claimed, free
from tracklayer.journal.files import FOLDER as FILES
from tracklayer.journal.folder import absolute, is_folder
from tracklayer.journal.refusals import NAME as REFUSED
from tracklayer.store.endpoint import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

log = logging.getLogger("tracklayer")

SUFFIX: Final = ".journal.tar.gz"
"""How the names of packed journals end."""

PUTTING: Final = 60.0
"""Longest time that the end of a process waits for a packed journal to be put where it is to be, in seconds."""

FAILED: Final = 3
"""Exit code of a process that could not do it, and said why."""

THERE: Final = 4
"""Exit code of a process that left one alone which was there already."""

KEEP: Final = "keep"
"""Tells that process to do so."""

UNPACKED: Final = 8 * 1024**3
"""Bytes that a packed journal may have when it is unpacked. It comes from outside, and a few MB can be made to be many TB."""

MEMORY: Final = 128 * 1024**2
"""Bytes that a journal may have that is packed in memory, because no disk takes it."""

Contents: TypeAlias = "Mapping[str, bytes | Path]"
"""A journal by the names of its files: what is in them, or where that can be read."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_MEMBER: Final = re.compile(r"\d{20}\.seg|progress|refused\.jsonl|files/[0-9a-z]{1,64}")


class CarryingError(StoreError):
    """A packed journal could not be put into its folder, or not be fetched from there."""


class Shelf(Protocol):
    """A folder in which packed journals are."""

    def names(self) -> list[str]:
        """Names of the files in it; none if there is no such folder."""

    def put(self, name: str, source: Path) -> None:
        """Copy a local file to it, whole or not at all."""

    def get(self, name: str, target: Path) -> None:
        """Copy a file of it to a local one."""

    def remove(self, name: str) -> None:
        """Remove a file; no error if it is not there."""


class LocalShelf:
    """A folder of this machine, or one that is mounted there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Names of the files in it."""
        return [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []

    def put(self, name: str, source: Path) -> None:
        """Copy a local file to it, whole or not at all, readable for this user alone."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.path / f".{secrets.token_hex(8)}.part"
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file, source.open("rb") as content:
                shutil.copyfileobj(content, file, 1_048_576)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path / name)
        finally:
            part.unlink(missing_ok=True)

    def get(self, name: str, target: Path) -> None:
        """Copy a file of it to a local one."""
        shutil.copyfile(self.path / name, target)

    def remove(self, name: str) -> None:
        """Remove a file; no error if it is not there."""
        (self.path / name).unlink(missing_ok=True)


class RemoteShelf:
    """A folder of a file system that fsspec knows."""

    def __init__(self, files: Any, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")

    def names(self) -> list[str]:
        """Names of the files in it."""
        try:
            found = self._files.ls(self._root, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        except TypeError:  # a file system that keeps no listing
            found = self._files.ls(self._root, detail=False)
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    def put(self, name: str, source: Path) -> None:
        """Copy a local file to it. Object stores show it when it is whole; elsewhere it gets its name last."""
        part = f"{self._root}/.{secrets.token_hex(8)}.part"
        before = os.umask(0o077)  # it may be a folder of this machine all the same (``simplecache::file://``)
        try:
            with contextlib.suppress(Exception):  # object stores have no folders
                self._files.makedirs(self._root, exist_ok=True)
            self._files.put_file(str(source), part)
        finally:
            os.umask(before)
        self._files.mv(part, f"{self._root}/{name}")

    def get(self, name: str, target: Path) -> None:
        """Copy a file of it to a local one."""
        self._files.get_file(f"{self._root}/{name}", str(target))

    def remove(self, name: str) -> None:
        """Remove a file; no error if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


def shelf(url: str) -> Shelf:
    """The folder that a URL names.

    Raises:
        CarryingError: fsspec, or what it needs for this kind of URL, is not installed; or there is no such kind.
    """
    if (local := _local(url)) is not None:
        return local
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise CarryingError(f"{without_credentials(url)} needs fsspec: install tracklayer[carry]") from None
    try:
        files, root = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise CarryingError(f"{without_credentials(url)} needs a library that is not installed: {error}") from None
    except Exception as error:
        known = "fsspec knows no such kind of URL" if "rotocol not known" in str(error) else type(error).__name__
        raise CarryingError(f"{without_credentials(url)} cannot be used: {known}") from None
    return RemoteShelf(files, root)


def _local(url: str) -> LocalShelf | None:
    """The folder of this machine that a URL names; None for one of far away."""
    parts = urlsplit(url)
    if parts.scheme not in {"", "file", "local"} or parts.netloc not in {"", "localhost"}:
        return None
    return LocalShelf(absolute(Path(unquote(parts.path) if parts.scheme else url).expanduser()))


def contents(journal: Path) -> Contents:
    """What a journal's folder has of it. Raises OSError."""
    paths = {path.relative_to(journal).as_posix(): path for path in journal.rglob("*")}
    return {name: path for name, path in paths.items() if _MEMBER.fullmatch(name) and _is_plain(path)}


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def carry(journal: str, files: Contents, url: str, *, replace: bool = True) -> str | None:
    """Pack a journal and put it into a folder.

    Args:
        journal: the name of its folder, whose lock whoever calls holds; where there is none, what it would be.
        files: what it consists of.
        url: the folder to put it into.
        replace: also where one of this name is there already.

    Returns:
        The name that it has there; None if it was not put there, because another is.

    Raises:
        CarryingError: it could not be put there; nothing is left of it.
    """
    name = journal + SUFFIX
    place = _local(url)
    with _fenced(url), _packed(files) as packed:
        done = (
            _put(place, packed, name, replace=replace) if place else _put_by_another(packed, name, url, replace=replace)
        )
    return name if done else None


def _put(place: Shelf, packed: Path, name: str, *, replace: bool) -> bool:
    if not replace and name in place.names():
        return False
    place.put(name, packed)
    return True


@contextmanager
def _packed(files: Contents) -> Iterator[Path]:
    """Where it is packed: on a disk, or in memory where that takes nothing; it leaves because of that, as likely as not."""
    with contextlib.ExitStack() as opened:
        try:
            packed = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="tracklayer-")), "packed")
            pack(files, packed)
        except OSError as error:
            opened.close()
            if not hasattr(os, "memfd_create"):
                raise
            log.debug("a journal is packed in memory: %s", error)
            file = opened.enter_context(os.fdopen(os.memfd_create("packed", os.MFD_CLOEXEC), "wb"))
            try:
                _pack(files, file, limit=MEMORY)
                file.flush()
            except OSError as failed:
                raise CarryingError(f"{error}, and it is not packed in memory: {failed}") from None
            packed = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        yield packed


def _put_by_another(packed: Path, name: str, url: str, *, replace: bool) -> bool:
    """Let a process of its own do it: the libraries for far away need threads, which the end of a process has not."""
    script = f"import sys; from {__name__} import put; sys.exit(put(*sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(packed), name, url, *([] if replace else [KEEP])],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PUTTING,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CarryingError(f"{without_credentials(url)} took nothing within {PUTTING:.0f} s") from None
    if done.returncode not in {0, THERE}:
        told = done.stderr.decode(errors="replace").strip().splitlines() if done.returncode == FAILED else []
        raise CarryingError(told[-1] if told else f"{without_credentials(url)}: exit code {done.returncode}")
    return done.returncode == 0


def put(packed: str, name: str, url: str, *options: str) -> int:
    """Put a packed journal into a folder; its exit code for a process that does nothing else."""
    try:
        with _fenced(url):
            return 0 if _put(shelf(url), Path(packed), name, replace=KEEP not in options) else THERE
    except CarryingError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED


def pack(files: Contents, target: Path) -> None:
    """Pack a journal into one file, readable for this user alone. Raises OSError."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        _pack(files, file)


def _pack(files: Contents, target: IO[bytes], *, limit: float = math.inf) -> None:
    """As `pack`; also raises OSError if it may have more than so many bytes."""
    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode = 0o600
            with contextlib.suppress(FileNotFoundError), _opened(content) as source:  # else it is delivered meanwhile
                entry.size = source.seek(0, os.SEEK_END)
                source.seek(0)
                if target.tell() + entry.size > limit:
                    raise OSError(f"it may have more than {limit} bytes")
                # What is appended meanwhile belongs to a later position, and to nobody who was answered.
                archive.addfile(entry, source)


def _opened(content: bytes | Path) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def unpack(source: Path, target: Path, *, limit: int = UNPACKED) -> None:
    """Unpack a journal into a new folder. Whatever is in it that is no part of a journal is left out.

    Args:
        source: the packed journal.
        target: the folder, which is made.
        limit: bytes that all of it may have.

    Raises:
        OSError: it is no packed journal, or has more bytes than that.
    """
    left = limit
    (target / "files").mkdir(mode=0o700, parents=True)
    target.chmod(0o700)
    try:
        with tarfile.open(source, mode="r:gz") as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() and _MEMBER.fullmatch(entry.name) else None
                left -= entry.size
                if left < 0:
                    raise OSError(f"it has more than {limit} bytes when it is unpacked")
                if content is not None:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    with os.fdopen(os.open(target / entry.name, flags, 0o600), "wb") as file:
                        shutil.copyfileobj(content, file, 1_048_576)
    except (tarfile.TarError, EOFError) as error:
        raise OSError(f"it is no packed journal: {error}") from error


def carried(url: str) -> list[str]:
    """Names of the packed journals in a folder that nobody claims, the oldest first. Raises CarryingError."""
    return listed(url)[0]


def listed(url: str) -> tuple[list[str], list[str]]:
    """Names of the packed journals in a folder, the oldest first: those that nobody claims, and those that somebody does.

    Raises:
        CarryingError: it cannot be read.
    """
    with _fenced(url):
        names = shelf(url).names()
    packed = sorted(filter(_is_packed, names))
    unclaimed = set(free(names))
    return [name for name in packed if name in unclaimed], [name for name in packed if name not in unclaimed]


def local_folder(url: str) -> Path | None:
    """The folder of this machine that a URL names; None if it names one of far away."""
    place = _local(url)
    return None if place is None else place.path


def missing(url: str) -> Path | None:
    """The folder of this machine that a URL names, if it is not there; None also for one of far away."""
    path = local_folder(url)
    return None if path is None or is_folder(path) else path


def packed_in(folder: Path) -> int:
    """How many packed journals are in a folder of this machine."""
    with contextlib.suppress(OSError):
        return sum(_is_packed(path.name) for path in folder.iterdir())
    return 0


@contextmanager
def fetched(url: str, name: str, *, limit: int = UNPACKED) -> Iterator[tuple[Path, Fetched]]:
    """Claim a packed journal of a folder, unpacked into a temporary one.

    What becomes of it says the second value; unless that says that it is delivered, it is left there at the end, as
    far as it is not.

    Args:
        url: the folder.
        name: its name there.
        limit: bytes that it may have when it is unpacked.

    Raises:
        CarryingError: somebody else delivers it, it cannot be read, it cannot be put back, or what the server refused of it
            cannot be kept beside it.
    """
    place = shelf(url)
    with _fenced(url), claimed(place, name), tempfile.TemporaryDirectory(prefix="tracklayer-") as temporary:
        outcome = Fetched()
        packed, folder = Path(temporary, "packed"), Path(temporary, name.removesuffix(SUFFIX))
        place.get(name, packed)
        unpack(packed, folder, limit=limit)
        try:
            yield folder, outcome
        finally:
            if outcome.delivered:
                outcome.kept = _settle(place, url, name, folder)
        if not outcome.delivered and outcome.changed and folder.is_dir():
            _put_back(place, name, folder)


class Fetched:
    """What becomes of a journal that was fetched.

    Attributes:
        delivered: True if nothing of it is left.
        changed: True if a part of it is delivered, or something was found out about the rest: how often the server failed
            with it, what the server calls its runs.
        kept: names of the files that stay in its place for what the server refused; empty until it is delivered.
    """

    delivered = False
    changed = False
    kept: Sequence[str] = ()


def _settle(place: Shelf, url: str, name: str, folder: Path) -> Sequence[str]:
    """Remove a journal that is delivered, once what the server refused of it is kept in its place; the names of that.

    Where that cannot be done the journal stays, with nothing but that and how far it is delivered: in each round all of it
    would be delivered again else, over what others have made of it since. Raises whatever was in the way.
    """
    try:
        kept = _put_refused(place, name.removesuffix(SUFFIX), folder)
        place.remove(name)
    except Exception as error:
        try:
            if not folder.is_dir():
                raise
            _put_back(place, name, folder)
        except Exception as worse:
            told = f"{name} is delivered, but can be neither removed nor replaced: remove it, or it is delivered again"
            raise CarryingError(f"{told} ({_told(url, worse)})") from error
        raise
    return kept


def _put_back(place: Shelf, name: str, folder: Path) -> None:
    """Let what is left of a fetched journal take the place of what it was."""
    again = folder.with_name("again")
    pack(contents(folder), again)
    place.put(name, again)


def _put_refused(place: Shelf, journal: str, folder: Path) -> Sequence[str]:
    """Put into a journal's place what the server refused of it, with the copies of artifacts among that; their names there."""
    letters = folder / REFUSED
    if not letters.is_file():
        return ()
    files = {f"{journal}.{REFUSED}": letters}
    files |= {f"{journal}.refused-{copy.name}": copy for copy in sorted(folder.glob(f"{FILES}/*"))}
    for name, path in files.items():
        place.put(name, path)
    return tuple(files)


def _is_packed(name: str) -> bool:
    return name.endswith(SUFFIX) and _NAME.fullmatch(name) is not None


@contextmanager
def _fenced(url: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except Claimed as error:
        raise CarryingError(f"{without_credentials(url)}: {error}") from None
    except Exception as error:
        raise CarryingError(f"{without_credentials(url)}: {_told(url, error)}") from error


def _told(url: str, error: Exception) -> str:
    """What went wrong. What a storage library says may hold a signed URL; of local files it is worth knowing."""
    plain = isinstance(error, OSError) and (error.filename or _local(url) is not None)
    return str(error) if plain else type(error).__name__
