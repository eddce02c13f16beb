"""Settings files as tests write them, and what is said of settings that are refused."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from tracklayer.exceptions import SettingsError
from tracklayer.settings import load

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, name: str, text: str) -> Path:
    """Write a file into a folder, which is made if need be; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return folder / name


def problem(*args: object, **kwargs: object) -> str:
    """What `load` says when it refuses, as it must, what these arguments lead to."""
    with pytest.raises(SettingsError) as raised:
        load(*args, **kwargs)  # type: ignore[arg-type]
    return str(raised.value)
