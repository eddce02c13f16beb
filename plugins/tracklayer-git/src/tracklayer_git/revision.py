"""The value that everything here is about: one state of some code, as git knows it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
_LONGEST: Final = 500
"""Longest text that is taken from a repository or a variable, in characters; MLflow cuts tags at 8,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What is known of the code that runs. None always means: unknown.

    Attributes:
        commit: the commit, lower-case hexadecimal (40 digits with SHA-1, 64 with SHA-256; a variable may hold fewer).
        branch: the branch without ``refs/heads/``; None also for a detached HEAD.
        repository: URL of the repository, without credentials.
        tags: tags that point at the commit, sorted; empty also means: unknown.
        dirty: True if tracked files differ from the commit.
    """

    commit: str | None = None
    branch: str | None = None
    repository: str | None = None
    tags: tuple[str, ...] = ()
    dirty: bool | None = None

    def completed(self, other: Revision) -> Revision:
        """This revision with what `other` knows besides, provided that both are of the same commit.

        A revision without a commit takes its commit from the other one, and keeps what it has.

        >>> Revision(commit="a" * 40).completed(Revision(commit="a" * 40, branch="main")).branch
        'main'
        >>> Revision(commit="a" * 40).completed(Revision(commit="b" * 40, branch="main")).branch is None
        True
        """
        if self.commit is not None and not _same(self.commit, other.commit):
            return self
        return replace(
            self,
            commit=self.commit or other.commit,
            branch=self.branch or other.branch,
            repository=self.repository or other.repository,
            tags=self.tags or other.tags,
            dirty=other.dirty if self.dirty is None else self.dirty,
        )


def commit_of(text: str | None) -> str | None:
    """`text` as a commit, or None if it is not one (``HEAD``, an empty variable, a damaged file)."""
    text = (text or "").strip().lower()
    return text if _COMMIT.fullmatch(text) else None


def name_of(text: str | None) -> str | None:
    """A branch's, tag's or repository's name fit for a tag: printable, at most 500 characters; None if nothing is left."""
    kept = "".join(character for character in (text or "").strip() if character.isprintable())
    return kept[:_LONGEST] or None


def _same(one: str, other: str | None) -> bool:
    return other is not None and (one.startswith(other) or other.startswith(one))
