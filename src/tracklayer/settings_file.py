"""The file that settings stand in: found, read, and its table of settings taken out."""

from __future__ import annotations

import logging
import os
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tracklayer.exceptions import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_VARIABLE: Final = "TRACKLAYER_CONFIG"
"""The environment variable that names the file explicitly."""

FILE_NAMES: Final = ("tracklayer.toml", "pyproject.toml")

# Every way to write the table [tool.tracklayer]. Most projects only depend on tracklayer: theirs is not parsed.
_MENTION = re.compile(rb"""tool["'\s]*\.["'\s]*tracklayer|^\s*["']?tracklayer["']?\s*[.=]""", re.MULTILINE)


def find(start: Path | None, explicit: str) -> tuple[Mapping[str, object], Path | None]:
    """The table of settings that applies, and its file; an empty table and None if there is no file.

    Args:
        start: the folder to look in and above; None for the working directory.
        explicit: path of the file to take instead of looking; empty to look.

    Raises:
        SettingsError: the file cannot be read or is no TOML, or the explicit one holds no table of settings.
    """
    if explicit:
        path = Path(explicit).expanduser()
        try:
            table = _table(path, path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{CONFIG_VARIABLE} names {path}, which cannot be read: {error.strerror}") from None
        if table is None:
            raise SettingsError(f"{CONFIG_VARIABLE} names {path}, which has no table [tool.tracklayer]")
        return table, path
    try:
        folder = (start or Path()).absolute()
    except OSError:  # the working directory is gone
        return {}, None
    for path in (place / name for place in (folder, *folder.parents) for name in FILE_NAMES):
        data = _read(path)
        table = None if data is None else _table(path, data)
        if table is not None and not _is_planted(path):
            return table, path
    return {}, None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if not os.path.lexists(path):  # a folder that may not be looked into
            return None
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None


def _table(path: Path, data: bytes) -> Mapping[str, object] | None:
    """The table of settings in a file; None for a ``pyproject.toml`` without one."""
    is_project = path.name == "pyproject.toml"
    if is_project and not _MENTION.search(data):
        return None
    try:
        content = _parse(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    if not is_project:
        return content
    tool = content.get("tool")
    inner = tool.get("tracklayer") if isinstance(tool, dict) else None
    if inner is not None and not isinstance(inner, dict):
        raise SettingsError(f"tool.tracklayer in {path} must be a table, not {type(inner).__name__}")
    return inner


@lru_cache(maxsize=8)
def _parse(data: bytes) -> Mapping[str, Any]:
    """Parsing is the dear part of loading, and a process that opens many stages reads the same bytes each time."""
    return msgspec.toml.decode(data, type=dict[str, Any])


def _is_planted(path: Path) -> bool:
    """Whether anybody might have put the file there for others to find: in /tmp and its like, and not our own."""
    folder = path.parent.stat().st_mode
    if not (folder & stat.S_ISVTX and folder & stat.S_IWOTH) or path.stat().st_uid in {0, os.geteuid()}:
        return False
    logging.getLogger(__name__).warning("%s is ignored: it belongs to another user, in a folder for everybody", path)
    return True
