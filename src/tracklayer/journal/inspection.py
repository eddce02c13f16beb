"""What can be said about a journal without touching it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from errno import EACCES, EIO, EPERM
from typing import TYPE_CHECKING, Final, Literal

from tracklayer.journal.files import FOLDER as FILES
from tracklayer.journal.folder import is_settled
from tracklayer.journal.lock import Lock
from tracklayer.journal.operations import Artifact, Gone, Header
from tracklayer.journal.progress import Progress
from tracklayer.journal.record import Damage, Record, scan
from tracklayer.journal.segments import load, stop_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

State = Literal["live", "left", "delivered", "damaged"]


_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalInfo:
    """A journal as it was found.

    Attributes:
        name: name of its folder.
        path: its folder.
        state: ``live``: a process writes or delivers it; ``damaged``: nobody does, and parts of it cannot be read;
            ``left``: its process ended before all of it was delivered, or before it could say so; ``delivered``: it is
            kept only for the values that the server refused.
        header: what its writer said; None if that cannot be read.
        size: bytes that it takes on the disk, copies of artifacts included.
        records: how many operations are in it.
        delivered: everything before this position is delivered.
        end: position behind the last record that can be read.
        left: how many operations are left to deliver.
        files: how many copies of artifacts are in it.
        refused: how many values the server refused.
        oldest: when the first record that is left was written, in milliseconds since the epoch; None without any.
        newest: the same for the last one.
        damages: the parts that cannot be read, a torn tail among them (which is no fault).
        missing: artifacts that are to be delivered and whose copies are gone, by their paths.
    """

    name: str
    path: Path
    state: State
    header: Header | None
    size: int
    records: int
    delivered: int
    end: int
    left: int
    files: int
    refused: int
    oldest: int | None
    newest: int | None
    damages: tuple[Damage, ...]
    missing: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """True if everything that was acknowledged is there."""
        return not self.missing and all(damage.torn for damage in self.damages)

    @property
    def forbidden(self) -> bool:
        """True if nothing is known to be wrong with it, and this user may not read all of it."""
        wrong = [damage for damage in self.damages if not damage.torn]
        return bool(wrong) and not self.missing and all(damage.errno in (EACCES, EPERM) for damage in wrong)


def inspect(path: Path) -> JournalInfo | None:
    """Look at one journal; None if it is gone by now, or not ours to read."""
    for _ in range(_ATTEMPTS):
        info = _inspect(path)
        if info is not None or not path.exists():  # a part of it may have been delivered, and removed, meanwhile
            return info
    return None


def _inspect(path: Path) -> JournalInfo | None:
    try:
        live = Lock.is_held(path)
        progress = Progress(path, writable=False)
        header: Header | None = None
        oldest: int | None = None
        newest: int | None = None
        damages: list[Damage] = []
        missing: list[str] = []
        records = end = left = 0
        for item in walk(path):
            if isinstance(item, Damage):
                damages.append(item)
                continue
            if isinstance(item.operation, Header):
                header = header or item.operation
            elif not isinstance(item.operation, Gone):
                records += 1
                is_left = progress.is_left(item)
                left += is_left
                if isinstance(item.operation, Artifact) and is_left:
                    try:
                        missing += _missing(path, item.operation)
                    except PermissionError as error:
                        what = f"the copy of the artifact {item.operation.path}"
                        damages.append(_unread(what, item.position, item.next, error))
            end = item.next
            oldest, newest = item.at if oldest is None else oldest, item.at
        size = sum(_sizes(path))
        copies = sum(1 for _ in path.glob(f"{FILES}/*"))
    except OSError:
        return None
    broken = any(not damage.torn for damage in damages)
    state: State = "live" if live else "damaged" if broken else "delivered" if is_settled(path) else "left"
    return JournalInfo(
        name=path.name,
        path=path,
        state=state,
        header=header,
        size=size,
        records=records,
        delivered=progress.delivered,
        end=end,
        left=left,
        files=copies,
        refused=progress.refused,
        oldest=oldest,
        newest=newest,
        damages=tuple(damages),
        missing=tuple(missing),
    )


def _missing(path: Path, artifact: Artifact) -> Iterator[str]:
    if not (path / FILES / artifact.file).is_file():
        yield artifact.path


def _sizes(path: Path) -> Iterator[int]:
    """Bytes of each file, as far as this user may look."""
    for file in path.rglob("*"):
        with contextlib.suppress(PermissionError):
            if file.is_file():
                yield file.stat().st_size


def _unread(what: str, start: int, end: int, error: OSError) -> Damage:
    return Damage(start, end, f"{what} cannot be read: {error.strerror or error}", torn=False, errno=error.errno or EIO)


def followed(path: Path) -> Iterator[Record | Damage]:
    """As `walk`, while it is delivered: parts that are delivered before they were read, and are gone, are passed over."""
    position = -1
    for _ in range(_ATTEMPTS):
        try:
            for item in walk(path):
                if item.position > position:
                    position = item.position
                    yield item
        except FileNotFoundError:
            continue
        return


def walk(path: Path) -> Iterator[Record | Damage]:
    """Everything in a journal, in order: its records, and the parts that cannot be read, whole files among them.

    Raises:
        FileNotFoundError: a part of it was delivered, and removed, meanwhile, or all of it.
    """
    try:
        segments = load(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        yield _unread("the folder", 0, 0, error)
        return
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        cut: Damage | None = None
        try:
            data = segment.read(segment.start, stop_of(segments, index) - segment.start)
        except FileNotFoundError:
            raise
        except OSError as error:
            end = segment.start if last else segments[index + 1].start
            yield _unread("the file", segment.start, end, error)
            continue
        for item in scan(data, segment.start, last=last):
            if isinstance(item, Damage) and item.next == segment.start + len(data):
                cut = item
            else:
                yield item
        if not last and segment.start + len(data) < segments[index + 1].start:
            position = segment.start + len(data) if cut is None else cut.position
            cut = Damage(position, segments[index + 1].start, "the end of the file is missing", torn=False)
        if cut is not None:
            yield cut
