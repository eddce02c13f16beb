"""A journal that comes from outside is unpacked, but not whatever somebody made of it."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from tracklayer.journal.carrying import unpack

if TYPE_CHECKING:
    from pathlib import Path

MB = 1_000_000


def packed(path: Path, sizes: dict[str, int]) -> Path:
    with tarfile.open(path, mode="w:gz") as archive:
        for name, size in sizes.items():
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(bytes(size)))
    return path


def test_what_grows_beyond_all_bounds_is_not_unpacked(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb", {"0" * 20 + ".seg": 2 * MB, "files/a": 2 * MB})
    assert bomb.stat().st_size < MB // 10
    with pytest.raises(OSError, match="more than 3000000 bytes"):
        unpack(bomb, tmp_path / "out", limit=3 * MB)
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file()) <= 3 * MB


def test_what_no_journal_has_counts_although_it_is_left_out(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb", {"elsewhere": 4 * MB})
    with pytest.raises(OSError, match="more than"):
        unpack(bomb, tmp_path / "out", limit=3 * MB)


def test_a_journal_is_unpacked(tmp_path: Path) -> None:
    unpack(packed(tmp_path / "packed", {"progress": 10, "files/a": 20}), tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()} == {"progress", "a"}
