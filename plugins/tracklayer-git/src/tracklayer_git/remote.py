"""The repository's URL: read from git's configuration, and freed of credentials."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from tracklayer_git import repository as repositories
from tracklayer_git.revision import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracklayer_git.repository import Repository

_SECTION: Final = re.compile(r'\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]')
_LIMIT: Final = 1024 * 1024
_HOPS: Final = 3
"""How many local clones of local clones are followed to find where the code came from."""


def url_of(repository: Repository, branch: str | None) -> str | None:
    """URL of the remote that `branch` follows, else of ``origin``, else of the only remote; None if there is none.

    A remote that is itself a repository on this machine (Airflow's git bundles clone from a bare copy of their own) is
    followed to its own remote: a path tells nobody where the code came from. A path that leads no further is None.
    """
    for _ in range(_HOPS):
        url = _configured(repository, branch)
        if url is None or not _is_path(url):
            return without_credentials(url) if url else None
        place = Path(url.removeprefix("file://"))
        above = repositories.find((repository.root or repository.git_dir) / place)
        if above is None or above.common_dir == repository.common_dir:
            return None
        repository, branch = above, None
    return None


def without_credentials(url: str) -> str | None:
    """`url` without user, password, query and fragment; None if it is not one.

    The user of an ssh URL is kept, as it is an address and not a secret.

    >>> without_credentials("https://deploy:s3cret@git.example.com/team/flights.git")
    'https://git.example.com/team/flights.git'
    >>> without_credentials("git@git.example.com:team/flights.git")
    'git@git.example.com:team/flights.git'
    """
    text = name_of(url)
    if text is None or "://" not in text:
        return text
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return None
    if parts.scheme in ("ssh", "git+ssh") and "@" in parts.netloc:
        host = f"{parts.netloc.partition('@')[0].partition(':')[0]}@{host}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _configured(repository: Repository, branch: str | None) -> str | None:
    remotes: dict[str, str] = {}
    followed = "origin"
    for section, name, key, value in _entries(repository.common_dir / "config"):
        if section == "remote" and key == "url" and value:
            remotes.setdefault(name, value)
        if section == "branch" and key == "remote" and name == branch:
            followed = value
    if followed in remotes or "origin" in remotes:
        return remotes.get(followed) or remotes["origin"]
    return next(iter(remotes.values())) if len(remotes) == 1 else None


def _entries(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Section, subsection, key and value of each entry: as much of git's format as remotes and branches need."""
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT).decode("utf-8", "replace")
    except OSError:
        return
    section = name = ""
    for line in text.replace("\\\n", "").splitlines():
        stripped = line.strip()
        heading = _SECTION.match(stripped)
        if heading:
            section = heading[1].lower()
            name = re.sub(r"\\(.)", r"\1", heading[2] or "")
            stripped = stripped[heading.end() :].strip()
        key, equals, value = stripped.partition("=")
        if equals and not key.startswith(("#", ";")):
            yield section, name, key.strip().lower(), _value(value)


def _value(text: str) -> str:
    """A value without its quotes and its comment."""
    text = text.strip()
    quoted = re.match(r'"((?:[^"\\]|\\.)*)"', text)
    if quoted:
        return re.sub(r"\\(.)", r"\1", quoted[1])
    return re.split(r"\s[#;]", text, maxsplit=1)[0].strip()


def _is_path(url: str) -> bool:
    """Whether git would take `url` for a folder of this machine (``host:path`` is not, ``C:/path`` is)."""
    if "://" in url:
        return url.startswith("file://")
    before, colon, _ = url.partition(":")
    return not colon or "/" in before or len(before) == 1
