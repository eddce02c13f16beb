"""A repository read from its files, without the git binary: where it is, its HEAD, its tags, its remote.

What git documents as its repository layout is read, and nothing is ever written: ``HEAD`` (a branch, a commit, a
symbolic link), loose and packed references, ``.git`` files that point elsewhere (worktrees, submodules,
``git clone --separate-git-dir``), bare repositories. References in git's newer *reftable* format are binary; such a
repository has no readable commit here, and `tracklayer_git.status` answers instead.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracklayer_git.revision import commit_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_SMALL: Final = 64 * 1024
"""Most that is read of a file that holds one reference, in bytes."""
_PACKED: Final = 64 * 1024 * 1024
"""Largest ``packed-refs`` that is read, in bytes: about half a million references."""
_LOOSE_TAGS: Final = 2_000
"""Most loose tags that are looked at; ``git gc`` packs them long before."""
_DEPTH: Final = 5
"""How many symbolic references are followed, as many as git itself follows."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Where a repository keeps what.

    Attributes:
        root: top folder of the working tree; None for a bare repository.
        git_dir: the folder of this working tree's own ``HEAD`` and index.
        common_dir: the folder of references and configuration, which several worktrees share; else `git_dir`.
    """

    root: Path | None
    git_dir: Path
    common_dir: Path


@dataclass(frozen=True, slots=True)
class Head:
    """What is checked out: None for a commit that is not there yet or unreadable, and for a detached HEAD's branch."""

    commit: str | None
    branch: str | None


def find(place: Path) -> Repository | None:
    """The repository that holds the file or folder `place`, which need not exist (a DAG inside a zip file).

    Symbolic links are resolved first: what counts is where the code lies. None if no folder upwards is in a repository.
    """
    place = Path(os.path.realpath(place))
    for folder in (place, *place.parents):
        dot_git = folder / ".git"
        if _is_git_dir(dot_git):
            return Repository(folder, dot_git, _common_dir(dot_git))
        if dot_git.is_file():
            text = _read(dot_git, _SMALL)
            if text and text.startswith("gitdir:"):
                git_dir = Path(os.path.normpath(folder / text.removeprefix("gitdir:").strip()))
                if _is_git_dir(git_dir):
                    return Repository(folder, git_dir, _common_dir(git_dir))
        if _is_git_dir(folder):
            return Repository(None, folder, _common_dir(folder))
    return None


def head(repository: Repository) -> Head:
    """What is checked out."""
    text = _read(repository.git_dir / "HEAD", _SMALL)
    if text is None:
        return Head(None, None)
    if not text.startswith("ref:"):
        return Head(commit_of(text), None)
    reference = text.removeprefix("ref:").strip()
    branch = reference.removeprefix("refs/heads/") if reference.startswith("refs/heads/") else None
    if branch == ".invalid":  # a repository with reftable says this to those who cannot read it
        return Head(None, None)
    return Head(_resolve(repository, reference), branch)


def tags_at(repository: Repository, commit: str) -> tuple[str, ...]:
    """Names of the tags that point at `commit`, sorted; annotated ones too, except packed away by a partial repack."""
    return tuple(sorted({*_packed_tags(repository, commit), *_loose_tags(repository, commit)}))


def _is_git_dir(folder: Path) -> bool:
    """Git's own test: a HEAD, and objects and references here or in the common folder."""
    if not (os.path.lexists(folder / "HEAD") and folder.is_dir()):
        return False
    if (folder / "commondir").is_file():
        return True
    return (folder / "objects").is_dir() and (folder / "refs").is_dir()


def _common_dir(git_dir: Path) -> Path:
    text = _read(git_dir / "commondir", _SMALL)
    return Path(os.path.normpath(git_dir / text.strip())) if text and text.strip() else git_dir


def _resolve(repository: Repository, reference: str, depth: int = _DEPTH) -> str | None:
    """The commit of a full reference name (``refs/heads/main``)."""
    if not reference.startswith("refs/") or ".." in reference.split("/") or depth == 0:
        return None
    for folder in dict.fromkeys((repository.git_dir, repository.common_dir)):
        text = _read(folder / reference, _SMALL)
        if text is not None:
            if text.startswith("ref:"):
                return _resolve(repository, text.removeprefix("ref:").strip(), depth - 1)
            return commit_of(text)
    ending = f" {reference}"
    packed = _read(repository.common_dir / "packed-refs", _PACKED) or ""
    position = packed.find(f"{ending}\n")
    if position < 0:
        return None
    return commit_of(packed[packed.rfind("\n", 0, position) + 1 : position])


def _packed_tags(repository: Repository, commit: str) -> Iterator[str]:
    """Each line is ``<object> <reference>``; the line after an annotated tag is ``^<commit>``."""
    packed = _read(repository.common_dir / "packed-refs", _PACKED) or ""
    position = packed.find(commit)
    while position >= 0:
        start = packed.rfind("\n", 0, position) + 1
        if packed[start:position] == "^":
            start = packed.rfind("\n", 0, max(start - 1, 0)) + 1
        _, _, reference = packed[start : packed.find("\n", start)].partition(" ")
        if reference.startswith("refs/tags/"):
            yield reference.removeprefix("refs/tags/")
        position = packed.find(commit, position + 1)


def _loose_tags(repository: Repository, commit: str) -> Iterator[str]:
    top = repository.common_dir / "refs" / "tags"
    seen = 0
    for folder, _, files in os.walk(top):
        for file in files:
            seen += 1
            if seen > _LOOSE_TAGS:
                return
            path = Path(folder, file)
            target = commit_of(_read(path, _SMALL))
            if target and commit in (target, _tagged(repository, target)):
                yield path.relative_to(top).as_posix()


def _tagged(repository: Repository, digest: str) -> str | None:
    """What an annotated tag's loose object points at; None if it is another kind of object, or packed."""
    path = repository.common_dir / "objects" / digest[:2] / digest[2:]
    try:
        with path.open("rb") as file:
            content = zlib.decompressobj().decompress(file.read(_SMALL), 1024)
    except (OSError, zlib.error):
        return None
    header, _, body = content.partition(b"\0")
    first, _, _ = body.partition(b"\n")
    if not (header.startswith(b"tag ") and first.startswith(b"object ")):
        return None
    return commit_of(first.removeprefix(b"object ").decode("ascii", "replace"))


def _read(path: Path, limit: int) -> str | None:
    """The text of a small file; None if it cannot be read or is over the limit, which no such file is."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError):
        return None
    return None if len(content) > limit else content.decode("utf-8", "replace")
